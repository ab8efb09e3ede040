"""What the proximal gradient methods share."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._loop import divergence_threshold, has_converged
from .._solution import RESULTS
from .._sums import dot
from .._types import Checked, Scalar, State
from .._workarounds import rounded
from ..likelihood import Likelihood, Whitened, domain_dtype, prepare, prepare_parameter, whiten
from ..regularisers import L1, AbstractRegulariser


class ProximalProblem(eqx.Module):
    """`1/2 ||B x - b||^2 + weight R(x)`, and when to stop."""

    operator: Whitened
    regulariser: AbstractRegulariser
    weight: Array
    data: State
    rtol: Array
    atol: Array
    rounding: Array
    divergence_threshold: Array

    def value(self, x: Array, prediction: State) -> Array:
        """The objective at `x`, whose prediction is `A x`."""
        residual = self.residual(prediction)
        return 0.5 * dot(residual, residual) + self.weight * self.regulariser(x)

    def residual(self, prediction: State) -> State:
        """`B x - b`. Predictions are kept from step to step, so that each image is measured once."""
        return jax.tree.map(jnp.subtract, self.operator.whiten(prediction), self.data)

    def proximal_step(self, x: Array, back: Array, bound: Array) -> Array:
        """`prox(x - step grad, step weight)`; `back` is the gradient, the adjoint of the residual."""
        step = 1 / bound**2
        return self.regulariser.prox(x - rounded(step * back), rounded(step * self.weight))

    def zero(self) -> tuple[Array, State]:
        """The image 0, and its prediction."""
        domain = self.operator.domain
        return jnp.zeros(domain.shape, domain.dtype), jax.tree.map(jnp.zeros_like, self.data)

    def stop(self, new: Array, old: Array, value: Array, old_value: Array) -> tuple[Array, Any]:
        """Whether to stop after a step, and the code of that."""
        still = has_converged(new, old, value, old_value, self.rtol, self.atol, self.rounding)
        diverged = value > self.divergence_threshold
        return still | diverged, RESULTS.where(diverged, RESULTS.diverged, RESULTS.successful)


def proximal_problem(
    likelihood: Likelihood,
    y: State,
    weight: Scalar,
    regulariser: Checked[AbstractRegulariser | None],
    norm: Scalar | None,
    rtol: Scalar,
    atol: Scalar,
    name: str,
) -> tuple[ProximalProblem, Array | None, Likelihood, State, Any]:
    """The problem, the norm where it is known, the prepared likelihood and data, and the code."""
    regulariser = L1() if regulariser is None else regulariser
    if not isinstance(regulariser, AbstractRegulariser):
        raise ValueError(
            f"`regulariser` must be one of `jaxinv.regularisers`, such as L1(); got {type(regulariser).__name__}."
        )
    prepared, data, result = prepare(likelihood, y)
    weight, result = prepare_parameter(weight, likelihood.operator, result)
    if norm is not None:
        norm, result = prepare_parameter(norm, likelihood.operator, result, positive=True, name="norm")
    whitened, b = whiten(prepared, data, name)
    real = domain_dtype(whitened)
    as_real = lambda value: jnp.asarray(value, real)
    at_zero = 0.5 * dot(b, b)
    rounding = as_real(jnp.finfo(real).eps * at_zero)
    problem = ProximalProblem(
        operator=whitened,
        regulariser=regulariser,
        weight=weight,
        data=b,
        rtol=as_real(rtol),
        atol=as_real(atol),
        rounding=rounding,
        divergence_threshold=divergence_threshold(at_zero),
    )
    return problem, norm, prepared, data, result


def objective_of(likelihood: Likelihood, y: State, problem: ProximalProblem, x: Array, prediction: State) -> Array:
    """`-log p(y | x) + weight R(x)`, constants included."""
    fit = likelihood.noise.negative_log_likelihood(prediction, y, likelihood.operator.measured)
    return fit + problem.weight * problem.regulariser(x)
