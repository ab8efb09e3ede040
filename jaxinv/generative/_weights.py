"""The choice of the weight by the discrepancy principle."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from .._arrays import check_key
from .._checks import check_instance
from .._jit import verb
from .._prior import AbstractGenerativePrior
from .._solution import RESULTS, Solution
from .._types import ArrayLike, Checked, IntLike, Key, Scalar, State
from ..likelihood import Likelihood, discrepancy, prepare, prepare_parameter
from ._algorithm import Alternating
from ._method import AbstractLatentMethod, Hard
from ._reconstruct import reconstruct
from ._start import AbstractStart, FromPrior


@verb(traced=("factor", "learning_rate"), tolerances=("rtol", "atol"))
def choose_weight(
    likelihood: Likelihood,
    prior: Checked[AbstractGenerativePrior],
    y: State,
    *,
    key: Key,
    weights: ArrayLike,
    factor: Scalar = 1.0,
    method: Checked[AbstractLatentMethod] = Hard(),  # noqa: B008
    optimiser: Checked[optax.GradientTransformation | Alternating | None] = None,
    learning_rate: Scalar = 0.05,
    restarts: IntLike = 1,
    start: Checked[AbstractStart] = FromPrior(),  # noqa: B008
    max_steps: IntLike = 1000,
    rtol: Scalar = 1e-4,
    atol: Scalar = 0.0,
) -> Solution:
    """`reconstruct` with every weight of a grid, and the largest weight that fits the data: the discrepancy principle.

    A weight fits if `||W (y - A x)||^2 <= factor^2 m`, with `W` the whitening of the noise and `m` the number of real
    measured values: the noise alone has this size. If no weight fits, the result is that of the weight that comes
    closest. All weights, and restarts, are one `jax.vmap`.

    **Arguments:** as `reconstruct`, and

    - `weights`: `(n,)`, the weights of the energy. They multiply the weight of the method too, so that the balance of
      the two penalties stays: in the notation of the paper these are the `l` of `l m ||z||^2 + l ||u||_1`.
    - `factor`: positive, the safety factor on the noise. Raise it where the noise level is uncertain.

    **Returns:** the `Solution` with the chosen weight. Its `stats` hold in addition the `weight`, `fits` (whether any
    weight fits), and for all weights the `discrepancies`, `||W (y - A x)||^2 / m`, and the `objectives`. Its `aux`
    holds in addition `grid`, the solutions with all weights as one batch.

    **Raises:** `ValueError` as `reconstruct`, and if `weights` are not a list of numbers.

    **Reference:** Morozov, On the solution of functional equations by the method of regularization, 1966.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian.from_factor(jnp.zeros((8, 8, 1)), jnp.eye(64)[:, :5]).as_latent()
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((8, 8, 1)), jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(prior.decode(jnp.ones(5)), key=jax.random.key(0))
        weights = jnp.geomspace(0.01, 100, 9)
        solution = jaxinv.generative.choose_weight(likelihood, prior, y, key=jax.random.key(1), weights=weights)
        weight, image = solution.stats["weight"], solution.value
        ```
    """
    check_key(key)
    method = check_instance(method, AbstractLatentMethod, "method", Hard())
    weights = jnp.asarray(weights)
    if weights.ndim != 1 or weights.size == 0 or not jnp.issubdtype(weights.dtype, jnp.floating):
        raise ValueError(
            f"`weights` must be real numbers in one array of shape (n,), such as jnp.geomspace(.01, 100, 9); got shape "
            f"{weights.shape} and dtype {weights.dtype}."
        )

    def solve(weight: Array) -> Solution:
        return reconstruct(
            likelihood,
            prior,
            y,
            key=key,
            method=method.scaled(weight),
            weight=weight,
            optimiser=optimiser,
            learning_rate=learning_rate,
            restarts=restarts,
            start=start,
            max_steps=max_steps,
            rtol=rtol,
            atol=atol,
        )

    prepared, data, result = prepare(likelihood, y)
    factor, result = prepare_parameter(factor, likelihood.operator, result, positive=True, name="factor")
    grid = jax.vmap(solve)(weights)
    discrepancies = jax.vmap(lambda x: discrepancy(prepared, data, x))(grid.value)
    usable = (grid.result == RESULTS.successful) | (grid.result == RESULTS.max_steps_reached)
    fits = usable & (discrepancies <= factor**2)
    largest = jnp.argmax(jnp.where(fits, weights, -jnp.inf))
    closest = jnp.argmin(jnp.where(usable, discrepancies, jnp.inf))
    best = jnp.where(jnp.any(fits), largest, closest)
    chosen = jax.tree.map(lambda leaf: leaf[best], grid)
    stats = chosen.stats | {
        "weight": weights[best].astype(factor.dtype),
        "fits": jnp.any(fits),
        "discrepancies": discrepancies,
        "objectives": grid.stats["objective"],
    }
    code = RESULTS.where(result == RESULTS.successful, chosen.result, result)
    value = jnp.where(result == RESULTS.successful, chosen.value, jnp.zeros_like(chosen.value))
    return Solution(value, code, stats, chosen.aux | {"grid": grid})
