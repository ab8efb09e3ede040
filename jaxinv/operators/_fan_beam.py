"""Fan-beam tomography."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from .._kernels import FanRays
from .._kernels._beams import half_diagonal, padded_radius
from ._base import check_image_shape
from ._geometry import check_angles, check_count, check_length
from ._tomograph import AbstractTomograph


class FanBeam(AbstractTomograph):
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
        radius = half_diagonal(shape[:2], self.pixel_size)
        for what, distance, least in (
            ("source_origin", self.source_origin, padded_radius(shape[:2], self.pixel_size)),
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

    @property
    def rays(self) -> FanRays:
        return FanRays(
            self.domain.shape[:2],
            self.codomain.shape[1],
            self.detector_spacing,
            self.pixel_size,
            self.source_origin,
            self.origin_detector,
        )
