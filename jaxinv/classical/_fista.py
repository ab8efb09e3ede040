"""Accelerated iterative shrinkage-thresholding."""

from typing import Any

import jax.numpy as jnp

from .._loop import iterate, settled
from .._solution import RESULTS, Solution
from .._types import Scalar, State
from .._verb import verb
from ..likelihood import Likelihood
from ._proximal import ProximalProblem, enter, objective_of, proximal_step


@verb
def fista(
    likelihood: Likelihood,
    y: State,
    *,
    weight: Scalar,
    regulariser: Any = None,
    norm: Scalar | None = None,
    max_steps: int = 3000,
    rtol: Scalar = 1e-5,
    atol: Scalar = 0.0,
) -> Solution:
    """Minimise `-log p(y | x) + weight * R(x)` by proximal gradient steps from an extrapolated point (Nesterov).

    As `ista`, with the error of the objective falling like `1 / steps^2`; the objective is not monotone.

    **Arguments, Returns, Raises:** as `ista`.

    **Reference:** Beck, Teboulle, A fast iterative shrinkage-thresholding algorithm for linear inverse problems, 2009.

    !!! example
        ```python
        import jax, jaxinv
        matrix = jax.random.normal(jax.random.key(0), (30, 60)) / 30**0.5
        likelihood = jaxinv.Likelihood(jaxinv.operators.Matrix(matrix, (60,)), jaxinv.noise.Gaussian(0.01))
        y = likelihood.simulate(jax.numpy.zeros(60).at[7].set(1.0), key=jax.random.key(1))
        x = jaxinv.classical.fista(likelihood, y, weight=100.0).value
        ```
    """
    problem, start, prepared, data, result = enter(likelihood, y, weight, regulariser, norm, rtol, atol, "fista")
    state = (start, start, jnp.ones_like(problem.step), problem.value(start))
    (x, _, _, _), num_steps, result = iterate(_step, state, problem, result=result, max_steps=max_steps)
    objective = objective_of(prepared, data, problem, x)
    return Solution(x, result, {"num_steps": num_steps, "objective": objective})


def _step(index: Any, state: Any, problem: ProximalProblem) -> Any:
    del index
    x, ahead, momentum, objective = state
    new = proximal_step(problem, ahead)
    new_momentum = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
    new_ahead = new + (momentum - 1) / new_momentum * (new - x)
    value = problem.value(new)
    finished = settled(new, x, value, objective, problem.rtol, problem.atol, problem.rounding)
    diverged = value > problem.ceiling
    return (
        (new, new_ahead, new_momentum, value),
        finished | diverged,
        RESULTS.where(diverged, RESULTS.diverged, RESULTS.successful),
    )
