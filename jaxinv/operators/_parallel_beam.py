"""Parallel-beam tomography."""

import math
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from .._kernels import ParallelRays
from .._kernels._beams import half_diagonal
from ._base import check_image_shape
from ._geometry import check_angles, check_count, check_length
from ._tomograph import AbstractTomograph


class ParallelBeam(AbstractTomograph):
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
            num_detectors = math.ceil(2 * half_diagonal(shape[:2], self.pixel_size) / self.detector_spacing - 1e-6)
        num_detectors = check_count(num_detectors, "num_detectors", name)
        self.domain = jax.ShapeDtypeStruct(shape, self.angles.dtype)
        self.codomain = jax.ShapeDtypeStruct((self.angles.shape[0], num_detectors, shape[2]), self.angles.dtype)

    @property
    def rays(self) -> ParallelRays:
        return ParallelRays(self.domain.shape[:2], self.codomain.shape[1], self.detector_spacing, self.pixel_size)
