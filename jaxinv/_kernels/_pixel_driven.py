"""The pixel-driven back-projection with linear interpolation in each view, for filtered back-projection."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._beams import Beam, Shadows
from ._linear_map import UNROLL, accumulate, apply, gather


def back_project_views(beam: Beam, views: Array, angles: Array, offsets: Array) -> Array:
    """The sum over the views `(angles, detectors, c)` of their values at the position of each pixel, `(h, w, c)`.

    A view of a fan beam has the weight `(source_origin / depth)^2`. Beyond the detector a view is zero.
    """
    return apply(_PixelDriven(beam, angles.shape[0]), views, angles, offsets)


@dataclasses.dataclass(frozen=True)
class _PixelDriven:
    beam: Beam
    num_angles: int

    @property
    def input_shape(self) -> tuple[int, int]:
        return self.num_angles, self.beam.num_detectors

    @property
    def output_shape(self) -> tuple[int, int]:
        return self.beam.shape

    def forward(self, x: Array, angles: Array, offsets: Array, *, wide: bool) -> Array:
        beam, last = self.beam, self.beam.num_detectors
        padded = jnp.pad(x, ((0, 0), (2, 2), (0, 0)))

        # Rematerialise, so that differentiation does not store the indices and weights of all views.
        @jax.checkpoint
        def contribution(item: tuple[Array, Shadows]) -> Array:
            view, shadows = item
            place = shadows.place()
            lower = jnp.floor(place)
            index = jnp.clip(last // 2 + lower.astype(jnp.int32), -2, last) + 2
            bin, beside = gather(view, index), gather(view, index + 1)
            value = bin + (place - lower)[..., None] * (beside - bin)
            return value / shadows.distance()[..., None] ** 2

        init = jnp.zeros_like(x, shape=(*self.output_shape, x.shape[-1]))
        return accumulate(contribution, init, (padded, beam.shadows(angles, offsets)), unroll=UNROLL, wide=wide)

    def transpose(self, y: Array, angles: Array, offsets: Array, *, wide: bool) -> Array:
        example = jnp.zeros_like(y, shape=(*self.input_shape, y.shape[-1]))
        return jax.linear_transpose(lambda x: self.forward(x, angles, offsets, wide=wide), example)(y)[0]

    def reference(self, x: Array, angles: Array, offsets: Array) -> Array:
        return self.forward(x, angles, offsets, wide=False)

    def reference_transpose(self, y: Array, angles: Array, offsets: Array) -> Array:
        return self.transpose(y, angles, offsets, wide=False)
