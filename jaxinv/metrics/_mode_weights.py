"""How samples share out among modes."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import State
from ._sets import check_sets


@eqx.filter_jit
def mode_weights(samples: State, means: State) -> Float[Array, " k"]:
    """The share of the samples that is nearest to each of `k` means, in Euclidean distance.

    Half the sum of its absolute differences to the weights of the exact law is the total variation of the mode
    weights.

    **Arguments:**

    - `samples`: `(n, ...)`, real.
    - `means`: `(k, ...)`, of the shape of the samples each.

    **Returns:** shares of sum 1, `(k,)`; NaN if a sample or a mean is not finite. Of means at the same distance the
    first counts.

    **Raises:** `ValueError` if the shapes differ, or for complex numbers or integers.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import metrics
        shares = metrics.mode_weights(jnp.array([[0.1], [0.2], [0.9], [-3.0]]), jnp.array([[0.0], [1.0]]))
        assert jnp.allclose(shares, jnp.array([0.75, 0.25]))
        ```
    """
    samples, means = check_sets(samples, means, "mode_weights", ("samples", "means"))
    finite = jnp.all(jnp.isfinite(samples)) & jnp.all(jnp.isfinite(means))
    centre = jnp.mean(means, axis=0, keepdims=True)
    samples, means = samples - centre, means - centre
    products = jnp.matmul(samples, means.T, precision=jax.lax.Precision.HIGHEST)
    nearest = jnp.argmin(jnp.sum(means**2, axis=1)[None, :] - 2 * products, axis=1)
    counts = jnp.sum(nearest[:, None] == jnp.arange(len(means))[None, :], axis=0)
    return jnp.where(finite, counts.astype(samples.dtype) / len(samples), jnp.nan)
