"""Problems of methods that never divide by the noise: its standard deviation may be 0."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import State
from ...likelihood import Likelihood, Whitened
from ...noise import Gaussian
from .._processes._process import AbstractProcess
from ._problem import check_linear, enter_linear


class ExactProblem(eqx.Module):
    """`y = A x + std n` with `A` linear and independent noise; rows of `A`, data and noise are 0 if not measured.

    - `std`: of the shape of the data.
    """

    score: AbstractScore
    operator: Whitened
    data: State
    std: State
    image: jax.ShapeDtypeStruct = eqx.field(static=True)

    @property
    def process(self) -> AbstractProcess:
        return self.score.process


def enter_exact(score: AbstractScore, likelihood: Likelihood, y: State, name: str) -> tuple[ExactProblem, Any]:
    """The problem of a method, called `name`, for a linear operator and independent Gaussian noise, or none.

    **Raises:** `ValueError` for another operator or noise.
    """
    check_linear(likelihood, name)
    if not isinstance(likelihood.noise, Gaussian):
        raise ValueError(
            f"`{name}` takes `noise.Gaussian`, whose standard deviation may be 0; got "
            f"{type(likelihood.noise).__name__}. `MomentMatching()`, `TMPD()`, `PiGDM()`, `DiffPIR()` and `DDRM()` "
            "take noise of any covariance, and photon noise by its Gaussian approximation."
        )
    linear, result = enter_linear(score, unit_noise(likelihood), y, name)
    _, std = likelihood.noise.linearise(linear.data)
    std = jax.tree.map(lambda s, m: jnp.where(m > 0, s, jnp.zeros((), s.dtype)), std, likelihood.operator.measured)
    std, result = not_negative(std, result)
    return ExactProblem(score, linear.operator, linear.data, std, linear.image), result


def unit_noise(likelihood: Likelihood) -> Likelihood:
    """The same operator with noise of unit size: whitened by it, an operator is itself, on what is measured."""
    return Likelihood(likelihood.operator, Gaussian(1.0))


def not_negative(std: State, result: Any) -> tuple[State, Any]:
    """Standard deviations with their code: `invalid_parameter`, and 0, where one is negative or not finite."""
    good = jax.tree.map(lambda s: jnp.all(jnp.isfinite(s) & (s >= 0)), std)
    good: Array = jax.tree.reduce(jnp.logical_and, good)
    bad = (result == RESULTS.successful) & ~good
    std = jax.tree.map(lambda s: jnp.where(good, s, jnp.zeros((), s.dtype)), std)
    return std, RESULTS.where(bad, RESULTS.invalid_parameter, result)
