"""Tomographs with parallel and fan beams; the kernels of their projections are in `jaxinv/_kernels`."""

import abc
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from .._arrays import (
    are_numbers,
    as_array,
    check_image_shape,
    check_state,
    common_dtype,
    is_concrete,
    parameter_dtype,
    real_dtype,
)
from .._kernels import FanRays, ParallelRays, back_project, project
from .._kernels._beams import Beam, half_diagonal, padded_radius
from .._types import Abstract, ArrayLike, Checked, IntLike, Scalar, State
from ..requirements import Requirement, finite
from ._base import AbstractLinearOperator, Rows


def check_angles(angles: Any, centre_offset: Any, name: str) -> tuple[Array, Array]:
    """`angles` and `centre_offset` as array leaves of one real dtype.

    **Raises:** `ValueError` unless `angles` has one axis and at least one entry, the offset is a scalar, and all are
    real and finite.
    """
    angles = as_array(angles)
    if angles.ndim != 1 or angles.size == 0:
        raise ValueError(
            f"{name} expects `angles` as a vector of at least one angle, in radians; got shape {angles.shape}. "
            "Map over several sets of angles with `jax.vmap`."
        )
    centre_offset = as_array(centre_offset)
    if centre_offset.ndim != 0:
        raise ValueError(f"{name} expects `centre_offset` as one number; got shape {centre_offset.shape}.")
    dtype = parameter_dtype(angles, centre_offset)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"{name} expects real `angles` and a real `centre_offset`; got dtype {dtype}.")
    # Angles beyond two turns, with a margin for rounding, are probably in degrees.
    if is_concrete(angles) and 4.01 * math.pi < float(np.abs(angles).max()) < math.inf:
        warnings.warn(
            f"{name}: `angles` are in radians, yet the largest is {float(np.abs(angles).max()):.4g}, more than two "
            "turns. If they are in degrees, convert them with `jnp.deg2rad(angles)`.",
            UserWarning,
            stacklevel=5,
        )
    return angles.astype(dtype), centre_offset.astype(dtype)


def check_length(value: Any, what: str, name: str) -> float:
    """`value` as a positive Python float.

    **Raises:** `ValueError` if it is not positive and finite, or is a traced value.
    """
    value = _static(value, float, what, name)
    if not (0 < value < math.inf):
        raise ValueError(f"{name}: `{what}` must be positive and finite; got {value}.")
    return value


def check_number_of(value: Any, what: str, name: str) -> int:
    """`value` as a positive Python integer.

    **Raises:** `ValueError` if it is not a positive integer, or is a traced value.
    """
    count = _static(value, int, what, name)
    if count < 1 or count != value:
        raise ValueError(f"{name}: `{what}` must be a positive integer; got {value}.")
    return count


def _static(value: Any, kind: type, what: str, name: str) -> Any:
    if not is_concrete(value):
        raise ValueError(
            f"{name}: `{what}` is part of the static geometry (it decides the size of arrays), so it must be a Python "
            f"number, not a traced value. Make the operator outside `jax.jit`, or close over `{what}`; what can be "
            "traced, mapped and differentiated is `angles` and `centre_offset`."
        )
    if not are_numbers(value) or np.size(value) != 1:
        raise ValueError(f"{name}: `{what}` must be one number; got {value!r}.")
    return kind(value)


class AbstractTomograph(AbstractLinearOperator):
    """Line integrals along rays, by Joseph's method, with the exact adjoint."""

    if TYPE_CHECKING:
        angles = Abstract[Array]()
        centre_offset = Abstract[Array]()
        domain = Abstract[jax.ShapeDtypeStruct]()
        codomain = Abstract[jax.ShapeDtypeStruct]()
    else:
        angles: eqx.AbstractVar[Array]
        centre_offset: eqx.AbstractVar[Array]
        domain: eqx.AbstractVar[jax.ShapeDtypeStruct]
        codomain: eqx.AbstractVar[jax.ShapeDtypeStruct]

    def requirements(self) -> tuple[Requirement, ...]:
        named = {"angles": self.angles, "centre_offset": self.centre_offset}
        return tuple(finite(name, value, f"`{name}` holds a value that is not finite") for name, value in named.items())

    @property
    def is_tomograph(self) -> bool:
        return True

    @property
    @abc.abstractmethod
    def rays(self) -> Beam:
        """The static part of the geometry.

        **Returns:** the rays of one view, without angle and offset.
        """

    def __call__(self, x: State) -> Array:
        x = check_state(x, self.domain, "the image", self)
        dtype = common_dtype(x, self.angles)
        return project(self.rays, x.astype(dtype), *self.placement(real_dtype(dtype)))

    def adjoint(self, y: State) -> Array:
        y = check_state(y, self.codomain, "the measurement", self)
        dtype = common_dtype(y, self.angles)
        return back_project(self.rays, y.astype(dtype), *self.placement(real_dtype(dtype)))

    def rows(self, indices: Array) -> AbstractLinearOperator:
        return Views(self, indices)

    def placement(self, dtype: Checked[DTypeLike]) -> tuple[Array, Array]:
        """The angles in radians, and the offset of the detector at each of them, both `(angles,)`."""
        return self.angles.astype(dtype), jnp.broadcast_to(self.centre_offset.astype(dtype), self.codomain.shape[:1])


