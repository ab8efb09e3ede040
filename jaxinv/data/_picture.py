"""The reader of pictures from PNG and `.npy` files."""

import os
from typing import Any

import numpy as np

from .._types import Checked
from ._files import check_file


def picture(path: Checked[str | os.PathLike[str]]) -> np.ndarray:
    """The image in a PNG file, or in a `.npy` file.

    A PNG of any kind becomes grey or RGB; transparency is ignored. An array of `numpy.save` must be `(h, w)`, or
    `(h, w, c)` with one or three channels, and must hold numbers and not objects.

    **Arguments:**

    - `path`: the path of the file.

    **Returns:** the image, float32, of shape `(h, w, c)`; its values are in [0, 1] if the file holds 8 or 16 bits, and
    otherwise those of the file.

    **Raises:** `ValueError` that names the file and its fault, or if the file is a PNG and Pillow, which matplotlib
    installs, is missing.

    !!! example
        ```python
        import os, tempfile
        import numpy as np
        import jaxinv
        path = os.path.join(tempfile.mkdtemp(), "picture.npy")
        np.save(path, np.full((8, 8), 255, np.uint8))
        image = jaxinv.data.picture(path)  # (8, 8, 1), all ones
        ```
    """
    path = check_file(path, "a picture, .png or .npy")
    values = _read_array(path) if path.suffix.lower() == ".npy" else _read_png(path)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] not in (1, 3) or values.size == 0:
        raise ValueError(f"{path} should hold an image of shape (h, w), (h, w, 1) or (h, w, 3); it has {values.shape}.")
    if values.dtype == bool:
        return values.astype(np.float32)
    if values.dtype in (np.uint8, np.uint16):
        return values.astype(np.float32) / np.iinfo(values.dtype).max
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        what = f"{np.sum(~np.isfinite(values))} non-finite values" if values.dtype.kind == "f" else f"{values.dtype}"
        raise ValueError(f"{path} should hold 8-bit, 16-bit or finite floating values; it has {what}.")
    return values.astype(np.float32)


def _read_array(path: Any) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not an array written by `numpy.save`, or it is damaged: {error}.") from error
    return np.asarray(values)


def _read_png(path: Any) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(
            "Reading a PNG needs Pillow, which is not installed. Install the extra that holds it: "
            '`python -m pip install "jaxinv[demo]"`.'
        ) from error
    try:
        with Image.open(path, formats=["PNG"]) as file:
            if file.mode.startswith("I"):
                return np.asarray(file).astype(np.uint16)
            return np.asarray(file.convert("L" if file.mode in ("1", "L", "LA") else "RGB"))
    # Pillow may raise any of these at a damaged place.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a PNG, or it is damaged ({type(error).__name__}: {error}).") from error
