"""Iterative shrinkage-thresholding."""

from typing import Any

from jaxtyping import Array

from .._jit import verb
from .._solution import Solution
from .._types import Checked, PyTree, Scalar, State
from ..likelihood import Likelihood, Whitened
from ..regularisers import AbstractRegulariser
from ._first_order import AbstractFirstOrder, Iterate, solve
from ._proximal import ProximalProblem, objective_of, proximal_problem


@verb(not_negative=("weight",), positive=("norm",), tolerances=("rtol", "atol"))
def ista(
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
    """Minimise `-log p(y | x) + weight * R(x)` by proximal gradient steps: `x <- prox(x - step grad, step weight)`.

    The step is `1 / ||B||^2` with `B` the operator whitened by the noise; the objective decreases in every step. Photon
    noise enters by its Gaussian approximation. `fista` needs far fewer steps.

    **Arguments:**

    - `likelihood`: a linear operator and its noise.
    - `y`: one measurement.
    - `weight`: a scalar, not negative.
    - `regulariser`: one with a prox; default `regularisers.L1()`.
    - `norm`: of the operator, where it is known; else it is estimated in the first rounds, from a fixed start.
    - `max_steps`: static.
    - `rtol`, `atol`: it stops when a step changes both image and objective by less than `atol + rtol * size`.

    **Returns:** a `Solution`; `stats`: `num_steps`, `objective`.

    **Raises:** `ValueError` for a non-linear operator, a regulariser without a prox, or wrong shapes.

    **Reference:** Daubechies, Defrise, De Mol, An iterative thresholding algorithm for linear inverse problems with a
    sparsity constraint, 2004.

    !!! example
        ```python
        import jax, jaxinv
        matrix = jax.random.normal(jax.random.key(0), (30, 60)) / 30**0.5
        likelihood = jaxinv.Likelihood(jaxinv.operators.Matrix(matrix, (60,)), jaxinv.noise.Gaussian(0.01))
        y = likelihood.simulate(jax.numpy.zeros(60).at[7].set(1.0), key=jax.random.key(1))
        x = jaxinv.classical.ista(likelihood, y, weight=100.0).value
        ```
    """
    problem, known, prepared, data, result = proximal_problem(
        likelihood, y, weight, regulariser, norm, rtol, atol, "ista"
    )
    state, num_steps, result = solve(_Ista(problem), known, result, max_steps=max_steps)
    objective = objective_of(prepared, data, problem, state.image, state.measurement)
    return Solution(state.image, result, {"num_steps": num_steps, "objective": objective})


class _Ista(AbstractFirstOrder):
    """The state is an image, its prediction and its objective."""

    problem: ProximalProblem

    @property
    def operator(self) -> Whitened:
        return self.problem.operator

    def init(self) -> Iterate:
        x, prediction = self.problem.zero()
        return Iterate(x, prediction, self.problem.value(x, prediction))

    def sizes(self, bound: Array) -> Array:
        return bound

    def dual(self, state: Iterate) -> State:
        return self.problem.residual(state.measurement)

    def primal(self, state: Iterate, back: Array, sizes: Array) -> Array:
        return self.problem.proximal_step(state.image, back, sizes)

    def update(
        self, index: Array, state: Iterate, new: Array, prediction: State, sizes: Array
    ) -> tuple[Iterate, Array, Any]:
        del index, sizes
        value = self.problem.value(new, prediction)
        return Iterate(new, prediction, value), *self.problem.stop(new, state.image, value, state.rest)

    def indicator(self, state: Iterate) -> PyTree[Array]:
        return state.rest
