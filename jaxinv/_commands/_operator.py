"""The operator of a `_spec.Spec`, and the measurement of the user that goes with it."""

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import io, operators
from .._formats import as_image
from ..classical import fbp
from ._spec import SCANS, Choice, Fitted, Shape, Spec, degrees, gaussian_kernel, projections
from ._user_file import fan_width

# The median of the absolute value of a standard normal variable, and the norm of the filter of Immerkaer.
_MEDIAN, _NORM = 0.6745, 6.0
# A measurement without noise is taken to have this share of its range.
_LEAST = 1e-3


class Own(NamedTuple):
    """The measurement of a user.

    - `heading`: a line that describes the task.
    - `operator`, `y`: the operator, and the measurement, in the unit of the file (line integrals for a scan).
    - `spacing`: the side of a pixel of the image in mm, if the file says it; the values of a scan are per mm then, and
      otherwise per detector bin.
    - `std`: the standard deviation of the noise, once it is known.
    - `first`: a first image, for the figure: what was measured, or filtered back-projection.
    """

    heading: str
    operator: Any
    y: Array
    spacing: float | None
    first: np.ndarray | None
    std: float = 1.0


def measured(spec: Spec, choice: Choice, fitted: Fitted) -> Own:
    """Read the measurement that `fit` accepted, and make its operator."""
    if spec.kind in SCANS:
        return _scan(spec, choice, fitted)
    found = io.read(choice.file, dataset=choice.dataset, select=fitted.select)
    if spec.kind == "matrix":
        operator = make(spec, fitted.domain)
        y = jnp.asarray(found.values.reshape(operator.codomain.shape), jnp.float32)
        return Own(f"{y.size} inner products with the rows of a matrix", operator, _finite(y, choice.file), None, None)
    spacing = None if found.spacing is None or "row" not in found.axes else found.spacing[found.axes.index("row")]
    if spec.kind == "fourier":
        values = found.values.reshape(fitted.domain).astype(np.complex64)
        operator = make(spec, fitted.domain)
        y = _finite(jnp.asarray(values), choice.file) * operator.measured
        known = 100 * float(np.mean(np.asarray(operator.measured)))
        return Own(f"{known:.0f} % of k-space, {_size(fitted.domain)}", operator, y, spacing, None)
    image = as_image(found, choice.file)
    operator = make(spec, fitted.domain)
    y = jnp.asarray(image) * operator.measured if spec.kind == "mask" else jnp.asarray(image)
    texts = {
        "identity": "Denoising",
        "mask": "Inpainting",
        "blur": "Deblurring",
        "downsample": f"Enlarging {spec.get('factor')} times to",
    }
    first = np.asarray(y) if y.shape == fitted.domain else None
    return Own(f"{texts[spec.kind]} {_size(fitted.domain)}", operator, y, spacing, first)


def make(spec: Spec, domain: Shape) -> Any:
    """The operator on images of this shape; a scan has as many bins as the image has columns.

    **Raises:** `ValueError` if the operator needs numbers that only a measurement has.
    """
    if spec.kind == "identity":
        return operators.Identity(domain)
    if spec.kind == "mask":
        return operators.Mask(jnp.asarray(_mask(spec.values["file"], domain)))
    if spec.kind == "blur":
        return operators.Convolution(jnp.asarray(_kernel(spec)), domain, spec.get("boundary", "reflect"))
    if spec.kind == "downsample":
        return operators.Downsample(domain, spec.values["factor"])
    if spec.kind == "fourier":
        return operators.MaskedFourier(jnp.asarray(_mask(spec.values["file"], domain))) @ operators.Real(domain)
    if spec.kind == "matrix":
        return operators.Matrix(jnp.asarray(io.read(spec.values["file"]).values, jnp.float32), domain)
    return tomograph(spec, domain, np.deg2rad(degrees(spec, 180)), domain[1])


def tomograph(spec: Spec, domain: Shape, angles: np.ndarray, bins: int, spacing: float = 1.0) -> Any:
    """The scan of an image as wide as the field of view that all angles share; lengths are in `spacing`, or in bins."""
    geometry: dict[str, Any] = {
        "num_detectors": bins,
        "detector_spacing": spacing,
        "centre_offset": spacing * spec.get("offset", 0.0),
    }
    if spec.kind == "parallel":
        return operators.ParallelBeam(domain, angles, pixel_size=spacing * bins / domain[1], **geometry)
    geometry |= {"source_origin": spacing * spec.values["source"], "origin_detector": spacing * spec.values["detector"]}
    return operators.FanBeam(domain, angles, pixel_size=fan_width(geometry) / domain[1], **geometry)


