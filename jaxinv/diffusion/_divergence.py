"""The divergence of a vector field, exact or estimated."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._types import Key

HIGHEST = jax.lax.Precision.HIGHEST


def probes(x: Array, key: Key | None, num_probes: int) -> Array:
    """The vectors `e` whose mean of `e^T J e` is the trace of `J`.

    Without a key the unit vectors, scaled so that the mean is exact. With one, random signs, whose mean is unbiased.
    """
    if key is None:
        return (jnp.eye(x.size, dtype=x.dtype) * jnp.sqrt(jnp.asarray(x.size, x.dtype))).reshape(x.size, *x.shape)
    draw = lambda index: jax.random.rademacher(jax.random.fold_in(key, index), x.shape, x.dtype)
    return jax.vmap(draw)(jnp.arange(num_probes))


def divergence(field: Callable[[Array], Array], x: Array, vectors: Array) -> tuple[Array, Array]:
    """`field(x)` and its divergence, the mean of `e^T J e` over the probes; the field is linearised once."""
    value, push = jax.linearize(field, x)
    return value, jnp.mean(jax.vmap(lambda e: jnp.sum(e * push(e)))(vectors))
