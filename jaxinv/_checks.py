"""Checks of arguments that many modules take."""

from typing import Any

import numpy as np


def check_count(value: Any, name: str) -> int:
    """Return `value`, which must be an integer of at least 1 that is known when the program is traced."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be a static integer of at least 1; got {value!r}.")
    return int(value)


def check_instance(value: Any, kind: type, name: str, example: str) -> None:
    """Raise unless `value` is an instance of `kind`, a class of a public module; `example` is one."""
    if not isinstance(value, kind):
        module = ".".join(kind.__module__.split(".")[:2])
        raise ValueError(
            f"`{name}` must be an instance of a class of `{module}`, such as `{name}={example}`; got {value!r}."
        )
