"""What a metric demands of sets of samples."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array


def check_sets(a: Any, b: Any, metric: str, names: tuple[str, str], least: int = 1) -> tuple[Array, Array]:
    """Both sets as `(n, d)` and `(m, d)` of one dtype, float32 at least; real, of `least` samples each."""
    a, b = jnp.asarray(a), jnp.asarray(b)
    what = f"`{metric}` compares two sets, `{names[0]}` of shape (n, ...) and `{names[1]}` of shape (m, ...)"
    if a.ndim < 1 or b.ndim < 1 or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"{what}, of samples of one shape; got shapes {a.shape} and {b.shape}.")
    if min(len(a), len(b)) < least or a.size == 0:
        raise ValueError(f"{what}, of at least {least} sample(s) each; got shapes {a.shape} and {b.shape}.")
    dtype = real_dtype_of(metric, a, b)
    return a.reshape(len(a), -1).astype(dtype), b.reshape(len(b), -1).astype(dtype)


def check_samples(samples: Any, truth: Any, metric: str) -> tuple[Array, Array]:
    """Samples `(n, *shape)` and the truth `shape`, of one dtype, float32 at least; real."""
    samples, truth = jnp.asarray(samples), jnp.asarray(truth)
    if samples.ndim < 1 or samples.shape[1:] != truth.shape or samples.size == 0:
        hint = ""
        if samples.ndim > 1 and truth.ndim > 0 and samples.shape[2:] == truth.shape[1:]:
            hint = " Both look like many problems: this is for one, so map over problems with `jax.vmap`."
        raise ValueError(
            f"`{metric}` takes the samples of one problem, of shape (n, *shape), and its truth, of that shape; got "
            f"shapes {samples.shape} and {truth.shape}.{hint}"
        )
    dtype = real_dtype_of(metric, samples, truth)
    return samples.astype(dtype), truth.astype(dtype)


def real_dtype_of(metric: str, *arrays: Array) -> Any:
    """The common dtype, float32 at least, of arrays which must be real and inexact."""
    for array in arrays:
        if jnp.iscomplexobj(array):
            raise ValueError(
                f"`{metric}` is defined for real arrays; got dtype {array.dtype}. Stack real and imaginary part as "
                "channels: `jnp.concatenate([x.real, x.imag], axis=-1)`."
            )
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            raise ValueError(
                f"`{metric}` expects floating-point arrays; got dtype {array.dtype}. Convert it: `x.astype(float)`, "
                "divided by 255 for 8-bit images."
            )
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)
