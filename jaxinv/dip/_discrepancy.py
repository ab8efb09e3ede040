"""Stopping where the data are fitted to the noise."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._types import Key, State
from ..likelihood import Likelihood, discrepancy, prepare_parameter
from ..operators._base import as_parameter, is_concrete
from ._stopping import AbstractStopping


class Discrepancy(AbstractStopping):
    """Stop at the first image that fits the data as well as the noise allows: `||W (y - A x)||^2 / m <= factor^2`.

    `W` is the whitening of the noise, so its level must be right, and `m` the number of real measured values. Photon
    noise enters by its Gaussian approximation. Until then the image that fits best is kept.

    - `factor`: positive, the safety factor on the noise.

    **Reference:** Morozov, On the solution of functional equations by the method of regularization, 1966.
    """

    factor: Array = eqx.field(default=1.0, converter=as_parameter)
    problem: tuple[Likelihood, State] | None = None
    name: ClassVar[str | None] = "discrepancy"
    settles: ClassVar[bool] = False

    def __check_init__(self):
        if is_concrete(self.factor) and not (self.factor.shape == () and bool(0 < self.factor < jnp.inf)):
            raise ValueError(f"`factor` must be a positive number; got {self.factor}.")

    def enter(
        self, likelihood: Likelihood, y: State, result: Any, *, key: Key
    ) -> tuple["Discrepancy", Likelihood, Any]:
        del key
        factor, result = prepare_parameter(self.factor, likelihood.operator, result, positive=True, name="factor")
        return Discrepancy(factor, (likelihood, y)), likelihood, result

    def memory(self, like: jax.ShapeDtypeStruct) -> None:
        del like

    def figure(self, memory: None, image: Array) -> tuple[None, Array]:
        assert self.problem is not None
        return None, discrepancy(*self.problem, image)

    def stops(self, figure: Array, since: Array) -> Array:
        del since
        return figure <= self.factor**2
