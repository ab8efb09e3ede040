"""Checks that networks and the priors around them share; `_networks.py` adapts networks of other libraries."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from .._arrays import check_floating, check_shape


def check_batch(x: Any, shape: tuple[int, ...], what: str, name: str) -> Array:
    """`x` as an array of shape `(n, *shape)` and floating dtype, as a network expects it."""
    x = jnp.asarray(x)
    letters = "(n, h, w, c)" if len(shape) == 3 else "(n, k)"
    expected = f"(n, {', '.join(map(str, shape))})"
    if x.shape[1:] != shape or x.ndim != len(shape) + 1:
        advice = "Networks take a batch " + letters + "; "
        if x.shape == shape:
            advice += "add the batch axis: `x[None]`."
        elif x.ndim == len(shape) and len(shape) == 3 and x.shape[1:] == shape[:2] and shape[2] == 1:
            advice += "add the channel axis: `x[..., None]`."
        else:
            advice += "this network was made for other sizes."
        raise ValueError(f"{name} expects {what} of shape {expected}; got {x.shape}. {advice}")
    return check_floating(x, what, name)


def check_network_shape(image_shape: Any, rngs: Any) -> tuple[int, int, int]:
    """Return the shape of an image as `(h, w, c)`, and raise unless weights can be drawn from `rngs`."""
    image_shape = check_shape(image_shape, "image_shape")
    if len(image_shape) != 3:
        raise ValueError(f"`image_shape` must be (height, width, channels); got {image_shape}.")
    check_rngs(rngs)
    return image_shape


def check_rngs(rngs: Any) -> None:
    """Raise unless `rngs` is a `flax.nnx.Rngs`, from which weights can be drawn."""
    if not isinstance(rngs, nnx.Rngs):
        raise ValueError(f"`rngs` must be a `flax.nnx.Rngs`, made by `nnx.Rngs(0)`; got {type(rngs).__name__}.")
