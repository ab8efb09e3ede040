"""Sums over all pairs of two sets of samples, in blocks of rows that fit into memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import HIGHEST
from .._types import PyTree

# The number of entries of a block, 16 MB in single precision.
_ENTRIES = 2**22

Block = Callable[[Any, Any], Array]


def quadratic_forms(
    block: Block, rows: PyTree[Array], columns: PyTree[Array], left: Array, right: Array, *, width: int = 1
) -> Float[Array, " k"]:
    """`sum_ij left_ik K_ij right_jk` for each `k`, where `K` is a matrix of pairs of which only blocks exist at a time.

    **Arguments:**

    - `block`: the function that makes some rows of `K`, `(b, m)`, of the same rows of `rows` and of all of `columns`.
    - `rows`, `columns`: pytrees of arrays with leading axes `n` and `m`.
    - `left`, `right`: weights, `(n, k)` and `(m, k)`.
    - `width`: the number of values of which `block` makes one entry, for the size of the blocks.

    **Returns:** the sums, `(k,)`.
    """
    n, m = len(left), len(right)
    size = max(1, min(n, _ENTRIES // (m * width)))
    count = -(-n // size)

    def partial(chunk: tuple[PyTree[Array], Array]) -> Array:
        some, weights = chunk
        return jnp.sum(weights * jnp.matmul(block(some, columns), right, precision=HIGHEST), axis=0)

    if count == 1:
        return partial((rows, left))
    # Rows of the last block beyond the end repeat the last one, with weight 0.
    pad = lambda leaf, mode: jnp.pad(leaf, [(0, count * size - n)] + [(0, 0)] * (leaf.ndim - 1), mode=mode)
    split = lambda leaf: leaf.reshape(count, size, *leaf.shape[1:])
    chunks = jax.tree.map(lambda leaf: split(pad(leaf, "edge")), rows), split(pad(left, "constant"))
    return jnp.sum(jax.lax.map(jax.checkpoint(partial), chunks), axis=0)


def squared_distances(a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """`|a_i - b_j|^2` by products; centre the samples first, since this loses digits if they are far from 0."""
    lengths = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None, :]
    return jnp.maximum(lengths - 2 * jnp.matmul(a, b.T, precision=HIGHEST), 0)


def median_of_pairs(squares: Float[Array, "n n"]) -> Float[Array, ""]:
    """The median of the entries above the diagonal."""
    size = len(squares)
    above = jnp.arange(size)[:, None] < jnp.arange(size)[None, :]
    ordered = jnp.sort(jnp.where(above, squares, jnp.inf).ravel())
    count = size * (size - 1) // 2
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
