"""The tooth of the TomoPy examples, a parallel-beam measurement."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from .._reading import check_file, check_unpacked, reading
from .._types import Checked

# A stripe in the sinogram is at most as many bins wide, and at most so many frames at the ends may have been dropped.
_STRIPE, _MOST_LOST = 7, 3
_NAMES = ("data", "data_white", "data_dark", "theta")


def tooth(path: Checked[str | os.PathLike[str]]) -> tuple[np.ndarray, dict[str, Any]]:
    """The sinograms of a tooth, real X-rays of a synchrotron, and their geometry.

    The file (`tooth.h5`, from the sources of TomoPy) holds counts: `data` with the tooth, `data_white` without, and
    `data_dark` with the beam off. The sinogram is `-log((data - dark) / (white - dark))` with the mean white and the
    mean dark field (of the frames in which a pixel is finite); differences below half a count become half a count.

    The axis of rotation does not project to the middle of the detector, so the geometry has a `centre_offset`, which is
    estimated from the data: half a turn after the first angle, the first row appears mirrored about the axis. The
    estimate is the mirror, to a fraction of a bin, for which the first row fits best the last rows, extrapolated
    linearly in the angle to half a turn; dusty, dead and hot bins and dropped frames do not count. If the angles do not
    reach within one and a half steps of half a turn, there
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
    if not np.isfinite(data).all() or not np.isfinite(theta).all():
        raise ValueError(f"{path} is corrupt: exchange/data or exchange/theta holds non-finite values. Fetch it again.")
    background = _mean_frame(dark, "data_dark", path)
    counts, flat = data - background, _mean_frame(white, "data_white", path) - background
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
    frames = _sound_frames(sinogram)
    if step == 0 or not np.allclose(steps, step, rtol=1e-3) or len(frames) < 3:
        return None
    first, before, last = frames[0], frames[-2], frames[-1]
    lost = first + len(angles) - 1 - last
    missing = (angles[first] + np.copysign(np.pi, step) - angles[last]) / step
    if lost > _MOST_LOST or abs(missing) > 1.5 + lost:
        return None
    opposite = sinogram[:, last] + missing * (sinogram[:, last] - sinogram[:, before]) / (last - before)
    mirrored = sinogram[:, first, ::-1]
    sound = _sound_bins(sinogram)
    # A speck in one frame counts at most as much as a mismatch of the object.
    largest = np.ptp(np.percentile(sinogram[:, first], (5, 95))) / 4
    # Mirroring about bin c maps bin k to 2c - k; at least half of the detector must overlap.
    sums = np.arange(size // 2, 2 * (size - 1) - size // 2 + 1)
    misfits = np.empty(len(sums))
    for i, total in enumerate(sums):
        shift = int(total) - (size - 1)
        here, there = slice(max(0, shift), size + min(0, shift)), slice(max(0, -shift), size - max(0, shift))
        kept = sound[:, here] & sound[:, ::-1][:, there]
        gaps = np.minimum(np.abs(opposite[:, here] - mirrored[:, there]), largest)
        misfits[i] = np.sum(kept * gaps**2) / max(np.sum(kept), 1)
    best = int(np.argmin(misfits))
    if not 0 < best < len(sums) - 1:
        return None
    left, middle, right = misfits[best - 1 : best + 2]
    curvature = left - 2 * middle + right
    # The correction is to the vertex of the parabola through three neighbours.
    correction = 0.5 * (left - right) / curvature if curvature > 0 else 0.0
    return (sums[best] + correction) / 2


def _sound_frames(sinogram: np.ndarray) -> np.ndarray:
    """The numbers of the frames that were not dropped: a parallel projection has the same mass at every angle."""
    mass = sinogram.sum((0, 2))
    deviation = np.abs(mass - np.median(mass))
    return np.flatnonzero(deviation <= np.maximum(0.5 * np.abs(np.median(mass)), 8 * np.median(deviation)))


def _sound_bins(sinogram: np.ndarray) -> np.ndarray:
    """Which bins of each slice are not dusty, dead or hot: those make a stripe that is there at every angle."""
    profile = np.median(sinogram, axis=1)
    padded = np.pad(profile, ((0, 0), (_STRIPE, _STRIPE)), mode="reflect")
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * _STRIPE + 1, axis=1), axis=2)
    deviation = np.abs(profile - smooth)
    scale = np.median(deviation, axis=1, keepdims=True)
    height = np.ptp(np.percentile(smooth, (5, 95), axis=1), axis=0)[:, None]
    return deviation <= 8 * scale + 0.05 * height


def _load(path: Path) -> list[np.ndarray]:
    try:
        import h5py
    except ImportError as error:
        raise ValueError(
            "Reading an .h5 file needs h5py, which is not installed. Install the extra that holds it: "
            '`python -m pip install "jaxinv[demo]"`.'
        ) from error
    with reading(path, "an HDF5 file in the Data Exchange layout"), h5py.File(path, "r") as file:
        datasets = {}
        for name in _NAMES:
            dataset = file.get(f"exchange/{name}")
            if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iuf" or not dataset.size:
                raise ValueError(f"it holds no data set exchange/{name} of numbers")
            check_unpacked(dataset.nbytes, dataset.id.get_storage_size())
            datasets[name] = dataset
        _check_shapes({name: dataset.shape for name, dataset in datasets.items()})
        return [np.asarray(dataset[()], np.float64) for dataset in datasets.values()]


def _check_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise unless the shapes are of one measurement, before any of it is read."""
    data, theta = shapes["data"], shapes["theta"]
    if len(data) != 3 or theta != data[:1]:
        raise ValueError(
            "exchange/data should have the shape (angles, slices, detectors) and exchange/theta (angles,); they have "
            f"{data} and {theta}"
        )
    for name in ("data_white", "data_dark"):
        if len(shapes[name]) != 3 or shapes[name][1:] != data[1:]:
            raise ValueError(
                f"exchange/{name} should have the shape (frames, slices, detectors), (frames, {data[1]}, {data[2]}); "
                f"it has {shapes[name]}"
            )


def _mean_frame(frames: np.ndarray, name: str, path: Path) -> np.ndarray:
    """The mean of the frames without the object, in each pixel over those in which it is finite."""
    finite = np.isfinite(frames)
    if not finite.any(0).all():
        raise ValueError(f"{path} is corrupt: a pixel of exchange/{name} is finite in no frame. Fetch it again.")
    return np.mean(frames, axis=0, where=finite)
