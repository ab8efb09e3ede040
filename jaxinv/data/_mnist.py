"""The data set MNIST, from local files or a download."""

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

from .._checks import checked
from ._files import fetch

_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# The checksums of the packed files, for a download, and of their contents, for a file however it is packed.
_SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_CONTENTS = {
    "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
# No file of MNIST holds more bytes, packed or not: the 60 000 images and their header.
_LARGEST = 60_000 * 28 * 28 + 16
_PREFIX = {"train": "train", "test": "t10k"}


@checked()
def mnist(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The handwritten digits of MNIST, 60 000 for training and 10 000 for testing.

    `mnist` searches for the four original files, `train-images-idx3-ubyte.gz` and so on (or unpacked, without `.gz`),
    in the folder that the environment variable `JAXINV_DATA` names and in the user cache (`~/.cache/jaxinv`, or below
    `XDG_CACHE_HOME`), each time in the folder's `mnist` and in the folder itself; in a checkout of jaxinv also in
    `../shared/data` beside it. Otherwise it downloads them into the user cache. Wherever a file is from, its checksum
    must be that of MNIST.

    **Arguments:**

    - `split`: `"train"` or `"test"`.

    **Returns:** the images, uint8 from 0 to 255, of shape `(n, 28, 28, 1)`, and the labels 0 to 9, int32, of shape
    `(n,)`.

    **Raises:** `ValueError` for another `split`, if a file is in none of these places (the message names them), or if
    it is truncated, corrupt, or another file than that of MNIST (the message names the file).

    **Reference:** LeCun, Bottou, Bengio, Haffner, Gradient-Based Learning Applied to Document Recognition, 1998.

    !!! example
        ```python
        import jaxinv
        try:
            images, labels = jaxinv.data.mnist("test")
        except ValueError as error:  # no file and no network
            images, labels = jaxinv.data.digits(size=28)
        ```
    """
    if not isinstance(split, str) or split not in _PREFIX:
        raise ValueError(f'`split` must be "train" or "test"; got {split!r}.')
    names = (f"{_PREFIX[split]}-images-idx3-ubyte.gz", f"{_PREFIX[split]}-labels-idx1-ubyte.gz")
    paths = [fetch(name, folder="mnist", mirrors=_MIRRORS, sha256=_SHA256[name]) for name in names]
    images, labels = (
        read_idx(path, ndim, _CONTENTS[name]) for name, path, ndim in zip(names, paths, (3, 1), strict=True)
    )
    return images[..., None], labels.astype(np.int32)


_AGAIN = "Delete it and fetch it again."


def read_idx(path: Path, ndim: int, sha256: str) -> np.ndarray:
    """The array of bytes with `ndim` axes in the idx file `path`, which may be packed by gzip.

    **Arguments:**

    - `path`: the path of the file.
    - `ndim`: the number of axes.
    - `sha256`: the checksum that the unpacked contents must have.

    **Raises:** `ValueError` that names the file and its fault.
    """
    raw = _contents(path)
    if len(raw) > _LARGEST:
        raise ValueError(f"{path} is too large or corrupt: no file of MNIST holds more than {_LARGEST} bytes. {_AGAIN}")
    header = 4 + 4 * ndim
    # An idx file begins with two zero bytes, the type (8 is uint8), and the number of axes.
    if raw[:4] != bytes([0, 0, 8, ndim]):
        raise ValueError(
            f"{path} is not an idx file of bytes with {ndim} axes, or it is corrupt: it must begin with "
            f"000008{ndim:02x} and begins with {raw[:4].hex() or 'nothing'}. {_AGAIN}"
        )
    shape = tuple(int(d) for d in np.frombuffer(raw[4 : header if len(raw) >= header else 4], ">u4"))
    if len(shape) != ndim or len(raw) != header + math.prod(shape):
        expected = f"{header + math.prod(shape)} for its shape {shape}" if len(shape) == ndim else f"at least {header}"
        raise ValueError(f"{path} is truncated or corrupt: it holds {len(raw)} bytes, not {expected}. {_AGAIN}")
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{path} is not that file of MNIST, or it is corrupt: the SHA-256 of its contents is {found}, not "
            f"{sha256}. {_AGAIN}"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape).copy()


def _contents(path: Path) -> bytes:
    """The bytes of a file, unpacked, but at most one more than the largest has: a small file may unpack to any size."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            return (gzip.GzipFile(fileobj=file) if packed else file).read(_LARGEST + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is truncated or corrupt: gzip says {error!s}. {_AGAIN}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
