"""Checks of the arguments that the readers and generators of data share."""

import contextlib
import operator
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# No method of compression in use makes more bytes of one.
_MOST_BYTES_OF_ONE = 1100


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


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turns whatever a library raises at a damaged place of a file into a `ValueError` that names the file.

    **Arguments:**

    - `path`: the path of the file.
    - `what`: what the file should be, with its article.
    """
    try:
        yield
    # A library that meets bytes which nobody would write may raise anything: RecursionError, struct.error, KeyError.
    except Exception as error:
        raise ValueError(
            f"{path} is not {what}, or it is truncated or corrupt ({type(error).__name__}: {error}). "
            "Fetch it again if it is damaged."
        ) from error


def check_unpacked(num_bytes: int, stored: int) -> None:
    """Raise, before memory is taken, if an array of `num_bytes` cannot come from as many bytes as are `stored`."""
    if num_bytes > _MOST_BYTES_OF_ONE * stored + 4096:
        raise ValueError(f"it claims {num_bytes} bytes of values, and the file stores {stored} for them")


def read_array(path: Path) -> np.ndarray:
    """The array of numbers in a file that `numpy.save` wrote.

    **Raises:** `ValueError` that names the file and its fault, before memory is taken for what the file does not hold.
    """
    with reading(path, "an array written by `numpy.save`"):
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                raise ValueError("it is an archive of arrays, .npz: save one of them alone, by `numpy.save`")
        # The map takes no memory, and is refused if the file is shorter than its header says.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if mapped.dtype.kind not in "biufc":
            raise ValueError(f"it should hold numbers, and has the dtype {mapped.dtype}")
        return np.array(mapped, mapped.dtype.newbyteorder("="))
