"""The check of training data, and their checksum for checkpoints."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import as_array
from .._types import PyTree


def check_data(data: Any, name: str) -> tuple[PyTree[Array], int]:
    """`data` as arrays, and the number of examples: the length of the first axis of every leaf.

    **Raises:** `ValueError` if there are no examples, or if leaves differ in length, are not floating, or hold NaN or
    infinity.
    """
    leaves, treedef = jax.tree.flatten(data)
    if not leaves or not all(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves):
        kinds = ", ".join(type(leaf).__name__ for leaf in leaves) or "nothing"
        raise ValueError(
            f"`{name}` must be an array (n, ...) of n examples, or a pytree of arrays of the same n; got {kinds}."
        )
    counts = {leaf.shape[0] if leaf.ndim else -1 for leaf in leaves}
    if -1 in counts or len(counts) > 1:
        raise ValueError(
            f"Every leaf of `{name}` needs the examples along its first axis, the same number of them; got shapes "
            f"{[leaf.shape for leaf in leaves]}."
        )
    count = counts.pop()
    if count == 0:
        raise ValueError(f"`{name}` is empty: its shapes are {[leaf.shape for leaf in leaves]}.")
    for leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise ValueError(
                f"`{name}` must be of a floating dtype; got {leaf.dtype}. Convert it: `{name}.astype(float)`, divided "
                "by 255 for 8-bit images."
            )
    leaves = [as_array(leaf) for leaf in leaves]
    for leaf in leaves:
        finite = np.asarray(jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim))))
        if not finite.all():
            first = int(np.argmin(finite))
            raise ValueError(
                f"`{name}` must be finite; example {first} holds NaN or infinity, and {int((~finite).sum())} of "
                f"{count} examples do. Leave them out, or mend them."
            )
    return jax.tree.unflatten(treedef, leaves), count


def name_of(thing: Any) -> str:
    """The name of a function, or of the class of an object."""
    return "None" if thing is None else getattr(thing, "__qualname__", type(thing).__name__)


def fingerprint(tree: PyTree) -> str:
    """Shapes, dtypes and a checksum of the arrays of a tree."""
    checksum, shapes = 0, []
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            continue
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        # NumPy's arrays count as what JAX makes of them.
        leaf = np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))
        checksum = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data, checksum)
        shapes.append(f"{leaf.dtype}{list(leaf.shape)}")
    return f"{', '.join(shapes[:3])}{' ...' if len(shapes) > 3 else ''} with checksum {checksum:08x}"
