"""Measurements from the files of a user, for `jaxinv dip`: pictures and sinograms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .. import classical, data, operators


class Request(NamedTuple):
    """The options of the user for a file. Lengths are in widths of a detector bin.

    - `file`: the path of the file.
    - `crop`: the number of pixels on each side of the middle of a picture that is used; `None` for all.
    - `mask`: the path of a picture that is white where `file` is known; `None` for no inpainting.
    - `factor`: the factor by which to enlarge; `None` for no enlarging.
    - `angles`: the first angle of a sinogram in a `.npy` file, and the end of the range, in degrees.
    - `fan`: the distances of source and detector from the axis for such a sinogram; `None` for parallel rays.
    - `offset`: the position of the middle of the detector for such a sinogram.
    - `every`: `N` to use every N-th angle of a sinogram.
    - `size`: the number of pixels on each side of a reconstruction from a sinogram.
    """

    file: Path
    crop: int | None
    mask: Path | None
    factor: int | None
    angles: tuple[float, float] | None
    fan: tuple[float, float] | None
    offset: float
    every: int
    size: int


class Measured(NamedTuple):
    """A measurement of an image with values between 0 and about 1.

    - `heading`: a line that describes the task.
    - `operator`, `y`: the operator, and the measurement divided by `unit`.
    - `unit`: the factor from such an image to the unit of the file.
    - `level`: a guess of the standard deviation of the noise in `y`.
    - `view`: the function that crops a picture of the whole to the reconstruction.
    """

    heading: str
    operator: operators.AbstractLinearOperator
    y: Any
    unit: float
    level: float
    view: Callable[[np.ndarray], np.ndarray]


def measure(request: Request) -> Measured:
    """Read the measurement in the file, and make its operator."""
    suffix = request.file.suffix.lower()
    if suffix in SINOGRAMS or request.angles is not None:
        given = {"--mask": request.mask, "--factor": request.factor, "--crop": request.crop}
        if suffix in SINOGRAMS:
            given["--angles"] = request.angles
            given |= {"--fan": request.fan, "--offset": request.offset or None}
        unused = [name for name, value in given.items() if value is not None]
        if unused:
            raise ValueError(f"{request.file} is a sinogram, to which {' and '.join(unused)} do not apply.")
        return _tomography(request, *SINOGRAMS.get(suffix, _plain)(request))
    if request.fan is not None or request.offset:
        raise ValueError(
            f"--fan and --offset are for a sinogram in a .npy file, with --angles; {request.file} is a picture."
        )
    if request.every != 1:
        raise ValueError(f"--every {request.every} is for sinograms; {request.file} is a picture.")
    image = _cropped(data.picture(request.file), request.crop, request.file)
    if request.mask is not None:
        return _inpainting(request, image)
    return _denoising(request, image) if request.factor is None else _enlarging(request, image, request.factor)


def _denoising(request: Request, image: np.ndarray) -> Measured:
    heading = f"Denoising {image.shape[0]} x {image.shape[1]} pixels"
    view = lambda whole: _cropped(whole, request.crop, request.file)
    return Measured(heading, operators.Identity(image.shape), jnp.asarray(image), 1.0, 0.1, view)


def _enlarging(request: Request, image: np.ndarray, factor: int) -> Measured:
    h, w, c = image.shape
    operator = operators.Downsample((h * factor, w * factor, c), factor)
    view = lambda whole: _cropped(whole, None if request.crop is None else request.crop * factor, request.file)
    return Measured(f"Enlarging {h} x {w} pixels {factor} times", operator, jnp.asarray(image), 1.0, 0.01, view)


def _inpainting(request: Request, image: np.ndarray) -> Measured:
    assert request.mask is not None
    known = _cropped(data.picture(request.mask), request.crop, request.mask) > 0.5
    if known.shape[:2] != image.shape[:2] or known.shape[2] not in (1, image.shape[2]):
        raise ValueError(
            f"--mask {request.mask} has the shape {known.shape}; {request.file} has {image.shape}. It must be of the "
            "same size, white where the picture is known."
        )
    if not known.any():
        raise ValueError(f"--mask {request.mask} is black: no pixel is known. It must be white where they are.")
    known = np.broadcast_to(known, image.shape).astype(np.float32)
    heading = f"Inpainting {100 * (1 - known.mean()):.0f} % of {image.shape[0]} x {image.shape[1]} pixels"
    view = lambda whole: _cropped(whole, request.crop, request.file)
    return Measured(heading, operators.Mask(jnp.asarray(known)), jnp.asarray(image * known), 1.0, 0.01, view)


def _cropped(image: np.ndarray, size: int | None, path: Path) -> np.ndarray:
    if size is None:
        return image
    h, w = image.shape[:2]
    if size > min(h, w):
        raise ValueError(f"--crop {size}: {path} has only {h} x {w} pixels.")
    top, left = (h - size) // 2, (w - size) // 2
    return image[top : top + size, left : left + size]


def _tomography(request: Request, sinogram: np.ndarray, make: Any, geometry: dict[str, Any], width: float) -> Measured:
    size, every = request.size, request.every
    if len(sinogram) < every:
        raise ValueError(f"--every {every}: {request.file} has only {len(sinogram)} angles.")
    y = jnp.asarray(sinogram[::every], jnp.float32)
    operator = make((size, size, 1), pixel_size=width / size, **{**geometry, "angles": geometry["angles"][::every]})
    # The networks, with their learning rates, are for images in [0, 1].
    unit = float(jnp.max(classical.fbp(operator, y, window=classical.Hann()).value))
    if not 0 < unit < np.inf:
        raise ValueError(
            f"{request.file} holds no line integrals of anything: its back-projection is nowhere positive."
        )
    level = 0.025 * float(jnp.mean(jnp.abs(y))) / unit
    heading = f"Tomography, {len(y)} of {len(sinogram)} angles, {size} x {size} pixels"
    return Measured(heading, operator, y / unit, unit, level, lambda whole: whole)


def _htc2022(request: Request) -> Any:
    sinogram, geometry = data.htc2022(request.file)
    return sinogram, operators.FanBeam, geometry, _fan_width(geometry)


def _fan_width(geometry: dict[str, Any]) -> float:
    """The width of the disc that all fans cover completely, for a centred detector."""
    half = geometry["num_detectors"] * geometry["detector_spacing"] / 2
    distance = geometry["source_origin"] + geometry["origin_detector"]
    return 2 * geometry["source_origin"] * float(np.sin(np.arctan(half / distance)))


def _tooth(request: Request) -> Any:
    sinograms, geometry = data.tooth(request.file)
    return sinograms[0], operators.ParallelBeam, geometry, float(geometry["num_detectors"])


def _plain(request: Request) -> Any:
    sinogram = data.picture(request.file)
    if request.angles is None or sinogram.shape[2] != 1:
        raise ValueError(
            f"{request.file} should be a sinogram of shape (angles, detectors), as --angles says; got shape "
            f"{sinogram.shape}."
        )
    views, bins = sinogram.shape[:2]
    first, end = np.deg2rad(request.angles)
    angles = np.linspace(first, end, views, endpoint=False)
    geometry = {"angles": angles, "num_detectors": bins, "detector_spacing": 1.0, "centre_offset": request.offset}
    if request.fan is None:
        return sinogram, operators.ParallelBeam, geometry, float(bins)
    geometry |= {"source_origin": request.fan[0], "origin_detector": request.fan[1]}
    return sinogram, operators.FanBeam, geometry, _fan_width(geometry)


# The reader of each suffix returns a sinogram, the operator's class, its geometry, and the width of the image.
SINOGRAMS = {".mat": _htc2022, ".h5": _tooth}
