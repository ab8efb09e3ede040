"""What the proximal gradient methods share: the regulariser that they take, and the call of the solver."""

from typing import Any

from jaxtyping import Array

from .._solution import RESULTS, Solution
from .._types import Key, Scalar, State, Stats
from ..likelihood import Likelihood
from ..regularisers import L1, AbstractRegulariser
from ._first_order import AbstractFirstOrder, Iterate
from ._solver import AbstractSolver, Problem, drive, prepare_problem


class AbstractProximalGradient(AbstractFirstOrder):
    """`x <- prox(x' - step grad, step weight)` with the step `1 / ||B||^2`, from some point `x'`."""

    def prepare(
        self,
        likelihood: Likelihood,
        regulariser: AbstractRegulariser,
        y: State,
        *,
        weight: Scalar,
        constraint: AbstractRegulariser | None = None,
        norm: Scalar | None = None,
        rtol: Scalar = 1e-5,
        atol: Scalar = 0.0,
    ) -> tuple[Problem, RESULTS]:
        name = type(self).__name__.lower()
        problem, result = prepare_problem(likelihood, regulariser, y, name, weight, constraint, norm, rtol, atol)
        # Else the prox of both is not the projection of the prox.
        if constraint is not None and not regulariser.is_separable:
            raise ValueError(
                f"`{name}` takes a constraint only with a regulariser that is separable, such as L1(), and "
                f"{type(regulariser).__name__} is not. Use `classical.primal_dual`, which takes both."
            )
        return problem, result

    def sizes(self, problem: Problem, bound: Array) -> Array:
        return 1 / bound**2

    def finish(self, problem: Problem, state: Iterate, /, *, key: Key | None = None) -> tuple[Array, Stats]:
        return state.image, {"objective": problem.objective(state.image, state.measurement)}


def minimise(
    method: AbstractSolver,
    likelihood: Likelihood,
    y: State,
    weight: Scalar,
    regulariser: Any,
    constraint: Any,
    norm: Scalar | None,
    max_steps: int,
    rtol: Scalar,
    atol: Scalar,
) -> Solution:
    """The solution by a proximal gradient method, of `L1()` if there is no regulariser."""
    problem, result = method.prepare(
        likelihood,
        L1() if regulariser is None else regulariser,
        y,
        weight=weight,
        constraint=constraint,
        norm=norm,
        rtol=rtol,
        atol=atol,
    )
    return drive(method, problem, result, max_steps=max_steps)
