"""Iterative shrinkage-thresholding."""

from jaxtyping import Array

from .._jit import verb
from .._solution import RESULTS, Solution
from .._types import Checked, Key, PyTree, Scalar, State
from .._workarounds import rounded
from ..likelihood import Likelihood
from ..regularisers import AbstractRegulariser
from ._first_order import Iterate
from ._proximal import AbstractProximalGradient, minimise
from ._solver import Problem


@verb(traced=("weight", "norm"), tolerances=("rtol", "atol"))
def ista(
    likelihood: Likelihood,
    y: State,
    *,
    weight: Scalar,
    regulariser: Checked[AbstractRegulariser | None] = None,
    constraint: Checked[AbstractRegulariser | None] = None,
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
    - `constraint`: `regularisers.NonNegative()`, `regularisers.Box(low, high)` or `None`. It needs a regulariser that
      is separable, such as `L1()`; with any other take `classical.primal_dual`.
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
    return minimise(ISTA(), likelihood, y, weight, regulariser, constraint, norm, max_steps, rtol, atol)


class ISTA(AbstractProximalGradient):
    """The method of `classical.ista`, for `classical.solve`.

    !!! example
        ```python
        import jax, jaxinv
        from jaxinv import classical, regularisers
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((8, 8, 1)), jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(jax.numpy.ones((8, 8, 1)), key=jax.random.key(0))
        solution = classical.solve(likelihood, regularisers.L1(), y, method=classical.ISTA(), weight=1.0)
        ```
    """

    def init(self, problem: Problem, /, *, key: Key | None = None) -> Iterate:
        x, prediction = problem.zero()
        return Iterate(x, prediction, problem.value(x, prediction))

    def dual(self, problem: Problem, state: Iterate) -> State:
        return problem.residual(state.measurement)

    def primal(self, problem: Problem, state: Iterate, back: Array, sizes: Array) -> Array:
        return problem.prox(state.image - rounded(sizes * back), sizes)

    def update(
        self, problem: Problem, index: Array, state: Iterate, new: Array, prediction: State, sizes: Array
    ) -> tuple[Iterate, Array, RESULTS]:
        del index, sizes
        value = problem.value(new, prediction)
        return Iterate(new, prediction, value), *problem.stop(new, state.image, value, state.rest)

    def indicator(self, state: Iterate) -> PyTree[Array]:
        return state.rest
