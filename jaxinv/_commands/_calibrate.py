"""The command `jaxinv calibrate`, which finds the centre of rotation of a scan of the user."""

import math

import jax.numpy as jnp
import numpy as np

from .. import noise, operators
from .._solution import RESULTS
from ..calibration import PenalisedMisfit, calibrate
from ..likelihood import Likelihood
from ._operator import Own, noise_level, sinogram
from ._spec import Choice, Fitted, Spec

# The search begins with a detector of at most `_COARSE` bins, and ends with one of at most `_FINE`.
_COARSE, _FINE = 64, 256
# Pixels of two bins, and parabolas of at least half a bin: see `calibration.calibrate`.
_PIXEL, _RESOLUTION = 2, 0.5
# Neighbouring pixels differ by about this share of the typical value of the image.
_DIFFERENCE = 0.1


def run(*, spec: Spec, choice: Choice, fitted: Fitted, width: float | None) -> None:
    """Find where the axis of rotation projects to, and print it with its standard error."""
    values, angles, _ = sinogram(spec, choice, fitted)
    bins = values.shape[1]
    width = bins / 10 if width is None else width
    if width > bins:
        raise ValueError(f"--width {width:g}: the detector has only {bins} bins.")
    first = spec.get("offset", 0.0)
    print(f"{len(values)} angles and {bins} detectors. {fitted.note}".rstrip())
    print(f"The search is within {width:g} bins of {first:g}.")
    coarse = math.ceil(bins / _COARSE)
    found = _search(values, angles, coarse, first, max(width, 2.0 * coarse))
    fine = math.ceil(bins / _FINE)
    if fine < coarse:
        found = _search(values, angles, fine, found[0], 2.0 * coarse)
    offset, error, sound = found
    if not sound:
        raise ValueError(
            f"there is no sharp minimum within {width:g} bins of {first:g}: take a larger --width, or another guess by "
            "--offset. Half a turn of angles is needed, of an object that the detector sees whole."
        )
    print(
        f"The middle of the detector is {offset:.3f} bins from the axis of rotation; the standard error is {error:.3f}."
    )
    print(f"The axis projects to bin {(bins - 1) / 2 - offset:.3f}. Use it: --offset {offset:.3f}")


def _search(
    values: np.ndarray, angles: np.ndarray, factor: int, first: float, width: float
) -> tuple[float, float, bool]:
    """The offset in bins, its standard error, and whether there is a minimum, with `factor` bins joined to one."""
    count = values.shape[1] // factor
    # Columns that do not fill a bin are dropped on the right, so the middle of the detector moves to the left.
    moved = (values.shape[1] - count * factor) / 2
    joined = values[:, : count * factor].reshape(len(values), count, factor).mean(2)
    y = jnp.asarray(joined[..., None])
    size = -(-count // _PIXEL)
    std = noise_level(Own("", operators.Identity(y.shape), y, None, None))
    typical = 3 * float(jnp.max(jnp.abs(y))) / count
    turned = jnp.asarray(angles, jnp.float32)

    def build(offset):
        geometry = {"num_detectors": count, "pixel_size": float(_PIXEL), "centre_offset": offset}
        return Likelihood(operators.ParallelBeam((size, size, 1), turned, **geometry), noise.Gaussian(std))

    solution = calibrate(
        build,
        (first - moved) / factor,
        y,
        widths=width / factor,
        criterion=PenalisedMisfit(1 / (_DIFFERENCE * typical) ** 2, max_steps=30),
        resolution=_RESOLUTION,
        grid=2 * math.ceil(width / factor) + 1,
        max_steps=3,
    )
    offset, error = float(solution.value) * factor + moved, float(solution.aux["standard_error"]) * factor
    return offset, error, bool(solution.result == RESULTS.successful)
