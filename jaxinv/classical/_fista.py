"""Accelerated iterative shrinkage-thresholding."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._jit import verb
from .._solution import Solution
from .._types import Checked, PyTree, Scalar, State
from .._workarounds import rounded
from ..likelihood import Likelihood, Whitened
from ..regularisers import AbstractRegulariser
from ._first_order import AbstractFirstOrder, Iterate, solve
from ._proximal import ProximalProblem, objective_of, proximal_problem


@verb(not_negative=("weight",), positive=("norm",), tolerances=("rtol", "atol"))
def fista(
    likelihood: Likelihood,
    y: State,
    *,
    weight: Scalar,
    regulariser: Checked[AbstractRegulariser | None] = None,
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
    problem, known, prepared, data, result = proximal_problem(
        likelihood, y, weight, regulariser, norm, rtol, atol, "fista"
    )
    state, num_steps, result = solve(_Fista(problem), known, result, max_steps=max_steps)
    objective = objective_of(prepared, data, problem, state.image, state.measurement)
    return Solution(state.image, result, {"num_steps": num_steps, "objective": objective})


class _Fista(AbstractFirstOrder):
    """The state is an image and the extrapolated one, each with its prediction, the momentum, and the objective."""

    problem: ProximalProblem

    @property
    def operator(self) -> Whitened:
        return self.problem.operator

    def init(self) -> Iterate:
        zero = self.problem.zero()
        value = self.problem.value(*zero)
        return Iterate(*zero, (zero, jnp.ones_like(value), value))

    def sizes(self, bound: Array) -> Array:
        return bound

    def dual(self, state: Iterate) -> State:
        (_, prediction), *_ = state.rest
        return self.problem.residual(prediction)

    def primal(self, state: Iterate, back: Array, sizes: Array) -> Array:
        (ahead, _), *_ = state.rest
        return self.problem.proximal_step(ahead, back, sizes)

    def update(
        self, index: Array, state: Iterate, new: Array, prediction: State, sizes: Array
    ) -> tuple[Iterate, Array, Any]:
        del index, sizes
        *old, (_, momentum, objective) = state
        new_momentum = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        # The image, and its prediction, which is linear in it.
        here = (new, prediction)
        ahead = jax.tree.map(lambda n, o: n + rounded((momentum - 1) / new_momentum * (n - o)), here, tuple(old))
        value = self.problem.value(new, prediction)
        moved = Iterate(*here, (ahead, new_momentum, value))
        return moved, *self.problem.stop(new, state.image, value, objective)

    def indicator(self, state: Iterate) -> PyTree[Array]:
        # The objective is made of the image and its prediction, as the extrapolated ones are.
        return state.rest[-1]
