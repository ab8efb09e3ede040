"""What the two tomographs demand of their geometry."""

import math
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._base import is_concrete, parameter_dtype


def check_angles(angles: Any, centre_offset: Any, name: str) -> tuple[Array, Array]:
    """`angles` and `centre_offset` as array leaves of one real dtype.

    **Raises:** `ValueError` unless there are angles, on one axis, and one offset, all real and finite.
    """
    angles = jnp.asarray(angles)
    if angles.ndim != 1 or angles.size == 0:
        raise ValueError(
            f"{name} expects `angles` as a vector of at least one angle, in radians; got shape {angles.shape}. "
            "Map over several sets of angles with `jax.vmap`."
        )
    centre_offset = jnp.asarray(centre_offset)
    if centre_offset.ndim != 0:
        raise ValueError(f"{name} expects `centre_offset` as one number; got shape {centre_offset.shape}.")
    dtype = parameter_dtype(angles, centre_offset)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"{name} expects real `angles` and a real `centre_offset`; got dtype {dtype}.")
    for what, value in (("angles", angles), ("centre_offset", centre_offset)):
        if is_concrete(value) and not np.isfinite(value).all():
            raise ValueError(f"{name}: `{what}` holds a value that is not finite.")
    # Two turns, and a little more for rounding.
    if is_concrete(angles) and float(np.abs(angles).max()) > 4.01 * math.pi:
        warnings.warn(
            f"{name}: `angles` are in radians, yet the largest is {float(np.abs(angles).max()):.4g}, more than two "
            "turns. If they are in degrees, convert them with `jnp.deg2rad(angles)`.",
            UserWarning,
            stacklevel=5,
        )
    return angles.astype(dtype), centre_offset.astype(dtype)


def check_length(value: Any, what: str, name: str) -> float:
    """`value` as a positive Python float."""
    value = _static(value, float, what, name)
    if not (0 < value < math.inf):
        raise ValueError(f"{name}: `{what}` must be positive and finite; got {value}.")
    return value


def check_count(value: Any, what: str, name: str) -> int:
    """`value` as a positive Python integer."""
    count = _static(value, int, what, name)
    if count < 1 or count != value:
        raise ValueError(f"{name}: `{what}` must be a positive integer; got {value}.")
    return count


def _static(value: Any, kind: type, what: str, name: str) -> Any:
    if not is_concrete(value):
        raise ValueError(
            f"{name}: `{what}` is part of the static geometry (it decides the size of arrays), so it must be a Python "
            f"number, not a traced value. Make the operator outside `jax.jit`, or close over `{what}`; what can be "
            "traced, mapped and differentiated is `angles` and `centre_offset`."
        )
    try:
        return kind(value)
    except TypeError as error:
        raise ValueError(f"{name}: `{what}` must be one number; got {value!r}.") from error
