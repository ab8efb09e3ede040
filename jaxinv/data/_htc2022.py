"""The fan-beam measurements of the Helsinki Tomography Challenge 2022."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .._formats import check_elements
from .._reading import check_file, reading
from .._types import Checked

_VARIABLES = ("CtDataFull", "CtDataLimited")
# Ten times the size of the largest file of the challenge, unpacked.
_LARGEST = 2**25


def htc2022(path: Checked[str | os.PathLike[str]]) -> tuple[np.ndarray, dict[str, Any]]:
    """A sinogram of the Helsinki Tomography Challenge 2022, real X-rays through an acrylic disc, and its geometry.

    The file (such as `htc2022_ta_full.mat` from Zenodo, doi 10.5281/zenodo.6984868) holds line integrals, that is data
    after flat field, logarithm and the correction of the rotation centre. It has the first angle twice, at 0 and at 360
    degrees; the second one is omitted. At an angle `a` of that scanner the source is at `(cos a, sin a)`, and at an
    angle `t` of `FanBeam` at `(sin t, -cos t)`, so `t = a + pi/2`.

    The reconstruction of the challenge (`reconFullFbp` in `..._recon_fbp.mat`) has swapped axes with y pointing down,
    and holds attenuation per effective pixel of .1483 mm: `reconFullFbp.T[::-1] / .1483` is the image per mm here.

    **Arguments:**

    - `path`: the path of the `.mat` file.

    **Returns:** the sinogram, float64, of shape `(angles, detectors, 1)`: `(720, 560, 1)` for a full turn; and a
    dictionary of the keyword arguments `angles` (radians), `num_detectors`, `detector_spacing`, `source_origin` and
    `origin_detector` (mm) of `jaxinv.operators.FanBeam`, whose `shape` and `pixel_size` (mm) the caller chooses.

    **Raises:** `ValueError` that names the file and its fault.

    **Reference:** Meaney, Silva de Moura, Siltanen, Helsinki Tomography Challenge 2022 Open Tomographic Dataset, 2022.

    !!! example
        ```python
        import jaxinv
        try:
            sinogram, geometry = jaxinv.data.htc2022("htc2022_ta_full.mat")
        except ValueError as error:  # no such file here
            print(error)
        else:
            operator = jaxinv.operators.FanBeam((256, 256, 1), pixel_size=0.3, **geometry)
        ```
    """
    path = check_file(path, "a .mat file of the Helsinki Tomography Challenge 2022")
    record = _load(path)
    parameters = _field(record, "parameters", path)
    unit = _field(parameters, "distanceUnit", path)
    if unit != "mm":
        raise ValueError(f"{path} gives its distances in {unit!r}; this reader knows 'mm'.")

    sinogram = _array(_field(record, "sinogram", path), "sinogram", 2, path)
    angles = np.deg2rad(_array(_field(parameters, "angles", path), "parameters.angles", 1, path))
    num_detectors = _number(parameters, "numDetectorsPost", path)
    if sinogram.shape != (len(angles), num_detectors):
        raise ValueError(
            f"{path} is corrupt: its sinogram has shape {sinogram.shape}, and its parameters speak of {len(angles)} "
            f"angles and {num_detectors:g} detectors."
        )
    source_origin = _number(parameters, "distanceSourceOrigin", path)
    origin_detector = _number(parameters, "distanceSourceDetector", path) - source_origin
    spacing = _number(parameters, "pixelSizePost", path)
    if not (source_origin > 0 and origin_detector >= 0 and spacing > 0):
        raise ValueError(
            f"{path} is corrupt: source to origin {source_origin} mm, origin to detector {origin_detector} mm and "
            f"detector spacing {spacing} mm are no scanner."
        )
    if len(angles) > 1 and abs(angles[-1] - angles[0] - 2 * np.pi) < 1e-6:
        sinogram, angles = sinogram[:-1], angles[:-1]
    geometry = {
        "angles": angles + np.pi / 2,
        "num_detectors": int(num_detectors),
        "detector_spacing": spacing,
        "source_origin": source_origin,
        "origin_detector": origin_detector,
    }
    return sinogram[..., None], geometry


def _load(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadWarning

    with reading(path, "a MATLAB file"), warnings.catch_warnings():
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST} bytes, and no file of the challenge is so large")
        check_elements(path.read_bytes(), _LARGEST)
        warnings.simplefilter("error", MatReadWarning)
        contents = loadmat(path, simplify_cells=True)
    for name in _VARIABLES:
        if name in contents:
            record = contents[name]
            if not isinstance(record, dict):
                raise ValueError(f"{path} is corrupt: its {name} is no structure. Fetch it again.")
            return record
    found = [name for name in contents if not name.startswith("__")]
    raise ValueError(
        f"{path} holds {found}, and none of {list(_VARIABLES)}: it is truncated, or no measurement of the challenge (a "
        "reconstruction, perhaps)."
    )


def _field(record: Any, name: str, path: Path) -> Any:
    if not isinstance(record, dict) or name not in record:
        raise ValueError(f"{path} is corrupt or of another version: it lacks the field {name!r}.")
    return record[name]


def _number(record: Any, name: str, path: Path) -> float:
    value = _array(_field(record, name, path), name, 0, path)
    return float(value)


def _array(value: Any, name: str, ndim: int, path: Path) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or array.ndim != ndim or array.size == 0:
        raise ValueError(
            f"{path} is corrupt: its {name} should be numbers with {ndim} axes, and has dtype {array.dtype} and shape "
            f"{array.shape}."
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{path} is corrupt: its {name} holds {int((~np.isfinite(array)).sum())} non-finite value(s).")
    return array
