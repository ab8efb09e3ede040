"""Fan-beam tomography."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._types import State
from ._base import AbstractLinearOperator, check_image_shape, check_state, real_dtype
from ._geometry import (
    check_angles,
    check_count,
    check_length,
    detector_positions,
    half_diagonal,
    pixel_positions,
)
from ._joseph import Rays, back_project, make_rays, num_taps, project


class FanBeam(AbstractLinearOperator):
    """Line integrals of an image along rays from a point source to a flat detector, with the exact adjoint.

    In view `t` the source is at `(sin t, -cos t) * source_origin` and the detector on the other side of the origin, at
    the distance `origin_detector`, along the axis `(cos t, sin t)`; x points right, y up, the origin is the centre of
    the image, and row 0 of the image is its top. Bin `k` of `n` lies at
    `(k - (n - 1) / 2) * detector_spacing + centre_offset` on the detector. Outside its pixels the image is zero. This
    is the geometry `fanflat` of the ASTRA toolbox.

    - `shape`: of the image, `(h, w, c)`. The measurement is the sinogram, `(angles, detectors, c)`.
    - `angles`: `(angles,)`, in radians.
    - `num_detectors`, `detector_spacing`: the number of bins and their distance, on the detector itself.
    - `source_origin`, `origin_detector`: the distances of the source and of the detector from the axis of rotation.
    - `pixel_size`: the side of a pixel, in the unit of the other lengths.
    - `centre_offset`: where the middle of the detector lies on its axis.

    `angles` and `centre_offset` are arrays: map over them, and differentiate in them. The rest is static.

    **Raises:** `ValueError` if there are no angles, if a length or `num_detectors` is not positive, or is a traced
    value, or if the source or the detector would cut through the image as it turns. A `UserWarning` if the angles look
    like degrees.

    **Reference:** P. M. Joseph, An Improved Algorithm for Reprojecting Rays through Pixel Images, 1982.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        angles = jnp.linspace(0, 2 * jnp.pi, 90, endpoint=False)
        operator = jaxinv.operators.FanBeam((64, 64, 1), angles, 128, 1.2, source_origin=200.0, origin_detector=100.0)
        sinogram = operator(jnp.ones((64, 64, 1)))
        ```
    """

    angles: Array
    centre_offset: Array
    detector_spacing: float = eqx.field(static=True)
    source_origin: float = eqx.field(static=True)
    origin_detector: float = eqx.field(static=True)
    pixel_size: float = eqx.field(static=True)
    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)

    def __init__(
        self,
        shape: Any,
        angles: Any,
        num_detectors: Any,
        detector_spacing: Any,
        source_origin: Any,
        origin_detector: Any,
        pixel_size: Any = 1.0,
        centre_offset: Any = 0.0,
    ):
        shape = check_image_shape(shape)
        name = type(self).__name__
        self.angles, self.centre_offset = check_angles(angles, centre_offset, name)
        num_detectors = check_count(num_detectors, "num_detectors", name)
        self.detector_spacing = check_length(detector_spacing, "detector_spacing", name)
        self.source_origin = check_length(source_origin, "source_origin", name)
        self.origin_detector = check_length(origin_detector, "origin_detector", name)
        self.pixel_size = check_length(pixel_size, "pixel_size", name)
        radius = half_diagonal(shape, self.pixel_size)
        for what, distance, least in (
            ("source_origin", self.source_origin, _padded_radius(shape, self.pixel_size)),
            ("origin_detector", self.origin_detector, radius),
        ):
            if distance <= least:
                raise ValueError(
                    f"{name}: `{what}` is {distance:.6g}, inside the image: its corners, of {shape[0]} x {shape[1]} "
                    f"pixels of size {self.pixel_size:.6g}, turn at a distance of {radius:.6g} and need {least:.6g}. "
                    "Give all lengths in one unit; a detector may be moved outwards if its spacing grows with its "
                    "distance from the source."
                )
        self.domain = jax.ShapeDtypeStruct(shape, self.angles.dtype)
        self.codomain = jax.ShapeDtypeStruct((self.angles.shape[0], num_detectors, shape[2]), self.angles.dtype)

    def __call__(self, x: State) -> Array:
        x = check_state(x, self.domain, "the image", self)
        dtype = jnp.result_type(x, self.angles)
        return project(x.astype(dtype), self._rays(real_dtype(dtype)), self.codomain.shape)

    def adjoint(self, y: State) -> Array:
        y = check_state(y, self.codomain, "the measurement", self)
        dtype = jnp.result_type(y, self.angles)
        nearest = self.detector_coordinate(real_dtype(dtype))
        largest = self._largest_magnification()
        taps = num_taps(self.pixel_size, self.detector_spacing, largest)
        half_width = self.pixel_size * largest / self.detector_spacing
        return back_project(y.astype(dtype), self._rays(real_dtype(dtype)), nearest, taps, half_width)

    def depth(self, dtype: Any) -> Array:
        """How far each pixel is from the source, along the central ray of each view, `(h, angles, w)`."""
        x, y = pixel_positions(self.domain.shape, self.pixel_size, dtype)
        t = self.angles.astype(dtype)[None, :, None]
        return self.source_origin - x * jnp.sin(t) + y * jnp.cos(t)

    def detector_coordinate(self, dtype: Any) -> Array:
        """Where each pixel falls on the detector of each view, in bins from bin 0, `(h, angles, w)`."""
        x, y = pixel_positions(self.domain.shape, self.pixel_size, dtype)
        t = self.angles.astype(dtype)[None, :, None]
        magnification = (self.source_origin + self.origin_detector) / self.depth(dtype)
        s = magnification * (x * jnp.cos(t) + y * jnp.sin(t)) - self.centre_offset.astype(dtype)
        return s / self.detector_spacing + (self.codomain.shape[1] - 1) / 2

    def _rays(self, dtype: Any) -> Rays:
        t = self.angles.astype(dtype)[:, None]
        cos, sin = jnp.cos(t), jnp.sin(t)
        s = detector_positions(self.codomain.shape[1], self.detector_spacing, self.centre_offset.astype(dtype))
        # In units of the distance from source to detector, so that the normal is near 1.
        s = s / (self.source_origin + self.origin_detector)
        # The ray to s has direction s (cos, sin) + (-sin, cos), and passes the origin at source_origin * s.
        normal = (cos + s * sin, sin - s * cos)
        length = jnp.sqrt(1 + s**2)
        return make_rays(normal, length, self.source_origin * s, self.domain.shape, self.pixel_size)

    def _largest_magnification(self) -> float:
        """The largest `SDD / (L cos gamma)` over the image padded by one pixel, at any angle.

        Two rays that cross a row or column one pixel apart are at most this many pixels apart on the detector; `L` is
        the depth of the crossing, `gamma` the angle of the ray with the central one. It is attained on the circle
        around the padded image: `sqrt(L^2 + xi^2) / L^2` with `L = so - r cos(phi)`, `xi = r sin(phi)`.
        """
        so, r = self.source_origin, _padded_radius(self.domain.shape, self.pixel_size)
        cos = min(1.0, (so**2 + 2 * r**2) / (3 * so * r))
        largest = math.sqrt(so**2 - 2 * so * r * cos + r**2) / (so - r * cos) ** 2
        return (self.source_origin + self.origin_detector) * largest


def _padded_radius(shape: tuple[int, ...], pixel_size: float) -> float:
    return half_diagonal((shape[0] + 2, shape[1] + 2), pixel_size)