def sinogram(spec: Spec, choice: Choice, fitted: Fitted) -> tuple[np.ndarray, np.ndarray, float | None]:
    """The line integrals of one slice, `(angles, detectors)`, the angles in radians, and the pitch of the detector."""
    found = projections(io.read(choice.file, dataset=choice.dataset, select=fitted.select), choice.file)
    frames = {
        name: _frames(path, found, fitted.select)
        for name, path in (("flat", choice.flat), ("dark", choice.dark))
        if path
    }
    found = dataclasses.replace(found, **frames)
    pitch = None if found.spacing is None else found.spacing[-1]
    values = found.line_integrals().values if found.flat is not None else np.asarray(found.values, np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{choice.file} holds {int(np.sum(~np.isfinite(values)))} values that are not finite.")
    given = spec.get("angles") is not None
    angles = np.deg2rad(degrees(spec, len(values))) if given else found.angles
    assert angles is not None
    every = spec.get("every", 1)
    return values.reshape(len(values), values.shape[-1])[::every], angles[::every], pitch


def _frames(path: Path, found: io.Measurement, select: dict[str, int]) -> np.ndarray:
    """Flat or dark frames, from a separate file, for the slice that is reconstructed."""
    frames = np.asarray(io.read(path).values)
    if not select or found.values.ndim != 3:
        return frames
    (chosen,) = select.values()
    # The axis of slices is the last but one of a frame, and of several frames.
    return frames[..., chosen : chosen + 1, :]


def _scan(spec: Spec, choice: Choice, fitted: Fitted) -> Own:
    values, angles, pitch = sinogram(spec, choice, fitted)
    operator = tomograph(spec, fitted.domain, angles, values.shape[1], pitch or 1.0)
    y = jnp.asarray(values[..., None])
    heading = f"Tomography, {len(values)} angles and {values.shape[1]} detectors, {_size(fitted.domain)}"
    side = None if pitch is None else float(operator.pixel_size)
    return Own(heading, operator, y, side, np.asarray(fbp(operator, y).value))


def noise_level(own: Own) -> float:
    """The standard deviation of the noise of a measurement, from its finest differences.

    Differences of both axes cancel whatever is smooth along one of them (Immerkaer, Fast noise variance estimation,
    1996, with the median in place of the mean). Structure of one pixel counts as noise, and noise that is correlated
    does not. Without two axes, or without noise, it is a thousandth of the range.
    """
    y = np.asarray(own.y)
    if np.iscomplexobj(y):
        least = _LEAST * float(np.sqrt(np.mean(np.abs(y) ** 2)))
        # The corners of k-space hold little of the image.
        rows, columns = np.meshgrid(*(np.linspace(-1, 1, n) for n in y.shape[:2]), indexing="ij")
        outer = (np.hypot(rows, columns) > 1)[..., None] & (np.asarray(own.operator.measured) > 0)
        values = y[outer] if outer.sum() >= 16 else y[np.asarray(own.operator.measured) > 0]
        parts = np.concatenate([np.real(values), np.imag(values)])
        return max(float(np.median(np.abs(parts))) / _MEDIAN, least) or 1.0
    least = _LEAST * float(np.ptp(y))
    if y.ndim != 3 or min(y.shape[:2]) < 3:
        return least or 1.0
    second = lambda x, axis: np.diff(x, n=2, axis=axis)
    details = np.abs(second(second(y, 0), 1))
    known = np.broadcast_to(np.asarray(own.operator.measured) > 0, y.shape)
    whole = np.lib.stride_tricks.sliding_window_view(known, (3, 3), axis=(0, 1)).all((-2, -1))
    if whole.sum() < 16:
        return least or 1.0
    return max(float(np.median(details[whole])) / (_MEDIAN * _NORM), least) or 1.0


def _kernel(spec: Spec) -> np.ndarray:
    if "width" in spec.values:
        return gaussian_kernel(spec.values["width"])
    kernel = io.read_image(spec.values["file"])
    total = float(kernel.sum())
    if not math.isfinite(total) or total <= 0:
        raise ValueError(f"The kernel {spec.values['file']} should have a positive sum; it has {total:.3g}.")
    return kernel / np.float32(total)


def _mask(path: Path, domain: Shape) -> np.ndarray:
    known = io.read_image(path) > 0.5
    return np.broadcast_to(known, domain).astype(np.float32)


def _finite(y: Array, file: Path) -> Array:
    if not bool(jnp.isfinite(y).all()):
        raise ValueError(f"{file} holds {int(jnp.sum(~jnp.isfinite(y)))} values that are not finite.")
    return y


def _size(domain: Shape) -> str:
    return f"{domain[0]} x {domain[1]} pixels"
