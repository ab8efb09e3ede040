"""Images drawn from a generative prior."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import check_count
from .._keys import check_key
from .._types import Key
from .._verb import verb
from ._reconstruct import check_prior


@verb
def sample(prior: Any, n: Any, *, key: Key) -> Array:
    """Images `G(z)` of latents drawn from the prior.

    **Arguments:**

    - `prior`: a generative prior.
    - `n`: static.
    - `key`: draw `i` depends on the key and `i` only.

    **Returns:** `(n, *image_shape)`.

    **Raises:** `ValueError` unless `n` is a positive integer.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian.from_factor(jnp.zeros((8, 8, 1)), jnp.eye(64)[:, :5]).as_latent()
        images = jaxinv.generative.sample(prior, 16, key=jax.random.key(0))
        ```
    """
    check_key(key)
    prior = check_prior(prior)
    check_count(n, "n")
    draw = lambda i: prior.decode(prior.sample_latent(key=jax.random.fold_in(key, i)))
    return jax.vmap(draw)(jnp.arange(n))
