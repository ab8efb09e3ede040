"""What the readers of files share: faults that name the file, and sizes that are checked before memory is taken."""

from pathlib import Path
from types import TracebackType

import numpy as np

# No method of compression in use makes more bytes of one.
_MOST_BYTES_OF_ONE = 1100


class reading:
    """A context that turns whatever a library raises at a damaged place of a file into a `ValueError` that names it.

    A library that meets bytes which nobody would write may raise anything: RecursionError, struct.error, KeyError.

    - `path`: the path of the file.
    - `what`: what the file should be, with its article.
    """

    def __init__(self, path: Path, what: str):
        self.path, self.what = path, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Exception):
            raise ValueError(
                f"{self.path} is not {self.what}, or it is truncated or corrupt ({type(error).__name__}: {error}). "
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
