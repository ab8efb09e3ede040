"""Joseph's line integrals and their adjoint in a form that JAX differentiates in the geometry.

This form gives the derivatives of the fast form in angles and offsets, and tests compare the fast form with it. Both
directions compute the weight of a ray at a pixel by the same expression for the crossing point, so they match to
rounding.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._workarounds import rounded
from ._beams import Beam, Rays, Shadows, all_rays, half_step, num_taps

# Entries of the index arrays in one step of the loop, for few steps and bounded memory.
_CHUNK = 2**20
# The margin, in detector bins, of the window of rays of a pixel, against rounding in the position of the window.
_GUARD = 0.05


def project(beam: Beam, x: Array, angles: Array, offsets: Array) -> Array:
    """The line integrals of an image `(h, w, c)`: a sinogram `(angles, detectors, c)`."""
    h, w, c = x.shape
    # A ring of zeros represents the outside of the image, so that no access needs a mask.
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0))).reshape(-1, c)
    line = jnp.arange(max(h, w))[:, None]

    # Rematerialise, so that differentiation stores the rays and not every index and weight of every angle.
    @jax.checkpoint
    def view(ray: Rays) -> Array:
        steep = ray.steep[None]
        size, middle = jnp.where(steep, w, h), jnp.where(steep, w // 2, h // 2)
        number = line - jnp.where(steep, (h - 1) / 2, (w - 1) / 2).astype(x.dtype)
        ray = jax.tree.map(lambda field: field[None], ray)
        ray = dataclasses.replace(ray, origin=rounded(ray.origin))
        j = ray.crossing(number) + jnp.where(steep, half_step(w), half_step(h)).astype(x.dtype)
        j = jnp.clip(j, -1 - middle, size - middle)
        lower = jnp.minimum(jnp.floor(j), size - 1 - middle)
        upper_weight = (j - lower)[..., None]
        i = jnp.minimum(line, jnp.where(steep, h, w)) + 1
        lower = lower.astype(i.dtype) + middle + 1
        first = jnp.where(steep, i * (w + 2) + lower, lower * (w + 2) + i)
        second = first + jnp.where(steep, 1, w + 2)
        values = (1 - upper_weight) * _gather(padded, first) + upper_weight * _gather(padded, second)
        return ray.weight[0, :, None] * jnp.sum(values, axis=0)

    batch_size = max(1, _CHUNK // (max(h, w) * beam.num_detectors))
    return jax.lax.map(view, all_rays(beam, angles, offsets), batch_size=min(batch_size, angles.shape[0]))


def back_project(beam: Beam, y: Array, angles: Array, offsets: Array) -> Array:
    """The adjoint of `project`."""
    num_angles, num_detectors, c = y.shape
    h, w = beam.shape
    rays, taps = all_rays(beam, angles, offsets), num_taps(beam) + 1
    flat = y.reshape(-1, c)
    column = (jnp.arange(w, dtype=y.dtype) - (w - 1) / 2)[None, None, :]
    tap = jnp.arange(taps)[:, None, None]
    angle = jnp.arange(num_angles)[None, :, None]
    places = jax.vmap(Shadows.place, out_axes=1)(beam.shadows(angles, offsets))

    @jax.checkpoint
    def image_row(row: Array, place: Array) -> Array:
        k = jnp.ceil(place - (beam.half_width + _GUARD)).astype(tap.dtype)[None] + (num_detectors // 2 + tap)
        inside = (k >= 0) & (k < num_detectors)
        k = jnp.clip(k, 0, num_detectors - 1)

        def of_ray(field: Array) -> Array:
            if field.shape[1] == 1:
                return field[None]
            return _gather(field.reshape(-1), angle * num_detectors + k)

        ray = jax.tree.map(of_ray, rays)
        distance = ray.crossing(jnp.where(ray.steep, row, column)) - jnp.where(ray.steep, column, row)
        weight = jnp.where(inside, jnp.maximum(0, 1 - jnp.abs(distance)) * ray.weight, 0)
        return jnp.sum(weight[..., None] * _gather(flat, angle * num_detectors + k), axis=(0, 1))

    batch_size = max(1, _CHUNK // (taps * num_angles * w))
    return jax.lax.map(
        lambda xs: image_row(*xs),
        (jnp.arange(h, dtype=y.dtype) - (h - 1) / 2, places),
        batch_size=min(batch_size, h),
    )


def _gather(table: Array, index: Array) -> Array:
    return table.at[index].get(mode="clip")
