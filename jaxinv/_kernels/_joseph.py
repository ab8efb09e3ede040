"""The fast form of Joseph's line integrals and their exact adjoint, both as gathers.

P. M. Joseph, "An Improved Algorithm for Reprojecting Rays through Pixel Images", 1982.

A ray steps from one row of pixels to the next if it is steep, and otherwise from column to column, and interpolates
linearly between its two neighbouring pixels: it weighs the image, continued by zero, by hat functions. The forward
projection loops over the lines of the image, each for all rays at once; the adjoint loops over the views, each for all
pixels at once, and a pixel gathers the few rays that pass within one pixel of it. The data of one step fit the cache.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from .._workarounds import rounded
from . import _joseph_reference
from ._beams import Beam, Shadows, all_rays, half_step, num_taps
from ._linear_map import UNROLL, accumulate, apply, gather

# Forward, one term in a pass is as fast as `UNROLL` terms from the large batch on; for the adjoint this also holds up
# to the small batch, and always for fans.
_LARGE_BATCH = 64
_SMALL_BATCH = 4


def project(beam: Beam, x: Array, angles: Array, offsets: Array) -> Array:
    """The line integrals of an image `(h, w, c)`: a sinogram `(angles, detectors, c)`."""
    return apply(_Joseph(beam, angles.shape[0]), x, angles, offsets)


def back_project(beam: Beam, y: Array, angles: Array, offsets: Array) -> Array:
    """The adjoint of `project`, which is its transpose."""
    return apply(_Joseph(beam, angles.shape[0]), y, angles, offsets, transposed=True)


@dataclasses.dataclass(frozen=True)
class _Joseph:
    beam: Beam
    num_angles: int

    @property
    def input_shape(self) -> tuple[int, int]:
        return self.beam.shape

    @property
    def output_shape(self) -> tuple[int, int]:
        return self.num_angles, self.beam.num_detectors

    def forward(self, x: Array, angles: Array, offsets: Array, *, wide: bool) -> Array:
        h, w, batch = x.shape
        rays = all_rays(self.beam, angles, offsets)
        length = max(h, w)
        # Line i holds row i, then column i, each between two pairs of zeros that represent the outside of the image.
        margins = lambda this, other: ((0, length - this), (2, 2 + length - other), (0, 0))
        rows = jnp.pad(x, margins(h, w))
        columns = jnp.pad(jnp.swapaxes(x, 0, 1), margins(w, h))
        lines = jnp.concatenate([rows, columns], axis=1)
        # The index of pixel `w // 2` of a row, or `h // 2` of a column, in a line.
        middle = jnp.where(rays.steep, w // 2, length + 4 + h // 2) + 2
        low = jnp.where(rays.steep, 0, length + 4)
        half = jnp.where(rays.steep, half_step(w), half_step(h))
        number = lambda size: jnp.arange(length, dtype=rays.origin.dtype) - (size - 1) / 2
        rays = dataclasses.replace(rays, origin=rounded(rays.origin) + half)

        def interpolate_line(item: tuple[Array, ...]) -> Array:
            line, along_rows, along_columns = item
            j = rays.crossing(jnp.where(rays.steep, along_rows, along_columns))
            lower = jnp.floor(j)
            # Clip the integer, since clipping a NaN would not bound it.
            index = jnp.clip(middle + lower.astype(low.dtype), low, low + length + 2)
            pixel, beside = gather(line, index), gather(line, index + 1)
            return pixel + (j - lower)[..., None] * (beside - pixel)

        init = jnp.zeros_like(x, shape=(*self.output_shape, batch))
        unroll = UNROLL if batch < _LARGE_BATCH else 1
        total = accumulate(interpolate_line, init, (lines, number(h), number(w)), unroll=unroll, wide=wide)
        return total * rays.weight[..., None]

    def transpose(self, y: Array, angles: Array, offsets: Array, *, wide: bool) -> Array:
        beam, taps = self.beam, num_taps(self.beam)
        middle = beam.num_detectors // 2
        weight = all_rays(beam, angles, offsets).weight / beam.reach(angles, offsets)
        views = jnp.pad(y * weight[..., None], ((0, 0), (taps, taps), (0, 0)))

        def gather_view(item: tuple[Array, Shadows, Array, Array]) -> Array:
            view, shadows, t, offset = item
            first = jnp.ceil(shadows.place() - beam.half_width).astype(jnp.int32)
            index = taps + jnp.clip(middle + first, -taps, beam.num_detectors)
            bins = (index - (taps + middle)).astype(y.dtype)
            hats = beam.hats(bins, t, offset)
            total = jnp.zeros((), y.dtype)
            for tap in range(taps):
                total = total + hats(tap)[..., None] * gather(view, index + tap)
            return total

        init = jnp.zeros_like(y, shape=(*self.input_shape, y.shape[-1]))
        some = _SMALL_BATCH < y.shape[-1] < _LARGE_BATCH
        unroll = UNROLL if some else 1
        items = (views, beam.shadows(angles, offsets), angles, offsets)
        return accumulate(gather_view, init, items, unroll=unroll, wide=wide)

    def reference(self, x: Array, angles: Array, offsets: Array) -> Array:
        return _joseph_reference.project(self.beam, x, angles, offsets)

    def reference_transpose(self, y: Array, angles: Array, offsets: Array) -> Array:
        return _joseph_reference.back_project(self.beam, y, angles, offsets)
