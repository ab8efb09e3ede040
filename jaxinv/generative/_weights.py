"""The choice of the weight by the discrepancy principle."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._keys import check_key
from .._solution import RESULTS, Solution
from .._types import Key, Scalar, State
from .._verb import verb
from ..likelihood import Likelihood, discrepancy, prepare, prepare_parameter
from ._hard import Hard
from ._reconstruct import reconstruct
from ._relaxed import Relaxed
from ._soft import Soft


@verb
def choose_weight(
    likelihood: Likelihood,
    prior: Any,
    y: State,
    *,
    key: Key,
    weights: Any,
    factor: Scalar = 1.0,
    method: Any = None,
    optimiser: Any = None,
    learning_rate: Scalar = 0.05,
    restarts: Any = 1,
    start: Any = None,
    max_steps: int = 1000,
    rtol: Scalar = 1e-4,
    atol: Scalar = 0.0,
) -> Solution:
    """`reconstruct` with every weight of a grid, and the largest weight that fits the data: the discrepancy principle.

    A weight fits if `||W (y - A x)||^2 <= factor^2 m`, with `W` the whitening of the noise and `m` the number of real
    measured values, which is what the noise alone amounts to. If none fits, the one that comes closest is taken. All
    weights, and restarts, are one `jax.vmap`.

    **Arguments:** as `reconstruct`, and

    - `weights`: `(n,)`, of the energy. The weight of a method of its own is multiplied by them, so that the balance of
      the two penalties stays: in the notation of the paper these are the `l` of `l m ||z||^2 + l ||u||_1`.
    - `factor`: positive, the safety factor on the noise.

    **Returns:** the `Solution` with the chosen weight; `stats` in addition: `weight`, `fits` (whether any weight did),
    and of all weights `discrepancies`, `||W (y - A x)||^2 / m`, and `objectives`. `aux` in addition: `grid`, the
    solutions with all weights, as one batch.

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
    method = Hard() if method is None else method
    weights = jnp.asarray(weights)
    if weights.ndim != 1 or weights.size == 0 or not jnp.issubdtype(weights.dtype, jnp.floating):
        raise ValueError(
            f"`weights` must be real numbers in one array of shape (n,), such as jnp.geomspace(.01, 100, 9); got shape "
            f"{weights.shape} and dtype {weights.dtype}."
        )

    def solve(weight: Array) -> Solution:
        own = method
        if isinstance(own, Relaxed | Soft):
            own = eqx.tree_at(lambda m: m.weight, own, own.weight * weight.astype(own.weight.dtype))
        return reconstruct(
            likelihood,
            prior,
            y,
            key=key,
            method=own,
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
