"""The reader of PNG and JPEG, through Pillow."""

import warnings
from pathlib import Path

import numpy as np

from .._reading import needing, reading
from ._measurement import Measurement
from ._request import Request

# The offset of the number of bits in the header of a PNG, and of the kind of its colours; 2, 4 and 6 have channels.
_BITS, _KIND, _CHANNELS = 24, 25, (2, 4, 6)
# The orientations of EXIF that exchange rows and columns.
_TURNED = (5, 6, 7, 8)
_ORIENTATION = 0x0112


def read_picture(path: Path, request: Request) -> Measurement:
    """A picture as a viewer shows it: palettes become colours, and EXIF's orientation is applied."""
    with needing("pillow", "Reading a PNG or JPEG"):
        from PIL import Image, ImageOps

    with reading(path, "a PNG or JPEG"), warnings.catch_warnings():
        # Pillow warns of a picture of more than 89 million pixels, and raises for one of twice as many.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=["PNG", "JPEG"]) as file:
            deep = file.mode.startswith("I")
            mode = _mode(file.mode)
            channels = {"L": 1, "I": 1, "RGB": 3}[mode]
            height, width = file.height, file.width
            if file.getexif().get(_ORIENTATION) in _TURNED:
                height, width = width, height
            shape = (height, width, *([channels] if channels > 1 else []))
            axes = ("row", "column", *(["channel"] if channels > 1 else []))
            # A palette or one bit a pixel packs more than the compression alone.
            stored = 8 * path.stat().st_size

            def load(index):
                turned = ImageOps.exif_transpose(file)
                # Pillow needs the transparency of a palette as a channel before it can be dropped.
                turned = turned.convert("RGBA") if turned.mode in ("P", "PA") else turned
                return np.asarray(turned if deep else turned.convert(mode)).astype(dtype)[index]

            dtype = np.dtype(np.uint16 if deep else np.uint8)
            values = request.values(shape, dtype, axes, stored, load, copies=2)
        measured = Measurement(values, axes, format=str(file.format))
    if _is_deep_colour(path) and not request.headers:
        warnings.warn(
            f"{path} has 16 bits for each colour, of which Pillow reads the upper 8; write it as a TIFF to keep all.",
            UserWarning,
            stacklevel=4,
        )
    return measured


def _mode(mode: str) -> str:
    """Grey, deep grey or colours; transparency is dropped, and CMYK and YCbCr become red, green and blue."""
    if mode.startswith("I"):
        return "I"
    return "L" if mode in ("1", "L", "LA", "La") else "RGB"


def _is_deep_colour(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_KIND + 1)
    return head.startswith(b"\x89PNG") and head[_BITS] == 16 and head[_KIND] in _CHANNELS
