"""What the methods of `posterior_sample` are given."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._conjugate_gradients import conjugate_gradients
from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import Scalar, State
from ...likelihood import Likelihood, Whitened, domain_dtype, gaussian_approximation, prepare, whiten
from ...operators import AbstractLinearOperator
from ...oracles._update import dense
from .._processes._process import AbstractProcess

HIGHEST = jax.lax.Precision.HIGHEST
_FROM_MILD_TO_GRAVE = (
    "max_steps_reached",
    "weight_collapse",
    "breakdown",
    "diverged",
    "nonfinite",
    "invalid_parameter",
    "nonfinite_measurement",
)


class Problem(eqx.Module):
    """Any likelihood, prepared."""

    score: AbstractScore
    likelihood: Likelihood
    y: State
    image: jax.ShapeDtypeStruct = eqx.field(static=True)

    @property
    def process(self) -> AbstractProcess:
        return self.score.process

    def negative_log_likelihood(self, x: Array) -> Array:
        return self.likelihood.negative_log_likelihood(x, self.y)


class LinearProblem(eqx.Module):
    """A linear operator and Gaussian noise: `-log p(y | x) = 1/2 ||B x - b||^2 + constant`."""

    score: AbstractScore
    operator: Whitened
    data: State
    constant: Array
    image: jax.ShapeDtypeStruct = eqx.field(static=True)

    @property
    def process(self) -> AbstractProcess:
        return self.score.process

    def residual(self, x: Array) -> State:
        """`b - B x`."""
        return jax.tree.map(jnp.subtract, self.data, self.operator(x))

    def solve_isotropic(self, residual: State, variance: Array | float, rtol: float, max_steps: int) -> State:
        """`(variance B B^* + I)^{-1} residual`, by conjugate gradients."""
        args = (self.operator, variance)
        return conjugate_gradients(_isotropic, residual, args, rtol=rtol, max_steps=max_steps).x


class DenseProblem(eqx.Module):
    """The same with `B` as a matrix, `(m, d)`, of real numbers."""

    score: AbstractScore
    matrix: Array
    data: Array
    constant: Array
    image: jax.ShapeDtypeStruct = eqx.field(static=True)

    @property
    def process(self) -> AbstractProcess:
        return self.score.process

    def residual(self, x: Array) -> Array:
        """`b - B x`, `(m,)`."""
        return self.data - jnp.matmul(self.matrix, x.ravel(), precision=HIGHEST)


def enter(score: AbstractScore, likelihood: Likelihood, y: State) -> tuple[Problem, Any]:
    """The problem of a method that takes any likelihood."""
    likelihood, y, result = prepare(likelihood, y)
    return Problem(score, likelihood, y, _image(likelihood)), result


def enter_linear(score: AbstractScore, likelihood: Likelihood, y: State, name: str) -> tuple[LinearProblem, Any]:
    """The problem of a method, called `name`, for a linear operator. Photon noise enters by its approximation."""
    check_linear(likelihood, name)
    likelihood, data, result = prepare(likelihood, y)
    likelihood, data = gaussian_approximation(likelihood, data)
    operator, b = whiten(likelihood, data, name)
    constant = likelihood.noise.negative_log_likelihood(data, data, likelihood.operator.measured)
    return LinearProblem(score, operator, b, constant, _image(likelihood)), result


def enter_dense(score: AbstractScore, likelihood: Likelihood, y: State, name: str) -> tuple[DenseProblem, Any]:
    """As `enter_linear`, with the matrix of the operator."""
    check_linear(likelihood, name)
    likelihood, data, result = prepare(likelihood, y)
    likelihood, data = gaussian_approximation(likelihood, data)
    image = _image(likelihood)
    return DenseProblem(score, *dense(likelihood, data, image.shape, image.dtype), image), result


def check_linear(likelihood: Likelihood, name: str) -> None:
    """Raise unless the operator is linear; `name` is the method that needs it."""
    if not isinstance(likelihood.operator, AbstractLinearOperator):
        raise ValueError(
            f"`{name}` needs a linear operator; {type(likelihood.operator).__name__} is not one. `DPS()`, "
            "`TDS(DPS())`, `AnnealedLangevin()`, `DAPS()`, `PnPDM()`, `REDDiff()`, `DFlow()` and `PnPFlow()` take "
            "any differentiable operator."
        )


def check_likelihood(likelihood: Any) -> None:
    """Raise unless this is the likelihood of one real array."""
    if not isinstance(likelihood, Likelihood):
        raise ValueError(
            f"`likelihood` must be a `jaxinv.Likelihood(operator, noise)`; got {type(likelihood).__name__}. The "
            "measurement `y` is the last positional argument."
        )
    domain: Any = likelihood.operator.domain
    if isinstance(domain, tuple) or jnp.issubdtype(domain.dtype, jnp.complexfloating):
        raise ValueError(
            f"Scores are of real images; the operator takes {domain}. A real image enters a complex operator by "
            "`operator @ operators.Real(shape)`."
        )


def ratio(process: AbstractProcess, t: Scalar) -> Array:
    """`std / scale`."""
    scale, std = process.marginal(t)
    return std / scale


def worst(results: Any) -> Any:
    """The code of a set of samples: that of one which failed, if one did."""
    code = RESULTS.successful
    for name in _FROM_MILD_TO_GRAVE:
        item = getattr(RESULTS, name)
        code = RESULTS.where(jnp.any(results == item), item, code)
    return code


def _isotropic(u: State, args: Any) -> State:
    operator, variance = args
    return jax.tree.map(lambda u, v: u + variance * v, u, operator(operator.adjoint(u)))


def _image(likelihood: Likelihood) -> jax.ShapeDtypeStruct:
    domain: Any = likelihood.operator.domain
    return jax.ShapeDtypeStruct(tuple(domain.shape), domain_dtype(likelihood.operator))
