"""Checks of arguments that many modules take."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from ._arrays import as_array, common_dtype, is_concrete

_P = ParamSpec("_P")
_R = TypeVar("_R")


def checked(**checks: Callable[[Any], object]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorates a function whose arguments are checked by name, each by a function that raises for a wrong one.

    The checks come before anything is compiled and before a run-time type checker looks at the annotations, so a caller
    always gets the `ValueError` that says what to do. Defaults are not checked.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        names = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            # With a wrong number of arguments the function itself raises.
            given = dict(zip(names, args, strict=False)) | kwargs
            for name, check in checks.items():
                if name in given:
                    check(given[name])
            return function(*args, **kwargs)

        return wrapper

    return decorate


def check_instance(value: Any, kind: type, name: str, default: Any) -> Any:
    """Return `value`, which must be an instance of `kind`, a class of a public module; `None` stands for `default`."""
    value = default if value is None else value
    if not isinstance(value, kind):
        module = ".".join(kind.__module__.split(".")[:2])
        raise ValueError(
            f"`{name}` must be an instance of a class of `{module}`, such as `{name}={type(default).__name__}()`; got "
            f"{value!r}."
        )
    return value


def check_examples(data: Any, verb: str, name: str = "data", *, allow_complex: bool = False) -> Array:
    """`data` as an array `(n, ...)` of inexact dtype, float32 at least; values are checked where they are known.

    **Raises:** `ValueError` for data that are empty, of the wrong dtype, or not finite, naming the first such example.
    """
    if not hasattr(data, "shape") or not hasattr(data, "dtype"):
        raise ValueError(f"`{verb}` takes `{name}` as one array (n, ...) of n examples; got {type(data).__name__}.")
    data = as_array(data)
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
