"""The reader of pictures from PNG and `.npy` files."""

import os
import warnings
from pathlib import Path

import numpy as np

from .._reading import check_file, check_unpacked, read_array, reading
from .._types import Checked


def picture(path: Checked[str | os.PathLike[str]]) -> np.ndarray:
    """The image in a PNG file, or in a `.npy` file.

    A PNG of any kind becomes grey or RGB; transparency is ignored. An array of `numpy.save` must be `(h, w)`, or
    `(h, w, c)` with one or three channels, and must hold numbers and not objects.

    **Arguments:**

    - `path`: the path of the file.

    **Returns:** the image, float32, of shape `(h, w, c)`; its values are in [0, 1] if the file holds 8 or 16 bits
    without sign, and otherwise those of the file (Hounsfield units, for example).

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
    values = read_array(path) if path.suffix.lower() == ".npy" else _read_png(path)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] not in (1, 3) or values.size == 0:
        raise ValueError(f"{path} should hold an image of shape (h, w), (h, w, 1) or (h, w, 3); it has {values.shape}.")
    if values.dtype.kind == "c" or not np.isfinite(values).all():
        what = f"{values.dtype}" if values.dtype.kind == "c" else f"{np.sum(~np.isfinite(values))} non-finite values"
        raise ValueError(f"{path} should hold integers or finite floating values; it has {what}.")
    scale = np.iinfo(values.dtype).max if values.dtype in (np.uint8, np.uint16) else 1
    image = values.astype(np.float32)
    if not np.isfinite(image).all():
        raise ValueError(f"{path} holds values up to {np.abs(values).max():.3g}, too large for single precision.")
    return image / np.float32(scale)


def _read_png(path: Path) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(
            "Reading a PNG needs Pillow, which is not installed. Install the extra that holds it: "
            '`python -m pip install "jaxinv[demo]"`.'
        ) from error
    with reading(path, "a PNG"), warnings.catch_warnings():
        # Pillow warns of a picture of more than 89 million pixels, and raises for one of twice as many.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=["PNG"]) as file:
            check_unpacked(file.width * file.height // 8, path.stat().st_size)
            if file.mode.startswith("I"):
                return np.asarray(file).astype(np.uint16)
            return np.asarray(file.convert("L" if file.mode in ("1", "L", "LA") else "RGB"))
