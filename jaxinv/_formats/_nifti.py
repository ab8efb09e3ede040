"""The reader of NIfTI, through nibabel."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from .._reading import needing, reading
from ._measurement import Measurement
from ._request import Index, Request

_MILLIMETRES = {"unknown": 1.0, "mm": 1.0, "meter": 1e3, "micron": 1e-3}
_NAMES = ("column", "row", "slice", "time")


def read_nifti(path: Path, request: Request) -> Measurement:
    """The array of a .nii or .nii.gz file, with its axes reversed: (time,) slice, row, column."""
    with needing("nibabel", "Reading a NIfTI file"):
        import nibabel

    with reading(path, "a NIfTI file"):
        found = nibabel.load(path)
        if not isinstance(found, nibabel.Nifti1Image):
            raise ValueError(f"it is of the format {type(found).__name__}")
        # nibabel's types are those of all formats.
        image: Any = found
        shape, stored = image.shape, path.stat().st_size
        dtype = image.get_data_dtype()
        if path.suffix != ".gz" and int(image.dataobj.offset) + math.prod(shape) * dtype.itemsize > stored:
            raise ValueError(
                f"its header says {shape} values of {dtype.itemsize} bytes, and the file has {stored} bytes"
            )
        rescaled = (image.dataobj.slope, image.dataobj.inter) != (1.0, 0.0)
        names = tuple(_NAMES[i] if i < 4 else f"axis{i}" for i in range(len(shape)))
        load = lambda index: _load(image, index)
        # Rescaled values take eight bytes each, whatever type they had.
        kind = dtype if not rescaled or dtype.kind in "cV" else np.dtype(np.float64)
        values = request.values(shape[::-1], kind, names[::-1], stored * max(1, kind.itemsize // dtype.itemsize), load)
        length, _ = image.header.get_xyzt_units()
        factor = _MILLIMETRES[length]
        zooms = [
            float(zoom) * factor if i < 3 and zoom > 0 else None for i, zoom in enumerate(image.header.get_zooms())
        ]
        affine = None if image.affine is None else np.asarray(image.affine, np.float64)
        if affine is not None:
            affine = np.diag([factor, factor, factor, 1.0]) @ affine
        return Measurement(values, names[::-1], tuple(zooms[::-1]), affine=affine, format="NIfTI")


def _load(image: Any, index: Index) -> np.ndarray:
    return np.asarray(image.dataobj[index[::-1]]).T
