"""Measurements from the files of a user, for `jaxinv dip`: pictures and sinograms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import data, operators
from .._types import Checked

# The networks make images in (0, 1), and reach neither end. The values of a picture keep this share of their range from
# both, and the image of a sinogram may be so many times as bright as the brightest pixel found without a prior.
_MARGIN, _HEADROOM = 0.1, 1.5


class Request(NamedTuple):
    """The options of the user for a file. Lengths are in widths of a detector bin.

    - `file`: the path of the file.
    - `crop`: the number of pixels on each side of the middle of a picture that is used; `None` for all.
    - `mask`: the path of a picture that is white where `file` is known; `None` for no inpainting.
    - `factor`: the factor by which to enlarge; `None` for no enlarging.
    - `angles`: the first angle of a sinogram in a `.npy` file, and the end of the range, in degrees.
    - `fan`: the distances of source and detector from the axis for such a sinogram; `None` for parallel rays.
    - `offset`: the position of the middle of the detector, for any sinogram; `None` for what the file says or implies.
    - `every`: `N` to use every N-th angle of a sinogram.
    - `size`: the number of pixels on each side of a reconstruction from a sinogram.
    """

    file: Path
    crop: int | None
    mask: Path | None
    factor: int | None
    angles: tuple[float, float] | None
    fan: tuple[float, float] | None
    offset: float | None
    every: int
    size: int


class Scale(NamedTuple):
    """The affine map from images in [0, 1], which the networks make, to the values of the file.

    - `black`, `white`: the values of the file for which 0 and 1 stand.
    - `peak`: the range of the values of the image, between 0 and 1.
    """

    black: float = 0.0
    white: float = 1.0
    peak: float = 1.0

    @property
    def unit(self) -> float:
        """What a difference of 1 is in the file."""
        return self.white - self.black

    def read(self, image: np.ndarray) -> np.ndarray:
        """An image in the values of the file as one in [0, 1]."""
        return ((image - np.float64(self.black)) / self.unit).astype(np.float32)

    def write(self, image: np.ndarray) -> np.ndarray:
        """An image in [0, 1] in the values of the file."""
        return np.asarray(self.black + self.unit * image, np.float32)


class Measured(NamedTuple):
    """A measurement of an image with values between 0 and 1.

    - `heading`: a line that describes the task.
    - `operator`, `y`: the operator, and the measurement of such an image.
    - `scale`: the map from such an image to the values of the file.
    - `level`: a guess of the standard deviation of the noise in `y`.
    - `view`: the function that crops a picture of the whole to the reconstruction.
    """

    heading: str
    operator: operators.AbstractLinearOperator
    y: Any
    scale: Scale
    level: float
    view: Callable[[np.ndarray], np.ndarray]


def measure(request: Request) -> Measured:
    """Read the measurement in the file, and make its operator."""
    suffix = request.file.suffix.lower()
    if suffix in SINOGRAMS or request.angles is not None:
        given = {"--mask": request.mask, "--factor": request.factor, "--crop": request.crop}
        if suffix in SINOGRAMS:
            given["--angles"] = request.angles
            given["--fan"] = request.fan
        unused = [name for name, value in given.items() if value is not None]
        if unused:
            raise ValueError(f"{request.file} is a sinogram, to which {' and '.join(unused)} do not apply.")
        return _tomography(request, *SINOGRAMS.get(suffix, _plain)(request))
    if request.fan is not None or request.offset is not None:
        raise ValueError(
            f"--fan and --offset are for sinograms, in a .npy file with --angles; {request.file} is a picture."
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
    scale = scale_of(image)
    y = jnp.asarray(scale.read(image))
    return Measured(heading, operators.Identity(image.shape), y, scale, 0.1 * scale.peak, view)


def _enlarging(request: Request, image: np.ndarray, factor: int) -> Measured:
    h, w, c = image.shape
    operator = operators.Downsample((h * factor, w * factor, c), factor)
    view = lambda whole: _cropped(whole, None if request.crop is None else request.crop * factor, request.file)
    scale = scale_of(image)
    heading, y = f"Enlarging {h} x {w} pixels {factor} times", jnp.asarray(scale.read(image))
    return Measured(heading, operator, y, scale, 0.01 * scale.peak, view)


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
    # The pixels that are not known, which may hold any number, have no part in the range.
    scale = scale_of(image[known > 0])
    y = jnp.asarray(scale.read(image) * known)
    return Measured(heading, operators.Mask(jnp.asarray(known)), y, scale, 0.01 * scale.peak, view)


def scale_of(values: np.ndarray) -> Scale:
    """The scale of a picture: its own if it is in [0, 1], and otherwise one with room on both sides of its values."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        return Scale()
    width = high - low or abs(high)
    return Scale(low - _MARGIN * width, low + (1 + _MARGIN) * width, 1 / (1 + 2 * _MARGIN))


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
    unit = _HEADROOM * float(brightest(operator, y))
    if not 0 < unit < np.inf:
        raise ValueError(
            f"{request.file} holds no line integrals of anything: they are nowhere positive, or not finite."
        )
    level = 0.025 * float(jnp.mean(jnp.abs(y))) / unit
    heading = f"Tomography, {len(y)} of {len(sinogram)} angles, {size} x {size} pixels"
    return Measured(heading, operator, y / unit, Scale(0.0, unit, 1 / _HEADROOM), level, lambda whole: whole)


