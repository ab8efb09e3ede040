"""The check of the data that the clustering and reductions of `subspace` share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from .._arrays import common_dtype, is_concrete


def check_data(data: Any, verb: str, name: str = "data", *, allow_complex: bool = False) -> Array:
    """`data` as an array `(n, ...)` of inexact dtype, float32 at least; values are checked where they are known.

    **Raises:** `ValueError` for data that are empty, of the wrong dtype, or not finite, naming the first such example.
    """
    if not hasattr(data, "shape") or not hasattr(data, "dtype"):
        raise ValueError(f"`{verb}` takes `{name}` as one array (n, ...) of n examples; got {type(data).__name__}.")
    data = jnp.asarray(data)
    if data.ndim < 2:
        raise ValueError(
            f"`{verb}` takes `{name}` of shape (n, ...), n examples along the first axis; got shape {data.shape}. "
            "Numbers are examples of one entry: `data[:, None]`."
        )
    if data.size == 0:
        raise ValueError(f"`{name}` is empty: its shape is {data.shape}.")
    kind, called = (jnp.inexact, "a floating or complex") if allow_complex else (jnp.floating, "a real floating")
    if not jnp.issubdtype(data.dtype, kind):
        raise ValueError(
            f"`{verb}` takes `{name}` of {called} dtype; got {data.dtype}. Convert it: `{name}.astype(float)`, divided "
            "by 255 for 8-bit images."
        )
    data = data.astype(common_dtype(data.dtype))
    if is_concrete(data):
        finite = np.asarray(_finite_examples(data))
        if not finite.all():
            raise ValueError(
                f"`{name}` must be finite; example {int(np.argmin(finite))} holds NaN or infinity, and "
                f"{int((~finite).sum())} of {len(finite)} examples do. Leave them out, or mend them."
            )
    return data


@jax.jit
def _finite_examples(data: Array) -> Bool[Array, " n"]:
    return jnp.all(jnp.isfinite(data), axis=tuple(range(1, data.ndim)))
