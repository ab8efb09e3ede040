"""What many parts demand of the same kind of argument."""

from typing import Any

import numpy as np


def check_count(value: Any, name: str) -> int:
    """`value`, which must be an integer of at least 1 that is known when the program is traced."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be a static integer of at least 1; got {value!r}.")
    return int(value)
