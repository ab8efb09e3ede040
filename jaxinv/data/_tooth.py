"""The tooth of the TomoPy examples, a parallel-beam measurement."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from .._types import Checked
from ._files import check_file

_NAMES = ("exchange/data", "exchange/data_white", "exchange/data_dark", "exchange/theta")


def tooth(path: Checked[str | os.PathLike[str]]) -> tuple[np.ndarray, dict[str, Any]]:
    """The sinograms of a tooth, real X-rays of a synchrotron, and their geometry.

    The file (`tooth.h5`, from the sources of TomoPy) holds counts: `data` with the tooth, `data_white` without, and
    `data_dark` with the beam off. The sinogram is `-log((data - dark) / (white - dark))` with the mean white and the
    mean dark field, where differences below half a count become half a count.

    The axis of rotation does not project to the middle of the detector, so the geometry has a `centre_offset`, which is
    estimated from the data: half a turn after the first angle, the first row appears mirrored about the axis. The
    estimate is the mirror, to a fraction of a bin, for which the first row fits best the last rows, extrapolated
    linearly in the angle to half a turn. If the angles do not reach within one and a half steps of half a turn, there
    is no such pair of rows and no `centre_offset`. The file records neither the sense of the rotation nor the side from
    which the detector is read, so a reconstruction may be the mirror image of the tooth.

    **Arguments:**

    - `path`: the path of the `.h5` file, or of any other in the Data Exchange layout.

    **Returns:** the sinograms, float32, of shape `(slices, angles, detectors, 1)`, for the tooth `(2, 181, 640, 1)`,
    and a dictionary of the keyword arguments `angles` (radians), `num_detectors` and `centre_offset` (in detector bins,
    for the default `detector_spacing=1.0`) of `jaxinv.operators.ParallelBeam`.

    **Raises:** `ValueError` that names the file and its fault, or if h5py is not installed.

    **Reference:** De Carlo et al., Scientific Data Exchange: a schema for HDF5-based storage of raw and analyzed data,
    2014; Kak, Slaney, Principles of Computerized Tomographic Imaging, 1988 (the logarithm).

    !!! example
        ```python
        import jaxinv
        try:
            sinograms, geometry = jaxinv.data.tooth("tooth.h5")
        except ValueError as error:  # no such file here
            print(error)
        else:
            operator = jaxinv.operators.ParallelBeam((256, 256, 1), pixel_size=2.5, **geometry)
        ```
    """
    path = check_file(path, "an .h5 file in the Data Exchange layout, such as tooth.h5")
    data, white, dark, theta = _load(path)
    if data.ndim != 3 or theta.shape != data.shape[:1]:
        raise ValueError(
            f"{path} is corrupt: exchange/data should have the shape (angles, slices, detectors) and exchange/theta "
            f"(angles,); they have {data.shape} and {theta.shape}."
        )
    for name, field in (("data_white", white), ("data_dark", dark)):
        if field.ndim != 3 or field.shape[1:] != data.shape[1:]:
            raise ValueError(
                f"{path} is corrupt: exchange/{name} should have the shape (frames, slices, detectors), "
                f"(frames, {data.shape[1]}, {data.shape[2]}); it has {field.shape}."
            )
    background = dark.mean(0)
    counts, flat = data - background, white.mean(0) - background
    line_integrals = -np.log(np.maximum(counts, 0.5) / np.maximum(flat, 0.5))
    sinogram = line_integrals.transpose(1, 0, 2)
    angles = np.deg2rad(theta)
    geometry: dict[str, Any] = {"angles": angles, "num_detectors": sinogram.shape[2]}
    centre = _rotation_centre(sinogram, angles)
    if centre is not None:
        geometry["centre_offset"] = (sinogram.shape[2] - 1) / 2 - centre
    return sinogram[..., None].astype(np.float32), geometry


def _rotation_centre(sinogram: np.ndarray, angles: np.ndarray) -> float | None:
    """The fractional bin to which the axis of rotation projects, or `None` if the angles do not reach half a turn."""
    size = sinogram.shape[2]
    if len(angles) < 3 or size < 8:
        return None
    steps = np.diff(angles)
    step = float(np.mean(steps))
    missing = (angles[0] + np.copysign(np.pi, step) - angles[-1]) / step if step else np.inf
    if not np.allclose(steps, step, rtol=1e-3) or abs(missing) > 1.5:
        return None
    opposite = sinogram[:, -1] + missing * (sinogram[:, -1] - sinogram[:, -2])
    mirrored = sinogram[:, 0, ::-1]
    # Mirroring about bin c maps bin k to 2c - k; at least half of the detector must overlap.
    sums = np.arange(size // 2, 2 * (size - 1) - size // 2 + 1)
    misfits = np.empty(len(sums))
    for i, total in enumerate(sums):
        shift = int(total) - (size - 1)
        here, there = slice(max(0, shift), size + min(0, shift)), slice(max(0, -shift), size - max(0, shift))
        misfits[i] = np.mean((opposite[:, here] - mirrored[:, there]) ** 2)
    best = int(np.argmin(misfits))
    if not 0 < best < len(sums) - 1:
        return None
    left, middle, right = misfits[best - 1 : best + 2]
    curvature = left - 2 * middle + right
    # The correction is to the vertex of the parabola through three neighbours.
    correction = 0.5 * (left - right) / curvature if curvature > 0 else 0.0
    return (sums[best] + correction) / 2


def _load(path: Path) -> list[np.ndarray]:
    try:
        import h5py
    except ImportError as error:
        raise ValueError(
            "Reading an .h5 file needs h5py, which is not installed. Install the extra that holds it: "
            '`python -m pip install "jaxinv[demo]"`.'
        ) from error
    arrays = []
    try:
        with h5py.File(path, "r") as file:
            for name in _NAMES:
                dataset = file.get(name)
                if not isinstance(dataset, h5py.Dataset):
                    raise ValueError(f"it holds no data set {name}")
                arrays.append(np.asarray(dataset[()], np.float64))
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, MemoryError) as error:
        raise ValueError(
            f"{path} is not an HDF5 file in the Data Exchange layout, or it is truncated or corrupt "
            f"({type(error).__name__}: {error}). Fetch it again."
        ) from error
    for name, array in zip(_NAMES, arrays, strict=True):
        if array.size == 0 or not np.isfinite(array).all():
            raise ValueError(f"{path} is corrupt: {name} is empty or holds non-finite values. Fetch it again.")
    return arrays
