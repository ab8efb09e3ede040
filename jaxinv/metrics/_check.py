"""What a metric demands of the two images that it compares."""

from typing import Any

import jax.core
import jax.numpy as jnp
from jaxtyping import Array


def check_images(x: Any, reference: Any, metric: str) -> tuple[Array, Array]:
    """Both images as arrays of one dtype, float32 at least, which must be inexact and of the same shape."""
    x, reference = jnp.asarray(x), jnp.asarray(reference)
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
    # Sums of half-precision squares would overflow, or lose every digit.
    dtype = jnp.promote_types(jnp.result_type(x, reference), jnp.float32)
    return x.astype(dtype), reference.astype(dtype)


def check_positive(value: Any, dtype: Any, what: str) -> Array:
    """`value` as a positive scalar of the real dtype that matches `dtype`; a traced one is not looked at."""
    if jnp.ndim(value) != 0:
        raise ValueError(
            f"`{what}` must be one number; got shape {jnp.shape(value)}. Map over several with `jax.vmap`."
        )
    if not isinstance(value, jax.core.Tracer) and not 0 < float(value) < float("inf"):
        raise ValueError(f"`{what}` must be positive and finite; got {value}.")
    return jnp.asarray(value, jnp.finfo(dtype).dtype)


def squared_modulus(x: Array) -> Array:
    """`|x|^2`, without the root in `jnp.abs`, whose derivative at 0 is not defined."""
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x**2


def _advice(shape: tuple[int, ...], reference: tuple[int, ...]) -> str:
    if shape[1:] == reference or (len(shape) == len(reference) == 4):
        return "One looks like a batch: metrics take one image at a time, so map with `jax.vmap`."
    if (*shape, 1) == reference or shape == (*reference, 1):
        return "Add the channel axis: `x[..., None]`."
    return "Crop or resample one of them first."
