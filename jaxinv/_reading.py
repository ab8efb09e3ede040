"""What the readers of files share: faults that name the file, and sizes that are checked before memory is taken."""

import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np

# `Checked` of `_types.py`, for files that do not need JAX.
if TYPE_CHECKING:
    T = TypeVar("T")
    Checked = Annotated[T, "checked by the library"]
else:

    class Checked:
        def __class_getitem__(cls, kind: Any) -> Any:
            return Annotated[Any, kind]


# The largest ratio of any compression in use.
_MOST_BYTES_OF_ONE = 1100


class Refused(ValueError):
    """Raised for a file that a reader does not take although it may be sound: `reading` adds the path, and does not
    call it corrupt."""


class reading:
    """A context that turns whatever a library raises at a damaged place of a file into a `ValueError` that names it.

    A library may raise anything for corrupt bytes: RecursionError, struct.error, KeyError.

    - `path`: the path of the file.
    - `what`: what the file should be, with its article.
    """

    def __init__(self, path: Path, what: str):
        self.path, self.what = path, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Refused):
            raise ValueError(f"{self.path}: {error}") from error
        if isinstance(error, Exception):
            raise ValueError(
                f"{self.path} is not {self.what}, or it is truncated or corrupt ({type(error).__name__}: {error}). "
                "Fetch it again if it is damaged."
            ) from error


class needing:
    """A context for the import of an optional library, which turns its absence into a `ValueError` with a remedy.

    - `library`: the name by which pip knows it.
    - `what`: what needs it, such as "Reading a TIFF file".
    - `extra`: the extra of jaxinv that holds it.
    """

    def __init__(self, library: str, what: str, extra: str = "files"):
        self.library, self.what, self.extra = library, what, extra

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, ImportError):
            raise ValueError(
                f"{self.what} needs {self.library}, which is not installed. Install the extra that holds it: "
                f'`python -m pip install "jaxinv[{self.extra}]"`.'
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
        mapped = map_array(path)
        if mapped.dtype.kind not in "biufc":
            raise ValueError(f"it should hold numbers, and has the dtype {mapped.dtype}")
        return np.array(mapped, mapped.dtype.newbyteorder("="))


def map_array(path: Path) -> np.ndarray:
    """The array in a file that `numpy.save` wrote, which takes no memory; a file that is too short raises."""
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            raise ValueError("it is an archive of arrays, .npz: save one of them alone, by `numpy.save`")
    return np.load(path, mmap_mode="r", allow_pickle=False)


def as_path(path: Any, what: str) -> Path:
    """`path` as a path, with `~` for the folder of the user.

    **Raises:** `ValueError` for what is no path, an unknown user, or a name that no file system takes.
    """
    # A path-like object may return bytes, which `Path` refuses with a TypeError.
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"`path` must be the path of {what}; got {path!r}.")
    try:
        found = Path(os.fsdecode(path)).expanduser()
        found.exists()
    except (RuntimeError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"`path` must be the path of {what}; got {os.fsdecode(path)!r}: {reason}.") from error
    return found


def check_file(path: Any, what: str) -> Path:
    """`path` as the path of an existing file.

    **Raises:** `ValueError` if there is no such file.
    """
    path = as_path(path, what)
    if not path.exists():
        raise ValueError(f"`path` must be the path of {what}; there is no file {path}.")
    if not path.is_file():
        raise ValueError(f"`path` must be the path of {what}; {path} is not a file.")
    return path
