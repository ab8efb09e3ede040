"""The reader of DICOM, through pydicom. It keeps no data of the patient."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .._reading import Refused, needing, reading
from ._measurement import Measurement
from ._request import MOST, Request

_DEFLATED = "1.2.840.10008.1.2.1.99"


def read_dicom(path: Path, request: Request) -> Measurement:
    """The pixels of a DICOM file, after slope and intercept, or the table, of its modality."""
    with needing("pydicom", "Reading a DICOM file"):
        import pydicom
        from pydicom.filereader import read_file_meta_info
        from pydicom.pixels.processing import apply_modality_lut

    # pydicom warns of values that break the standard. They are no fault of the pixels, which are checked here.
    with reading(path, "a DICOM file"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        size = path.stat().st_size
        head = read_file_meta_info(path)
        if head.get("TransferSyntaxUID") == _DEFLATED and 1032 * size > (request.max_bytes or MOST):
            raise Refused("it is deflated as a whole, and may unpack to more than the limit: write it uncompressed.")
        found = pydicom.dcmread(path, defer_size=None)
        for name in ("Rows", "Columns", "BitsAllocated", "PixelData"):
            if name not in found:
                raise Refused(f"it holds no picture: {name} is missing.")
        frames, samples = int(found.get("NumberOfFrames") or 1), int(found.get("SamplesPerPixel") or 1)
        shape = (*([frames] if frames > 1 else []), int(found.Rows), int(found.Columns), *([samples] * (samples > 1)))
        axes = (*(["slice"] if frames > 1 else []), "row", "column", *(["channel"] if samples > 1 else []))
        rescaled = "RescaleSlope" in found or "ModalityLUTSequence" in found
        bits = int(found.BitsAllocated)
        # The rescaled values are of double precision, beside the stored ones.
        dtype = (
            np.dtype(np.float64)
            if rescaled
            else np.dtype(f"{'i' if found.get('PixelRepresentation') else 'u'}{max(bits // 8, 1)}")
        )
        if not found.file_meta.TransferSyntaxUID.is_compressed and len(found.PixelData) * 8 < bits * math.prod(shape):
            raise ValueError(f"it has {len(found.PixelData)} bytes of pixels of shape {shape}")

        def load(index: Any) -> Any:
            values = np.asarray(found.pixel_array).reshape(shape)
            return (apply_modality_lut(values, found) if rescaled else values)[index]

        values = request.values(shape, dtype, axes, size * 8, load, copies=2 if rescaled else 1)
        row, column = _pair(found, "PixelSpacing") or _pair(found, "ImagerPixelSpacing") or (None, None)
        between = _number(found, "SpacingBetweenSlices") or _number(found, "SliceThickness")
        known = {"row": row, "column": column, "slice": between}
        spacing = tuple(known.get(axis) for axis in axes)
        unit = str(found.get("RescaleType") or ("HU" if rescaled and found.get("Modality") == "CT" else ""))
        return Measurement(
            values,
            axes,
            spacing if any(spacing) else None,
            unit="" if unit == "US" else unit,
            affine=_affine(found, row, column, between),
            format="DICOM",
        )


def position(path: Path) -> float:
    """How far along its own normal the slice of a file lies, in mm; `nan` if the file does not say."""
    import pydicom

    with reading(path, "a DICOM file"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        affine = _affine(pydicom.dcmread(path, stop_before_pixels=True), 1.0, 1.0, 1.0)
    return math.nan if affine is None else float(affine[:3, 2] @ affine[:3, 3])


def _affine(found: Any, row: float | None, column: float | None, between: float | None) -> np.ndarray | None:
    """The map from (column, row, slice) to millimetres in the patient, x left, y to the back, z up."""
    directions, origin = found.get("ImageOrientationPatient"), found.get("ImagePositionPatient")
    if not directions or not origin or len(directions) != 6 or len(origin) != 3 or row is None or column is None:
        return None
    along_row, along_column = np.asarray(directions, np.float64).reshape(2, 3)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = column * along_row, row * along_column
    affine[:3, 2] = (between or 1.0) * np.cross(along_row, along_column)
    affine[:3, 3] = np.asarray(origin, np.float64)
    return affine if np.isfinite(affine).all() else None


def _pair(found: Any, name: str) -> tuple[float, float] | None:
    value = found.get(name)
    if value is None or len(value) != 2 or not all(0 < float(entry) < math.inf for entry in value):
        return None
    return float(value[0]), float(value[1])


def _number(found: Any, name: str) -> float | None:
    value = found.get(name)
    return float(value) if value is not None and 0 < float(value) < math.inf else None
