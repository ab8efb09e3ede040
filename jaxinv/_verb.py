"""How the public verbs are compiled."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ._linen import without_linen
from ._types import Scalar


def verb(function: Callable) -> Callable:
    """`function` compiled by `eqx.filter_jit`, with Python floats and bound linen modules among its arguments traced.

    `eqx.filter_jit` alone takes a Python number for a constant and compiles again for each new value of a weight.
    Integers, such as `max_steps`, stay static, but for those given to a parameter annotated as `Scalar`.
    """
    compiled = eqx.filter_jit(function)
    annotations = {name: p.annotation for name, p in inspect.signature(function).parameters.items()}
    scalars = {name for name, annotation in annotations.items() if annotation in (Scalar, Scalar | None)}

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = without_linen((args, kwargs))
        args, kwargs = jax.tree.map(lambda v: jnp.asarray(v) if isinstance(v, float) else v, (args, kwargs))
        kwargs = {k: jnp.asarray(float(v)) if k in scalars and _is_integer(v) else v for k, v in kwargs.items()}
        return compiled(*args, **kwargs)

    return wrapper


def compiled_method(function: Callable) -> Callable:
    """A method compiled by `eqx.filter_jit`.

    A class holds a function, not what `eqx.filter_jit` makes of it, so that a bound method stays one: `jax.jit` takes
    it, and its signature is shown.
    """
    compiled = eqx.filter_jit(function)

    @functools.wraps(function)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        return compiled(self, *args, **kwargs)

    return wrapper


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
