"""What the proximal gradient methods share."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._loop import ceiling
from .._types import Scalar, State
from ..likelihood import Likelihood, Whitened, prepare, prepare_parameter, whiten
from ..regularisers import L1, AbstractRegulariser
from ._bound import norm_bound


class ProximalProblem(eqx.Module):
    """`1/2 ||B x - b||^2 + weight R(x)`, and the step size."""

    operator: Whitened
    regulariser: AbstractRegulariser
    weight: Array
    data: State
    step: Array
    rtol: Array
    atol: Array
    rounding: Array
    ceiling: Array

    def value(self, x: Array) -> Array:
        residual = jax.tree.map(jnp.subtract, self.operator(x), self.data)
        square = sum(jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(residual))
        return 0.5 * square + self.weight * self.regulariser(x)


def proximal_step(problem: ProximalProblem, x: Array) -> Array:
    """`prox(x - step grad, step weight)`."""
    residual = jax.tree.map(jnp.subtract, problem.operator(x), problem.data)
    descended = x - problem.step * problem.operator.adjoint(residual)
    return problem.regulariser.prox(descended, problem.step * problem.weight)


def enter(
    likelihood: Likelihood,
    y: State,
    weight: Scalar,
    regulariser: Any,
    norm: Scalar | None,
    rtol: Scalar,
    atol: Scalar,
    name: str,
) -> tuple[ProximalProblem, Array, Likelihood, State, Any]:
    """The problem, its start at zero, the prepared likelihood and data, and the code."""
    regulariser = L1() if regulariser is None else regulariser
    if not isinstance(regulariser, AbstractRegulariser):
        raise ValueError(
            f"`regulariser` must be one of `jaxinv.regularisers`, such as L1(); got {type(regulariser).__name__}."
        )
    if not isinstance(regulariser, AbstractRegulariser):
        raise ValueError(
            f"`{name}` needs a regulariser with a prox, such as `regularisers.L1()`; got {type(regulariser).__name__}."
        )
    prepared, data, result = prepare(likelihood, y)
    weight, result = prepare_parameter(weight, likelihood.operator, result)
    if norm is not None:
        norm, result = prepare_parameter(norm, likelihood.operator, result, positive=True, name="norm")
    whitened, b = whiten(prepared, data, name)
    bound = norm_bound(whitened, norm)
    as_real = lambda value: jnp.asarray(value, bound.dtype)
    at_zero = jnp.asarray(0.5) * sum(jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(b))
    rounding = as_real(jnp.finfo(bound.dtype).eps * at_zero)
    problem = ProximalProblem(
        operator=whitened,
        regulariser=regulariser,
        weight=weight,
        data=b,
        step=1 / bound**2,
        rtol=as_real(rtol),
        atol=as_real(atol),
        rounding=rounding,
        ceiling=ceiling(at_zero),
    )
    domain = likelihood.operator.domain
    return problem, jnp.zeros(domain.shape, domain.dtype), prepared, data, result


def objective_of(likelihood: Likelihood, y: State, problem: ProximalProblem, x: Array) -> Array:
    """`-log p(y | x) + weight R(x)`, constants included."""
    return likelihood.negative_log_likelihood(x, y) + problem.weight * problem.regulariser(x)
