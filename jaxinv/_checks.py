"""Checks of arguments that many modules take."""

from typing import Any

import numpy as np


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
