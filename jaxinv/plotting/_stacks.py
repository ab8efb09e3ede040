"""Checks of the images of a figure, and the ranges of values that are drawn."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np


def check_images(images: Any, reference: Any) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    if not isinstance(images, Mapping) or not images:
        raise ValueError(
            "`images` must be a dictionary from the names of the methods to their images, with at least one entry; got "
            f"{type(images).__name__}{' without entries' if isinstance(images, Mapping) else ''}."
        )
    stacks = {str(name): _stack(value, f"images[{name!r}]") for name, value in images.items()}
    first, expected = next((name, stack.shape) for name, stack in stacks.items())
    for name, stack in stacks.items():
        if stack.shape != expected:
            raise ValueError(
                f"All images must have the same shape; images[{name!r}] has {stack.shape} and images[{first!r}] "
                f"{expected} (number of problems, height, width, channels)."
            )
    if reference is None:
        return stacks, None
    truth = _stack(reference, "reference")
    if truth.shape[1:] != expected[1:] or len(truth) not in (1, expected[0]):
        raise ValueError(
            f"`reference` must have the shape of the images, {expected}, or be one image of shape {expected[1:]}; got "
            f"{np.shape(reference)}."
        )
    return stacks, np.broadcast_to(truth, expected)


def _stack(value: Any, name: str) -> np.ndarray:
    value = np.asarray(value)
    if value.ndim not in (3, 4) or value.shape[-1] not in (1, 3) or value.size == 0:
        advice = " Add the channel axis: `x[..., None]`." if value.ndim == 2 else ""
        raise ValueError(
            f"`{name}` must be of shape (n, height, width, channels) or (height, width, channels), channels 1 or 3; "
            f"got {value.shape}.{advice}"
        )
    if not jnp.issubdtype(value.dtype, jnp.floating):
        advice = (
            "`jnp.abs(x)` of it" if value.dtype.kind == "c" else "`x.astype(float)`, divided by 255 if it has 8 bits"
        )
        raise ValueError(f"`{name}` must hold real floating-point numbers; got {value.dtype}. Pass {advice}.")
    # matplotlib does not support half precision, and most of numpy does not support bfloat16.
    value = value.astype(np.promote_types(value.dtype, np.float32) if value.dtype.kind == "f" else np.float32)
    return value if value.ndim == 4 else value[None]


def image_limits(limits: Any, stacks: list[np.ndarray]) -> tuple[float, float]:
    if limits is None:
        finite = np.concatenate([stack[np.isfinite(stack)] for stack in stacks])
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        return (low, high) if high > low else (low, low + 1.0)
    low, high = (float(limit) for limit in limits)
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"`limits` must be two finite numbers, the smaller first; got {limits!r}.")
    return low, high


def choose_error_limit(error_limit: Any, residuals: list[np.ndarray]) -> float:
    if error_limit is None:
        finite = np.concatenate([np.abs(r[np.isfinite(r)]) for r in residuals]) if residuals else np.zeros(0)
        largest = float(np.quantile(finite, 0.995)) if finite.size else 0.0
        # If the quantile is 0 because only a few pixels are wrong, use the largest error.
        return largest or (float(finite.max()) if finite.size else 0.0) or 1.0
    if not (np.isfinite(error_limit) and error_limit > 0):
        raise ValueError(f"`error_limit` must be positive and finite; got {error_limit!r}.")
    return float(error_limit)
