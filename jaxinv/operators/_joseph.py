"""Joseph's line integrals and their exact adjoint, both as gathers.

P. M. Joseph, "An Improved Algorithm for Reprojecting Rays through Pixel Images", 1982.

A ray steps from one row of pixels to the next if it is steep, else from column to column, and interpolates linearly
between the two pixels that it passes between: it sees the image, continued by zero, through hat functions. Forward,
each ray gathers two pixels of every row; adjoint, each pixel gathers the few rays that pass within one pixel of it.
Both get the weight of a ray at a pixel from the same expression for the crossing point, so they match to rounding.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

# Entries of the index arrays that are worked on at once: few steps of the loop, and memory that stays bounded.
_CHUNK = 2**20
# At exact odd multiples of pi/4 rounding would decide between rows and columns, differently in each program and dtype.
_STEEP = 1 - 1e-4
# Widens, in detector bins, the window of rays that a pixel looks at, against rounding in the position of the window.
_GUARD = 0.05


class Rays(eqx.Module):
    """All rays of a scan, each field `(angles, detectors)` or `(angles, 1)`, in units of pixels.

    - `steep`: whether the ray steps along rows, `i` being the row and `j` the column; else they change places.
    - `start`, `step`: it crosses line `i` at pixel `j = start + step * (i - centre)`, of the line through the centre.
    - `weight`: the length of a step, in the unit of `pixel_size`.
    """

    steep: Array
    start: Array
    step: Array
    weight: Array


def make_rays(normal: tuple[Array, Array], length: Array, offset: Array, shape: tuple[int, ...], pixel: float) -> Rays:
    """The rays `x normal_x + y normal_y = offset`, where `length` is that of the normal."""
    normal_x, normal_y = normal
    h, w, _ = shape
    steep = jnp.abs(normal_x) >= _STEEP * jnp.abs(normal_y)
    across = jnp.where(steep, normal_x, normal_y)
    along = jnp.where(steep, normal_y, normal_x)
    shift = offset / (across * pixel)
    # Rows count downwards, against y.
    start = jnp.where(steep, (w - 1) / 2 + shift, (h - 1) / 2 - shift)
    return Rays(steep, start, along / across, pixel * length / jnp.abs(across))


def project(image: Array, rays: Rays, codomain: tuple[int, ...]) -> Array:
    """The line integrals of an image `(h, w, c)`: a sinogram `(angles, detectors, c)`."""
    h, w, c = image.shape
    num_angles, num_detectors, _ = codomain
    # A ring of zeros stands for all that is outside the image, so that no access needs a mask.
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0))).reshape(-1, c)
    line = jnp.arange(max(h, w))[:, None]

    # Rematerialised, so that differentiation keeps the rays and not every index and weight of every angle.
    @jax.checkpoint
    def view(ray: Rays) -> Array:
        steep = ray.steep[None]
        size = jnp.where(steep, w, h)
        j = jnp.clip(_crossing(steep, ray.start[None], ray.step[None], line, (h, w)), -1, size)
        lower = jnp.minimum(jnp.floor(j), size - 1)
        upper_weight = (j - lower)[..., None]
        i = jnp.minimum(line, jnp.where(steep, h, w)) + 1
        lower = lower.astype(i.dtype) + 1
        first = jnp.where(steep, i * (w + 2) + lower, lower * (w + 2) + i)
        second = first + jnp.where(steep, 1, w + 2)
        values = (1 - upper_weight) * _gather(padded, first) + upper_weight * _gather(padded, second)
        return ray.weight[:, None] * jnp.sum(values, axis=0)

    batch_size = max(1, _CHUNK // (max(h, w) * num_detectors))
    return jax.lax.map(view, rays, batch_size=min(batch_size, num_angles))


def num_taps(pixel: float, spacing: float, magnification: float = 1.0) -> int:
    """How many rays of one view, at most, pass within one pixel of a pixel, plus a guard."""
    return math.ceil(2 * pixel * magnification / spacing + 2 * _GUARD)


def back_project(sinogram: Array, rays: Rays, nearest: Array, taps: int, half_width: float) -> Array:
    """The adjoint of `project`.

    - `sinogram`: `(angles, detectors, c)`.
    - `nearest`: where each pixel falls on the detector of each view, in bins, `(h, angles, w)`.
    - `half_width`: how far on the detector, in bins, the rays reach that pass within one pixel of a pixel, at most.
    """
    num_angles, num_detectors, c = sinogram.shape
    h, _, w = nearest.shape
    flat = sinogram.reshape(-1, c)
    column = jnp.arange(w)[None, None, :]
    tap = jnp.arange(taps)[:, None, None]
    angle = jnp.arange(num_angles)[None, :, None]

    @jax.checkpoint
    def image_row(row: Array, nearest: Array) -> Array:
        k = jnp.ceil(nearest - (half_width + _GUARD)).astype(tap.dtype)[None] + tap
        inside = (k >= 0) & (k < num_detectors)
        k = jnp.clip(k, 0, num_detectors - 1)

        def of_ray(field: Array) -> Array:
            if field.shape[1] == 1:
                return field[None]
            return _gather(field.reshape(-1), angle * num_detectors + k)

        steep = of_ray(rays.steep)
        line = jnp.where(steep, row, column)
        j = _crossing(steep, of_ray(rays.start), of_ray(rays.step), line, (h, w))
        hat = jnp.maximum(0, 1 - jnp.abs(j - jnp.where(steep, column, row)))
        weight = jnp.where(inside, hat * of_ray(rays.weight), 0)
        return jnp.sum(weight[..., None] * _gather(flat, angle * num_detectors + k), axis=(0, 1))

    batch_size = max(1, _CHUNK // (taps * num_angles * w))
    return jax.lax.map(lambda xs: image_row(*xs), (jnp.arange(h), nearest), batch_size=min(batch_size, h))


def _crossing(steep: Array, start: Array, step: Array, line: Array, size: tuple[int, int]) -> Array:
    """At which pixel a ray crosses a line; the one expression that the forward projection and its adjoint share."""
    h, w = size
    return start + step * (line - jnp.where(steep, (h - 1) / 2, (w - 1) / 2).astype(step.dtype))


def _gather(table: Array, index: Array) -> Array:
    return table.at[index].get(mode="clip")
