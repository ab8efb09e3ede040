"""Parallel-beam tomography."""

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


class ParallelBeam(AbstractLinearOperator):
    """Line integrals of an image along parallel rays, by Joseph's method, with the exact adjoint.

    View `t` integrates along the lines `x cos t + y sin t = s`, one for each detector bin `s`, where x points right, y
    up, the origin is the centre of the image, and row 0 of the image is its top. Bin `k` of `n` lies at
    `(k - (n - 1) / 2) * detector_spacing + centre_offset`. Outside its pixels the image is zero. This is the geometry
    `parallel` of the ASTRA toolbox.

    - `shape`: of the image, `(h, w, c)`. The measurement is the sinogram, `(angles, detectors, c)`.
    - `angles`: `(angles,)`, in radians.
    - `num_detectors`: the number of bins; by default as many as the diagonal of the image needs.
    - `detector_spacing`: the distance of two bins.
    - `pixel_size`: the side of a pixel, in the unit of `detector_spacing`; a row of 10 pixels of value 1 and size .5
      integrates to 5.
    - `centre_offset`: where the middle of the detector lies, as seen from the axis of rotation.

    `angles` and `centre_offset` are arrays: map over them, and differentiate in them. The rest is static.

    **Raises:** `ValueError` if there are no angles, if a length or `num_detectors` is not positive, or is a traced
    value. A `UserWarning` if the angles look like degrees.

    **Reference:** P. M. Joseph, An Improved Algorithm for Reprojecting Rays through Pixel Images, 1982.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        angles = jnp.linspace(0, jnp.pi, 60, endpoint=False)
        operator = jaxinv.operators.ParallelBeam((64, 64, 1), angles)
        sinogram = operator(jnp.ones((64, 64, 1)))
        ```
    """

    angles: Array
    centre_offset: Array
    detector_spacing: float = eqx.field(static=True)
    pixel_size: float = eqx.field(static=True)
    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)

    def __init__(
        self,
        shape: Any,
        angles: Any,
        num_detectors: Any = None,
        detector_spacing: Any = 1.0,
        pixel_size: Any = 1.0,
        centre_offset: Any = 0.0,
    ):
        shape = check_image_shape(shape)
        name = type(self).__name__
        self.angles, self.centre_offset = check_angles(angles, centre_offset, name)
        self.detector_spacing = check_length(detector_spacing, "detector_spacing", name)
        self.pixel_size = check_length(pixel_size, "pixel_size", name)
        if num_detectors is None:
            # Less a little, lest rounding of a quotient that is an integer add a bin.
            num_detectors = math.ceil(2 * half_diagonal(shape, self.pixel_size) / self.detector_spacing - 1e-6)
        num_detectors = check_count(num_detectors, "num_detectors", name)
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
        taps = num_taps(self.pixel_size, self.detector_spacing)
        half_width = self.pixel_size / self.detector_spacing
        return back_project(y.astype(dtype), self._rays(real_dtype(dtype)), nearest, taps, half_width)

    def detector_coordinate(self, dtype: Any) -> Array:
        """Where each pixel falls on the detector of each view, in bins from bin 0, `(h, angles, w)`."""
        x, y = pixel_positions(self.domain.shape, self.pixel_size, dtype)
        t = self.angles.astype(dtype)[None, :, None]
        s = x * jnp.cos(t) + y * jnp.sin(t) - self.centre_offset.astype(dtype)
        return s / self.detector_spacing + (self.codomain.shape[1] - 1) / 2

    def _rays(self, dtype: Any) -> Rays:
        t = self.angles.astype(dtype)[:, None]
        s = detector_positions(self.codomain.shape[1], self.detector_spacing, self.centre_offset.astype(dtype))
        return make_rays((jnp.cos(t), jnp.sin(t)), jnp.ones_like(t), s, self.domain.shape, self.pixel_size)
