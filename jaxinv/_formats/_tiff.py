"""The reader of TIFF: single images, stacks, ImageJ and OME, through tifffile."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from .._reading import needing, reading
from ._measurement import Measurement
from ._request import Index, Request

_AXES = {"Y": "row", "X": "column", "S": "channel", "C": "channel", "T": "time"}
_MILLIMETRES = {
    "mm": 1.0,
    "um": 1e-3,
    "µm": 1e-3,
    "\\u00b5m": 1e-3,
    "micron": 1e-3,
    "microns": 1e-3,
    "nm": 1e-6,
    "cm": 10,
}
_CENTIMETRE = 3  # of the tag ResolutionUnit


def read_tiff(path: Path, request: Request) -> Measurement:
    """The first series of a TIFF file, at full resolution."""
    with needing("tifffile", "Reading a TIFF file"):
        import tifffile

    # Files that OME metadata names are not opened.
    with reading(path, "a TIFF file"), tifffile.TiffFile(path, _multifile=False) as file:
        if not file.series:
            raise ValueError("it holds no image")
        series = file.series[0]
        axes = _names(series.axes)
        stored = path.stat().st_size
        if series.dataoffset is not None and series.dataoffset + series.nbytes > stored:
            raise ValueError(f"its image has {series.nbytes} bytes, and the file {stored}")
        load = lambda index: _load(path, file, series, index)
        values = request.values(series.shape, series.dtype, axes, stored, load)
        return Measurement(values, axes, _spacing(file, series, axes), format="TIFF")


def _names(letters: str) -> tuple[str, ...]:
    names = [_AXES.get(letter, "slice") for letter in letters]
    return tuple(name if names.count(name) == 1 else f"{name}{i}" for i, name in enumerate(names))


def _load(path: Path, file: Any, series: Any, index: Index) -> Any:
    if series.dataoffset is not None:
        dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
        return np.array(np.memmap(path, dtype, "r", series.dataoffset, series.shape)[index])
    pages = series.pages
    leading = len(series.shape) - len(series.keyframe.shape)
    # Pages are read one at a time where a part of each is needed.
    if leading < 1 or math.prod(series.shape[:leading]) != len(pages):
        return series.asarray()[index]
    ranges = [range(n)[part] for n, part in zip(series.shape[:leading], index, strict=False)]
    numbers = np.arange(len(pages)).reshape(series.shape[:leading])[np.ix_(*ranges)]
    found = [pages[int(number)].asarray()[index[leading:]] for number in numbers.reshape(-1)]
    return np.stack(found).reshape(*numbers.shape, *found[0].shape)


def _spacing(file: Any, series: Any, axes: tuple[str, ...]) -> tuple[float | None, ...] | None:
    """The size of a pixel in mm, where the file gives it in a unit of length; inches, which printers use, do not
    count."""
    sizes: dict[str, float] = {}
    page = series.keyframe
    across, down = (_resolution(page, name) for name in ("XResolution", "YResolution"))
    named = file.imagej_metadata or {}
    unit = _MILLIMETRES.get(str(named.get("unit", "")))
    tag = page.tags.get("ResolutionUnit")
    if unit is None and not named and tag is not None and tag.value == _CENTIMETRE:
        unit = 10.0
    if unit is not None:
        sizes = {name: unit / n for name, n in (("column", across), ("row", down)) if n is not None}
        if isinstance(named.get("spacing"), int | float):
            sizes["slice"] = unit * float(named["spacing"])
    ome = file.ome_metadata
    if isinstance(ome, str):
        for letter, name in (("X", "column"), ("Y", "row"), ("Z", "slice")):
            size = re.search(rf'PhysicalSize{letter}="([0-9.eE+-]{{1,30}})"', ome)
            given = re.search(rf'PhysicalSize{letter}Unit="([^"]{{1,20}})"', ome)
            factor = _MILLIMETRES.get(given[1] if given else "um")
            if size is not None and factor is not None:
                sizes[name] = float(size[1]) * factor
    sizes = {name: size for name, size in sizes.items() if 0 < size < math.inf}
    return tuple(sizes.get(axis) for axis in axes) if sizes else None


def _resolution(page: Any, name: str) -> float | None:
    """Pixels per unit."""
    tag = page.tags.get(name)
    if tag is None or not tag.value[0] or not tag.value[1]:
        return None
    return tag.value[0] / tag.value[1]
