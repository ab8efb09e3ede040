"""The reader of a folder of slices, or of projections: files of one format, in the order of their numbers."""

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .._reading import Refused
from ._dicom import position
from ._measurement import Measurement
from ._request import MOST, Request

_MOST_FILES = 100_000


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """The key by which `slice_9` comes before `slice_10`."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def read_folder(
    path: Path, files: list[Path], request: Request, read: Callable[[Path, Request], Measurement]
) -> Measurement:
    """All files as one array, with the axis `slice` before the axes of each; DICOM in the order of their places."""
    if len(files) > _MOST_FILES:
        raise ValueError(f"{path} holds {len(files)} files, too many for one array.")
    first = read(files[0], request._replace(headers=True, select={}))
    if "slice" in first.axes:
        raise ValueError(f"{path} holds {len(files)} files, and {files[0].name} is a stack itself: name one file.")
    if first.format == "DICOM":
        files = _in_place(files)
    shape = (len(files), *first.values.shape)
    axes = ("slice", *first.axes)
    # The size of each file is checked when it is read; this check is of the sum alone.
    whole = request._replace(max_bytes=request.max_bytes or MOST)
    within = {name: k for name, k in request.select.items() if name != "slice"}
    values: list[Measurement] = []

    def load(index):
        part = index[0]
        for file in files[part]:
            values.append(read(file, request._replace(select=within)))
            if values[-1].values.shape != values[0].values.shape:
                raise Refused(
                    f"{file.name} has the shape {values[-1].values.shape}; the first file has {values[0].values.shape}."
                )
        return np.stack([each.values for each in values])

    try:
        stacked = whole.values(shape, first.values.dtype, axes, 0, load)
    except Refused as error:
        raise ValueError(f"{path}: {error}") from error
    between = first.spacing[0] if first.spacing is not None and "slice" in first.axes else _between(files, first)
    spacing = None if first.spacing is None and between is None else (between, *(first.spacing or (None,) * 2))
    return dataclasses.replace(first, values=stacked, axes=axes, spacing=spacing)


def _in_place(files: list[Path]) -> list[Path]:
    places = [position(file) for file in files]
    if not all(math.isfinite(place) for place in places):
        return files
    return [file for _, file in sorted(zip(places, files, strict=True), key=lambda pair: pair[0])]


def _between(files: list[Path], first: Measurement) -> float | None:
    """The distance between slices of DICOM, where they lie evenly."""
    if first.format != "DICOM" or len(files) < 2:
        return None
    gaps = np.diff([position(file) for file in files])
    return float(np.mean(gaps)) if np.all(gaps > 0) and np.allclose(gaps, np.mean(gaps), rtol=0.01) else None
