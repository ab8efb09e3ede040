"""How the public verbs are compiled."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


def verb(function: Callable) -> Callable:
    """`function` compiled by `eqx.filter_jit`, with Python floats among its arguments traced.

    `eqx.filter_jit` alone takes a Python float for a constant and compiles again for each new value of a weight.
    Integers, such as `max_steps`, stay static.
    """
    compiled = eqx.filter_jit(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = jax.tree.map(lambda v: jnp.asarray(v) if isinstance(v, float) else v, (args, kwargs))
        return compiled(*args, **kwargs)

    return wrapper
