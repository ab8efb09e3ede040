"""Checks of the arguments that the readers and generators of data share."""

import operator
import os
from pathlib import Path
from typing import Any


def check_count(value: Any, what: str) -> int:
    """`value` as a positive integer; shapes are static.

    **Raises:** `ValueError` if it is anything else.
    """
    try:
        count = operator.index(value)
    except TypeError as error:
        raise ValueError(f"`{what}` must be a static positive integer, such as 64; got {value!r}.") from error
    if count < 1:
        raise ValueError(f"`{what}` must be a static positive integer, such as 64; got {count}.")
    return count


def check_file(path: Any, what: str) -> Path:
    """`path` as the path of an existing file.

    **Raises:** `ValueError` if there is no such file.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"`path` must be the path of {what}; got {path!r}.")
    # A path-like object may return bytes, which `Path` refuses with a TypeError.
    path = Path(os.fsdecode(path)).expanduser()
    if not path.exists():
        raise ValueError(f"`path` must be the path of {what}; there is no file {path}.")
    if not path.is_file():
        raise ValueError(f"`path` must be the path of {what}; {path} is not a file.")
    return path
