"""Accelerated iterative shrinkage-thresholding."""

import jax
import jax.numpy as jnp
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
def fista(
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
    return minimise(FISTA(), likelihood, y, weight, regulariser, constraint, norm, max_steps, rtol, atol)


class FISTA(AbstractProximalGradient):
    """The method of `classical.fista`, for `classical.solve`.

    !!! example
        ```python
        import jax, jaxinv
        from jaxinv import classical, regularisers
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((8, 8, 1)), jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(jax.numpy.ones((8, 8, 1)), key=jax.random.key(0))
        solution = classical.solve(likelihood, regularisers.L1(), y, method=classical.FISTA(), weight=1.0)
        ```
    """

    # The state is an image and the extrapolated one, each with its prediction, the momentum, and the objective.
    def init(self, problem: Problem, /, *, key: Key | None = None) -> Iterate:
        zero = problem.zero()
        value = problem.value(*zero)
        return Iterate(*zero, (zero, jnp.ones_like(value), value))

    def dual(self, problem: Problem, state: Iterate) -> State:
        (_, prediction), *_ = state.rest
        return problem.residual(prediction)

    def primal(self, problem: Problem, state: Iterate, back: Array, sizes: Array) -> Array:
        (ahead, _), *_ = state.rest
        return problem.prox(ahead - rounded(sizes * back), sizes)

    def update(
        self, problem: Problem, index: Array, state: Iterate, new: Array, prediction: State, sizes: Array
    ) -> tuple[Iterate, Array, RESULTS]:
        del index, sizes
        *old, (_, momentum, objective) = state
        new_momentum = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        # The image, and its prediction, which is linear in it.
        here = (new, prediction)
        ahead = jax.tree.map(lambda n, o: n + rounded((momentum - 1) / new_momentum * (n - o)), here, tuple(old))
        value = problem.value(new, prediction)
        moved = Iterate(*here, (ahead, new_momentum, value))
        return moved, *problem.stop(new, state.image, value, objective)

    def indicator(self, state: Iterate) -> PyTree[Array]:
        # The objective is made of the image and its prediction, as the extrapolated ones are.
        return state.rest[-1]
