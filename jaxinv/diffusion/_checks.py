"""What methods demand of their numbers, where these are known."""

from typing import Any

import numpy as np

from ..operators._base import is_concrete


def check_share(value: Any, name: str) -> None:
    """Raise for what is known not to lie in [0, 1]."""
    # By numpy: within a trace a comparison of known numbers is not known.
    if is_concrete(value) and not np.all((np.asarray(value) >= 0) & (np.asarray(value) <= 1)):
        raise ValueError(f"`{name}` must lie between 0 and 1; got {value}.")


def check_not_negative(value: Any, name: str) -> None:
    """Raise for what is known to be negative or not finite."""
    if is_concrete(value) and not np.all((np.asarray(value) >= 0) & np.isfinite(value)):
        raise ValueError(f"`{name}` must be finite and not negative; got {value}.")


def check_positive(value: Any, name: str) -> None:
    """Raise for what is known not to be positive, or not finite."""
    if is_concrete(value) and not np.all((np.asarray(value) > 0) & np.isfinite(value)):
        raise ValueError(f"`{name}` must be finite and positive; got {value}.")