@jax.jit
def brightest(operator: Checked[Any], y: Array) -> Array:
    """The largest value of the image that explains a sinogram best among those that are nowhere negative.

    Filtered back-projection would smooth a bead away, and halve what few angles see. Fifty steps of Richardson and Lucy
    find it, from a uniform image.
    """
    weights = operator.adjoint(jnp.ones_like(y))
    y = jnp.maximum(y, 0)

    def step(_, x):
        expected = operator(x)
        ratio = jnp.where(expected > 0, y / jnp.where(expected > 0, expected, 1), 0)
        return jnp.where(weights > 0, x * operator.adjoint(ratio) / jnp.where(weights > 0, weights, 1), 0)

    uniform = jnp.ones(operator.domain.shape, y.dtype)
    return jnp.max(jax.lax.fori_loop(0, 50, step, uniform * jnp.sum(y) / jnp.sum(operator(uniform))))


def _htc2022(request: Request) -> Any:
    sinogram, geometry = data.htc2022(request.file)
    width = fan_width(geometry)
    if request.offset is not None:
        geometry["centre_offset"] = request.offset * geometry["detector_spacing"]
    return sinogram, operators.FanBeam, geometry, width


def fan_width(geometry: dict[str, Any]) -> float:
    """The width of the disc that all fans cover completely, for a centred detector."""
    half = geometry["num_detectors"] * geometry["detector_spacing"] / 2
    distance = geometry["source_origin"] + geometry["origin_detector"]
    return 2 * geometry["source_origin"] * float(np.sin(np.arctan(half / distance)))


def _tooth(request: Request) -> Any:
    sinograms, geometry = data.tooth(request.file)
    if request.offset is not None:
        geometry["centre_offset"] = request.offset
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
    geometry = {
        "angles": angles,
        "num_detectors": bins,
        "detector_spacing": 1.0,
        "centre_offset": request.offset or 0.0,
    }
    if request.fan is None:
        return sinogram, operators.ParallelBeam, geometry, float(bins)
    geometry |= {"source_origin": request.fan[0], "origin_detector": request.fan[1]}
    return sinogram, operators.FanBeam, geometry, fan_width(geometry)


# The reader of each suffix returns a sinogram, the operator's class, its geometry, and the width of the image.
SINOGRAMS = {".mat": _htc2022, ".h5": _tooth}
