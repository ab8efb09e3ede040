"""The order in which a compiled program decomposes batches of matrices."""

import jax
import jax.numpy as jnp
from jaxtyping import Array


def wait_for(x: Array, done: Array) -> Array:
    """`x`, of which nothing is computed before `done` is. NaN if any of that is NaN or infinite.

    The batched decompositions of jaxlib 0.10 on the CPU wait, on a thread of XLA's pool, for others of that pool: as
    many at once as there are cores, each independent of the others, wait for ever. So those of one program are put in
    a row. XLA drops `optimization_barrier` on the CPU before it schedules, but keeps a product with 0.
    """
    return x + 0 * jnp.sum(jax.lax.stop_gradient(done)).astype(x.dtype)