class Views(Rows):
    """Some views of a tomograph, which computes these alone."""

    operator: AbstractTomograph  # pyright: ignore[reportIncompatibleVariableOverride]  # modules are frozen

    def __init__(self, operator: AbstractTomograph, indices: Array):
        super().__init__(operator, indices)

    def __call__(self, x: State) -> Array:
        x = check_state(x, self.domain, "the image", self)
        dtype = common_dtype(x, self.operator.angles)
        return project(self.operator.rays, x.astype(dtype), *self._placement(dtype))

    def adjoint(self, y: State) -> Array:
        y = check_state(y, self.codomain, "the measurement", self)
        dtype = common_dtype(y, self.operator.angles)
        return back_project(self.operator.rays, y.astype(dtype), *self._placement(dtype))

    def _placement(self, dtype: Any) -> tuple[Array, Array]:
        angles, offsets = self.operator.placement(real_dtype(dtype))
        return angles[self.indices], offsets[self.indices]


class ParallelBeam(AbstractTomograph):
    """Line integrals of an image along parallel rays, by Joseph's method, with the exact adjoint.

    View `t` integrates along the lines `x cos t + y sin t = s`, one for each detector bin `s`, where x points right, y
    points up, the origin is the centre of the image, and row 0 of the image is its top. Bin `k` of `n` lies at
    `(k - (n - 1) / 2) * detector_spacing + centre_offset`. Outside its pixels the image is zero. This is the geometry
    `parallel` of the ASTRA toolbox.

    - `shape`: the shape of the image, `(h, w, c)`. The measurement is the sinogram, `(angles, detectors, c)`.
    - `angles`: the angles of the views, `(angles,)`, in radians.
    - `num_detectors`: the number of bins; by default the number that covers the diagonal of the image.
    - `detector_spacing`: the distance between neighbouring bins.
    - `pixel_size`: the side of a pixel, in the unit of `detector_spacing`; a row of 10 pixels of value 1 and size .5
      integrates to 5.
    - `centre_offset`: the position of the middle of the detector relative to the axis of rotation, in the same unit.

    `angles` and `centre_offset` are arrays, which can be mapped over and differentiated. The other options are static.

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
        shape: Checked[Sequence[int]],
        angles: ArrayLike,
        num_detectors: Checked[int | None] = None,
        detector_spacing: Checked[float] = 1.0,
        pixel_size: Checked[float] = 1.0,
        centre_offset: Checked[Scalar] = 0.0,
    ):
        shape = check_image_shape(shape)
        name = type(self).__name__
        self.angles, self.centre_offset = check_angles(angles, centre_offset, name)
        self.detector_spacing = check_length(detector_spacing, "detector_spacing", name)
        self.pixel_size = check_length(pixel_size, "pixel_size", name)
        if num_detectors is None:
            # The small term keeps rounding of an integer quotient from adding a bin.
            num_detectors = math.ceil(2 * half_diagonal(shape[:2], self.pixel_size) / self.detector_spacing - 1e-6)
        num_detectors = check_number_of(num_detectors, "num_detectors", name)
        self.domain = jax.ShapeDtypeStruct(shape, self.angles.dtype)
        self.codomain = jax.ShapeDtypeStruct((self.angles.shape[0], num_detectors, shape[2]), self.angles.dtype)

    @property
    def rays(self) -> ParallelRays:
        return ParallelRays(self.domain.shape[:2], self.codomain.shape[1], self.detector_spacing, self.pixel_size)


class FanBeam(AbstractTomograph):
    """Line integrals of an image along rays from a point source to a flat detector, with the exact adjoint.

    In view `t` the source is at `(sin t, -cos t) * source_origin` and the detector on the other side of the origin, at
    the distance `origin_detector`, along the axis `(cos t, sin t)`; x points right, y points up, the origin is the
    centre of the image, and row 0 of the image is its top. Bin `k` of `n` lies at
    `(k - (n - 1) / 2) * detector_spacing + centre_offset` on the detector. Outside its pixels the image is zero. This
    is the geometry `fanflat` of the ASTRA toolbox.

    - `shape`: the shape of the image, `(h, w, c)`. The measurement is the sinogram, `(angles, detectors, c)`.
    - `angles`: the angles of the views, `(angles,)`, in radians.
    - `num_detectors`, `detector_spacing`: the number of bins and the distance between neighbouring ones, on the
      detector itself.
    - `source_origin`, `origin_detector`: the distances of the source and of the detector from the axis of rotation.
    - `pixel_size`: the side of a pixel, in the unit of the other lengths.
    - `centre_offset`: the position of the middle of the detector along its axis, in the same unit.

    `angles` and `centre_offset` are arrays, which can be mapped over and differentiated. The other options are static.

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
        shape: Checked[Sequence[int]],
        angles: ArrayLike,
        num_detectors: IntLike,
        detector_spacing: Checked[float],
        source_origin: Checked[float],
        origin_detector: Checked[float],
        pixel_size: Checked[float] = 1.0,
        centre_offset: Checked[Scalar] = 0.0,
    ):
        shape = check_image_shape(shape)
        name = type(self).__name__
        self.angles, self.centre_offset = check_angles(angles, centre_offset, name)
        num_detectors = check_number_of(num_detectors, "num_detectors", name)
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
