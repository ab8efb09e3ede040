"""The static geometry of the two tomographs: the paths of their rays, and the distances of rays and pixels.

Images are `(h, w)`, views `(angles, detectors)`. `t` is the angle of a view, `offset` the position of the middle of its
detector: the forward projection and its adjoint compute rays by the same function of them, and so agree to rounding.

The position of a pixel or ray decides which entries are read, and with which weights. XLA computes such a position anew
in each kernel that uses it, and LLVM rounds `a * b + c` once in one kernel and twice in another: at a position that is
exactly an integer, the indices of the entries and their weights could then belong to neighbouring positions. Therefore
positions are sums and quotients of numbers that are in memory or `rounded`, which have the same value in every kernel.
`benchmarks/two_roundings.py` shows the effect in a program without this library.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._workarounds import rounded

# Without this factor, rounding would decide between rows and columns at odd multiples of pi/4, differently in each
# program and dtype.
_STEEP = 1 - 1e-4


class Rays(eqx.Module):
    """Rays in units of pixels; the fields broadcast against each other.

    - `steep`: whether the ray steps from row to row, with row `i` and column `j`; otherwise it steps from column to
      column, with column `i` and row `j`.
    - `origin`, `step`: the ray crosses line `i` at pixel `j = origin + step * i`, where both count from the middle
      `(n - 1) / 2`, since float32 resolves small numbers better.
    - `weight`: the length of a step, in the unit of `pixel_size`.
    """

    steep: Array
    origin: Array
    step: Array
    weight: Array

    def crossing(self, line: Array) -> Array:
        """The pixel at which the rays cross a line; both directions of the projection use this function."""
        return self.origin + rounded(self.step * line)


@dataclasses.dataclass(frozen=True)
class ParallelRays:
    """The lines `x cos t + y sin t = s`."""

    shape: tuple[int, int]
    num_detectors: int
    detector_spacing: float
    pixel_size: float

    def rays(self, bins: Array, t: Array, offset: Array) -> Rays:
        """The rays to `bins`, counted from number `num_detectors // 2`."""
        s = detector_positions(bins, self.num_detectors, self.detector_spacing) + offset
        return _make_rays((jnp.cos(t), jnp.sin(t)), jnp.ones_like(t), s / self.pixel_size, self.pixel_size)

    def shadows(self, angles: Array, offsets: Array) -> "Shadows":
        """The positions of the pixels on the detector in all views."""
        return _shadows(self, angles, offsets, magnification=1.0)

    def reach(self, angles: Array, offsets: Array) -> Array:
        """By what the hats of the rays of all views are multiplied, broadcasting to `(angles, detectors)`."""
        del offsets
        return jnp.ones((1, 1), angles.dtype)

    def hats(self, bins: Array, t: Array, offset: Array) -> Callable[[int], Array]:
        """The hat functions of one view: `hats(k)` is that of ray `bins + k` at each pixel, times `reach`, `(h, w)`."""
        h, w = self.shape
        row = (jnp.arange(h, dtype=bins.dtype) - (h - 1) / 2)[:, None]
        column = (jnp.arange(w, dtype=bins.dtype) - (w - 1) / 2)[None, :]

        def hat(k: int) -> Array:
            rays = self.rays(bins + k, t, offset)
            distance = rays.crossing(jnp.where(rays.steep, row, column)) - jnp.where(rays.steep, column, row)
            return jnp.maximum(0, 1 - jnp.abs(distance))

        return hat

    @property
    def half_width(self) -> float:
        """The largest distance on the detector, in bins, of a pixel and a ray that passes within one pixel of it."""
        return self.pixel_size / self.detector_spacing


@dataclasses.dataclass(frozen=True)
class FanRays:
    """The lines from the source, at `(sin t, -cos t) * source_origin`, to the bins of a flat detector."""

    shape: tuple[int, int]
    num_detectors: int
    detector_spacing: float
    pixel_size: float
    source_origin: float
    origin_detector: float

    def rays(self, bins: Array, t: Array, offset: Array) -> Rays:
        """The rays to `bins`, counted from number `num_detectors // 2`."""
        # The ray has direction s (cos, sin) + (-sin, cos), and its distance from the origin is source_origin * s.
        s = self._slope(bins, offset)
        cos, sin = jnp.cos(t), jnp.sin(t)
        distance = (self.source_origin / self.pixel_size) * s
        return _make_rays((cos + s * sin, sin - s * cos), jnp.sqrt(1 + s**2), distance, self.pixel_size)

    def shadows(self, angles: Array, offsets: Array) -> "Shadows":
        """The positions of the pixels on the detector in all views; a depth is in units of `source_origin`."""
        x, y = _pixel_positions(self.shape, self.pixel_size / self.source_origin, angles.dtype)
        cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
        depth = 1 - rounded(x * sin), rounded(y * cos)
        return _shadows(self, angles, offsets, magnification=self._source_detector / self.source_origin, depth=depth)

    def reach(self, angles: Array, offsets: Array) -> Array:
        """By what the hats of the rays of all views are multiplied, `(angles, detectors)`: see `hats`."""
        slope = self._slope(all_bins(self.num_detectors, angles.dtype)[None], offsets[:, None])
        cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
        return _dominant(cos + slope * sin, sin - slope * cos)

    def hats(self, bins: Array, t: Array, offset: Array) -> Callable[[int], Array]:
        """The hat functions of one view: `hats(k)` is that of ray `bins + k` at each pixel, times `reach`, `(h, w)`.

        Along its dominant axis, the ray of slope `s` passes a pixel at the distance `|s depth - across| / reach`, where
        `depth` and `across` are the position of the pixel along the central ray, from the source, and across it, and
        `reach` is the larger component of the normal. So there is no division for each ray and pixel, as `rays` has.
        """
        x, y = _pixel_positions(self.shape, 1.0, bins.dtype)
        x, y = x, y[0][:, None]
        cos, sin = jnp.cos(t), jnp.sin(t)
        depth = (self.source_origin / self.pixel_size - x * sin) + y * cos
        across = x * cos + y * sin
        slope, step = self._slope(bins, offset), self.detector_spacing / self._source_detector

        def hat(k: int) -> Array:
            s = slope + k * step
            reach = _dominant(cos + s * sin, sin - s * cos)
            return jnp.maximum(0, reach - jnp.abs(s * depth - across))

        return hat

    @property
    def half_width(self) -> float:
        """The largest distance on the detector, in bins, of a pixel and a ray that passes within one pixel of it.

        Two rays that cross a row or column one pixel apart are `SDD / (L cos gamma)` pixels apart on the detector; `L`
        is the depth of the crossing, `gamma` the angle of the ray with the central one. The largest such value over the
        image padded by a pixel, at any angle, is attained on the circle around it, where that is
        `sqrt(L^2 + xi^2) / L^2` with `L = so - r cos(phi)`, `xi = r sin(phi)`.
        """
        so, r = self.source_origin, padded_radius(self.shape, self.pixel_size)
        cos = min(1.0, (so**2 + 2 * r**2) / (3 * so * r))
        largest = math.sqrt(so**2 - 2 * so * r * cos + r**2) / (so - r * cos) ** 2
        return self.pixel_size * self._source_detector * largest / self.detector_spacing

    @property
    def _source_detector(self) -> float:
        return self.source_origin + self.origin_detector

    def _slope(self, bins: Array, offset: Array) -> Array:
        """The tangents of the angles of the rays to `bins` with the central one."""
        s = detector_positions(bins, self.num_detectors, self.detector_spacing) + offset
        return s / self._source_detector


Beam = ParallelRays | FanRays


class Shadows(eqx.Module):
    """The positions of pixels on the detector, from one number for each column and one for each row.

    All fields may have a leading axis of views.

    - `column`, `row`: `(w,)` and `(h,)`; their sum is the place of a pixel of depth 1, in bins.
    - `shift`: the position of place 0, in bins from number `num_detectors // 2`.
    - `depth`: the numbers of columns and rows whose sum is the distance of a pixel from the source along the central
      ray; `None` for parallel rays.
    """

    column: Array
    row: Array
    shift: Array
    depth: tuple[Array, Array] | None

    def place(self) -> Array:
        """The position of each pixel in one view, in bins from number `num_detectors // 2`, `(h, w)`."""
        place = self.column[None, :] + self.row[:, None]
        return (place if self.depth is None else place / self.distance()) + self.shift

    def distance(self) -> Array:
        """The depth of each pixel in one view, `(h, w)`, 1 for parallel rays."""
        if self.depth is None:
            return jnp.ones((1, 1), self.shift.dtype)
        return self.depth[0][None, :] + self.depth[1][:, None]


def _shadows(
    beam: Beam, angles: Array, offsets: Array, *, magnification: float, depth: tuple[Array, Array] | None = None
) -> Shadows:
    x, y = _pixel_positions(beam.shape, beam.pixel_size * magnification / beam.detector_spacing, angles.dtype)
    shift = half_step(beam.num_detectors) - rounded(offsets / beam.detector_spacing)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    return Shadows(rounded(x * cos), rounded(y * sin), shift, depth)


def num_taps(beam: Beam) -> int:
    """The largest number of rays of one view that pass within one pixel of a pixel.

    This is the largest number of integers in an open interval of twice the half width, with a small reduction so that
    rounding does not add one. If rounding moves the interval, the omitted ray has a weight of the size of rounding.
    """
    return math.ceil(2 * beam.half_width * (1 - 1e-6))


def all_rays(beam: Beam, angles: Array, offsets: Array) -> Rays:
    """The rays of all views, the fields `(angles, detectors)` or `(angles, 1)`."""
    return beam.rays(all_bins(beam.num_detectors, angles.dtype)[None], angles[:, None], offsets[:, None])


def all_bins(num_detectors: int, dtype: Any) -> Array:
    """The bins, counted from number `num_detectors // 2`."""
    return jnp.arange(num_detectors, dtype=dtype) - num_detectors // 2


def detector_positions(bins: Array, num_detectors: int, spacing: float) -> Array:
    """The positions of `bins`, counted from number `num_detectors // 2`, relative to the middle of the detector."""
    return (bins - half_step(num_detectors)) * spacing


def half_diagonal(shape: tuple[int, int], pixel_size: float) -> float:
    """The distance of the corners of the image from its centre."""
    return pixel_size * math.hypot(*shape) / 2


def padded_radius(shape: tuple[int, int], pixel_size: float) -> float:
    """The distance of the corners from the centre of the image with a ring of pixels around it."""
    return half_diagonal((shape[0] + 2, shape[1] + 2), pixel_size)


def _pixel_positions(shape: tuple[int, int], pixel_size: float, dtype: Any) -> tuple[Array, Array]:
    # x of the columns, (1, w), and y of the rows, (1, h).
    h, w = shape
    x = (np.arange(w) - (w - 1) / 2) * pixel_size
    y = ((h - 1) / 2 - np.arange(h)) * pixel_size
    return jnp.asarray(x, dtype)[None, :], jnp.asarray(y, dtype)[None, :]


def half_step(count: int) -> float:
    """The middle of `count` pixels or bins, counted from number `count // 2`: 0 or -1/2."""
    return (count - 1) / 2 - count // 2


def _is_steep(normal_x: Array, normal_y: Array) -> Array:
    return jnp.abs(normal_x) >= _STEEP * jnp.abs(normal_y)


def _dominant(normal_x: Array, normal_y: Array) -> Array:
    """The component of a normal along the axis on which its ray crosses lines of pixels."""
    return jnp.abs(jnp.where(_is_steep(normal_x, normal_y), normal_x, normal_y))


def _make_rays(normal: tuple[Array, Array], length: Array, distance: Array, pixel_size: float) -> Rays:
    """The rays `x normal_x + y normal_y = distance`, in pixels, where `length` is that of the normal."""
    normal_x, normal_y = normal
    steep = _is_steep(normal_x, normal_y)
    inverse = 1 / jnp.where(steep, normal_x, normal_y)
    # Rows count downwards, opposite to y.
    start = jnp.where(steep, distance, -distance)
    # Avoid a second `where`: at 18 or 20 angles LLVM never finishes with both of them on a sine and a cosine.
    is_steep = steep.astype(normal_x.dtype)
    slope = is_steep * normal_y + (1 - is_steep) * normal_x
    return Rays(steep, start * inverse, slope * inverse, pixel_size * length * jnp.abs(inverse))
