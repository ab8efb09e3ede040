"""The test of two sets of samples by their energy distance."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import check_count, check_key, nan_unless
from .._jit import compiled_method
from .._module import Module
from .._types import IntLike, Key, State
from ._checks import check_sets
from ._energy import distances
from ._pairs import quadratic_forms


class EnergyTest(Module):
    """The result of `energy_test`.

    - `distance`: the energy distance, the unbiased estimate.
    - `p_value`: the probability of a distance as large, if both sets were independent draws of one law.
    - `floor`: the distance that two such sets exceed in 5 % of cases.
    """

    distance: Float[Array, ""]
    p_value: Float[Array, ""]
    floor: Float[Array, ""]


@compiled_method
def energy_test(a: State, b: State, *, key: Key, num_draws: IntLike = 500) -> EnergyTest:
    """Test whether two sets of independent samples are from one law, by their energy distance.

    The law of the distance under that hypothesis is that of random divisions of the pooled samples into two sets of
    these sizes, so that the test has its level exactly, in any dimension.

    **Arguments:**

    - `a`: the first set of samples, `(n, ...)`, real, at least two; independent, so thin a chain first.
    - `b`: the second set, `(m, ...)`, with samples of the same shape.
    - `key`: a typed key for the divisions.
    - `num_draws`: the number of divisions, static. The smallest possible p-value is `1 / (num_draws + 1)`.

    **Returns:** an `EnergyTest`; its numbers are NaN if a sample is not finite.

    **Raises:** as `energy_distance`, and for a `num_draws` that is not a positive integer.

    **Reference:** Székely, Rizzo, Testing for equal distributions in high dimension, 2004.

    !!! example
        ```python
        import jax
        from jaxinv import metrics
        a, b = jax.random.normal(jax.random.key(0), (2, 200, 8))
        equal = metrics.energy_test(a, b, key=jax.random.key(1))
        shifted = metrics.energy_test(a, b + 0.5, key=jax.random.key(1))
        print(equal.p_value, shifted.p_value)
        ```
    """
    check_key(key)
    check_count(num_draws, "num_draws")
    a, b = check_sets(a, b, "energy_test", ("a", "b"), least=2)
    n, m = len(a), len(b)
    both = jnp.concatenate([a, b])
    first = (jnp.arange(n + m) < n).astype(both.dtype)
    keys = jax.random.split(key, num_draws)
    divided = jax.vmap(lambda key: jax.random.permutation(key, first))(keys)
    members = jnp.concatenate([first[None], divided]).T
    ones = jnp.ones((n + m, num_draws + 1), both.dtype)
    # The sums across the sets and within the second follow from those within the first, from the first to all, of all.
    left = jnp.concatenate([members, members, ones[:, :1]], axis=1)
    right = jnp.concatenate([members, ones, ones[:, :1]], axis=1)
    sums = quadratic_forms(distances, both, both, left, right, width=both.shape[1])
    within, from_first, total = sums[: num_draws + 1], sums[num_draws + 1 : -1], sums[-1]
    across, other = from_first - within, total - 2 * from_first + within
    values = 2 * across / (n * m) - within / (n * (n - 1)) - other / (m * (m - 1))
    spoilt = nan_unless(jnp.all(jnp.isfinite(both)), both.dtype)
    p_value = ((1 + jnp.sum(values[1:] >= values[0])) / (num_draws + 1)).astype(both.dtype)
    # A statistic exceeds it where the p-value is at most .05.
    floor = jnp.sort(values[1:])[min(num_draws, math.ceil(0.95 * (num_draws + 1))) - 1]
    return EnergyTest(values[0] + spoilt, p_value + spoilt, floor + spoilt)
