"""What the two tomographs share: they project along rays, whatever the rays are."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._kernels import back_project, project
from .._kernels._beams import Beam
from .._types import State
from ._base import AbstractLinearOperator, check_state, real_dtype


class AbstractTomograph(AbstractLinearOperator):
    """Line integrals along rays, by Joseph's method, with the exact adjoint."""

    angles: eqx.AbstractVar[Array]
    centre_offset: eqx.AbstractVar[Array]
    domain: eqx.AbstractVar[jax.ShapeDtypeStruct]
    codomain: eqx.AbstractVar[jax.ShapeDtypeStruct]

    @property
    @abc.abstractmethod
    def rays(self) -> Beam:
        """The static part of the geometry."""

    def __call__(self, x: State) -> Array:
        x = check_state(x, self.domain, "the image", self)
        dtype = jnp.result_type(x, self.angles)
        return project(self.rays, x.astype(dtype), *self.placement(real_dtype(dtype)))

    def adjoint(self, y: State) -> Array:
        y = check_state(y, self.codomain, "the measurement", self)
        dtype = jnp.result_type(y, self.angles)
        return back_project(self.rays, y.astype(dtype), *self.placement(real_dtype(dtype)))

    def placement(self, dtype: Any) -> tuple[Array, Array]:
        """The angles, and the offset of the detector at each of them, `(angles,)`."""
        return self.angles.astype(dtype), jnp.broadcast_to(self.centre_offset.astype(dtype), self.codomain.shape[:1])
