"""Checks of the arguments that the metrics share."""

from typing import Any

import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import as_array, common_dtype


def check_images(x: Any, reference: Any, metric: str) -> tuple[Array, Array]:
    """Both images as arrays of one dtype, float32 at least.

    **Raises:** `ValueError` if they are not of the same shape, or not inexact.
    """
    x, reference = as_array(x), as_array(reference)
    if x.shape != reference.shape:
        raise ValueError(
            f"`{metric}` compares images of the same shape; got an image of shape {x.shape} and a reference of shape "
            f"{reference.shape}. {_advice(x.shape, reference.shape)}"
        )
    if x.size == 0:
        raise ValueError(f"`{metric}` compares images of at least one pixel; got shape {x.shape}.")
    for what, array in (("an image", x), ("a reference", reference)):
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            raise ValueError(
                f"`{metric}` expects floating-point images; got {what} of dtype {array.dtype}. Convert it: "
                "`x.astype(float)`, divided by 255 for an 8-bit image."
            )
    # Sums of squares in half precision would overflow, or lose all digits.
    dtype = common_dtype(x, reference)
    return x.astype(dtype), reference.astype(dtype)


def check_positive(value: Any, dtype: Any, what: str) -> Array:
    """`value` as a positive scalar of the real dtype that matches `dtype`; a traced value out of range becomes NaN."""
    if jnp.ndim(value) != 0:
        raise ValueError(
            f"`{what}` must be one number; got shape {jnp.shape(value)}. Map over several with `jax.vmap`."
        )
    if not isinstance(value, jax.core.Tracer) and not 0 < float(value) < float("inf"):
        raise ValueError(f"`{what}` must be positive and finite; got {value}.")
    value = jnp.asarray(value, jnp.finfo(dtype).dtype)
    return jnp.where((value > 0) & (value < jnp.inf), value, jnp.nan)


def squared_modulus(x: Array) -> Array:
    """`|x|^2`, without the root in `jnp.abs`, whose derivative at 0 is not defined."""
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x**2


def _advice(shape: tuple[int, ...], reference: tuple[int, ...]) -> str:
    if shape[1:] == reference or (len(shape) == len(reference) == 4):
        return "One looks like a batch: metrics take one image at a time, so map with `jax.vmap`."
    if (*shape, 1) == reference or shape == (*reference, 1):
        return "Add the channel axis: `x[..., None]`."
    return "Crop or resample one of them first."


def check_flag(value: Any, name: str) -> None:
    """Raise unless `value` is a Python boolean."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"`{name}` must be True or False, known when the program is traced; got {value!r}.")


def check_set(samples: Any, metric: str, name: str, least: int = 1) -> Array:
    """A set of samples `(n, ...)` as a real array, float32 at least, with at least `least` samples."""
    samples = as_array(samples)
    if samples.ndim < 1 or len(samples) < least or samples.size == 0:
        raise ValueError(
            f"`{metric}` takes `{name}`, at least {least} sample(s) of shape (n, ...); got shape {samples.shape}."
        )
    return samples.astype(real_dtype_of(metric, samples))


def check_sets(a: Any, b: Any, metric: str, names: tuple[str, str], least: int = 1) -> tuple[Array, Array]:
    """Both sets as real arrays `(n, d)` and `(m, d)` of one dtype, float32 at least, with at least `least` samples."""
    a, b = as_array(a), as_array(b)
    what = f"`{metric}` compares two sets, `{names[0]}` of shape (n, ...) and `{names[1]}` of shape (m, ...)"
    if a.ndim < 1 or b.ndim < 1 or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"{what}, of samples of one shape; got shapes {a.shape} and {b.shape}.")
    if min(len(a), len(b)) < least or a.size == 0:
        raise ValueError(f"{what}, of at least {least} sample(s) each; got shapes {a.shape} and {b.shape}.")
    dtype = real_dtype_of(metric, a, b)
    return a.reshape(len(a), -1).astype(dtype), b.reshape(len(b), -1).astype(dtype)


def check_samples(samples: Any, truth: Any, metric: str) -> tuple[Array, Array]:
    """Samples `(n, *shape)` and the truth `shape` as real arrays of one dtype, float32 at least."""
    samples, truth = as_array(samples), as_array(truth)
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
    """The common dtype, float32 at least, of arrays that must be real and inexact."""
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
    return common_dtype(*arrays)
