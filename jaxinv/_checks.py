"""Checks of arguments that many modules take."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

_P = ParamSpec("_P")
_R = TypeVar("_R")


def check_count(value: Any, name: str) -> int:
    """Return `value`, which must be an integer of at least 1 that is known when the program is traced."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be a static integer of at least 1; got {value!r}.")
    return int(value)


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
