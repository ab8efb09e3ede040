"""The command `jaxinv reconstruct`, which makes a picture of a measurement of the user, with error bars."""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import io, metrics, noise as noises, plotting
from ..likelihood import Likelihood
from ._files import outputs_of
from ._operator import Own, measured, noise_level
from ._solvers import SOLVERS, Found, Settings
from ._spec import Choice, Fitted, Spec

_SHOWN = 4


def run(
    *,
    spec: Spec,
    choice: Choice,
    fitted: Fitted,
    kind: str,
    settings: Settings,
    level: float | None,
    reference: Path | None,
    seed: int,
    output: Path,
) -> None:
    """Reconstruct one measurement, and write the image, its deviation, the samples and a figure."""
    own = measured(spec, choice, fitted)
    std = noise_level(own) if level is None else level
    said = "estimated" if level is None else "given"
    print(f"{own.heading}; noise of standard deviation {std:.3g}, {said}. {fitted.note}".rstrip())
    own = own._replace(std=std)
    likelihood = Likelihood(own.operator, noises.Gaussian(std))
    began = time.perf_counter()
    found = SOLVERS[kind](likelihood, own, settings, jax.random.key(seed))
    image = np.asarray(jax.block_until_ready(found.image))
    seconds = time.perf_counter() - began
    if not np.isfinite(image).all():
        raise ValueError("the reconstruction is not finite; is the noise given by --noise far too small?")
    print(f"{kind}: {seconds:.1f} s, compilation included. {found.note}".rstrip())
    _compare(own, found, image, std, reference)
    written = outputs_of(output, deviation=found.deviation is not None, samples=found.samples is not None)
    _write(output, image, own)
    if found.deviation is not None:
        _write(written["deviation"], np.asarray(found.deviation), own)
    if found.samples is not None:
        io.write(written["samples"], np.asarray(found.samples))
    plotting.save(_figure(own, found, image), written["figure"])
    unit = f", with pixels of {own.spacing:.4g} mm" if own.spacing is not None else ""
    print(f"Wrote {', '.join(str(path) for path in written.values())}{unit}.")


def _compare(own: Own, found: Found, image: np.ndarray, std: float, reference: Path | None) -> None:
    known = np.broadcast_to(np.asarray(own.operator.measured) > 0, own.y.shape)
    residual = np.abs(np.asarray(own.operator(jnp.asarray(image)) - own.y))[known]
    parts = 2 if np.iscomplexobj(own.y) else 1
    misfit = float(np.sqrt(np.mean(residual**2) / parts)) / std
    print(f"The image explains the measurement up to {misfit:.2f} deviations of the noise.")
    if found.deviation is not None:
        print(f"The deviation of a pixel is {float(jnp.mean(found.deviation)):.3g} on average.")
    if reference is not None:
        truth = io.read_image(reference)
        if truth.shape != image.shape:
            raise ValueError(f"--reference {reference} has the shape {truth.shape}; the image has {image.shape}.")
        # That of a picture in [0, 1] is relative to 1, and that of another unit to the range of its values.
        pictured = truth.min() >= 0 and truth.max() <= 1
        width = 1.0 if pictured else float(np.ptp(truth)) or 1.0
        print(f"PSNR {float(metrics.psnr(image, truth, data_range=width)):.2f} dB.")


def _write(path: Path, image: np.ndarray, own: Own) -> None:
    if path.suffix.lower() == ".png":
        io.write(path, np.clip(image, 0, 1) if image.min() >= -0.5 and image.max() <= 1.5 else _stretched(image))
    else:
        io.write(path, io.Measurement(image, ("row", "column", "channel"), _sizes(own)))


def _sizes(own: Own) -> Any:
    return None if own.spacing is None else (own.spacing, own.spacing, None)


def _stretched(image: np.ndarray) -> np.ndarray:
    black, white = float(image.min()), float(image.max())
    return (image - black) / (white - black if white > black else 1)


def _figure(own: Own, found: Found, image: np.ndarray) -> Any:
    """What was measured, the image and, on a scale of its own, the deviation of each pixel."""
    columns = (
        {}
        if own.first is None
        else {"filtered back-projection" if own.operator.is_tomograph else "measurement": own.first}
    )
    columns["reconstruction"] = image
    low, high = np.percentile(image, (0.5, 99.5))
    low, high = (float(low), float(high)) if high > low else (float(low) - 1, float(low) + 1)
    heading = f"From {low:.3g} (black) to {high:.3g} (white)"
    if found.deviation is not None:
        spread = np.asarray(found.deviation)
        top = float(spread.max()) or 1.0
        # Drawn on the same scale, from black for none to white for the largest deviation.
        columns["deviation"] = low + (high - low) * spread / top
        heading += f"; deviations from 0 to {top:.3g}"
    if found.samples is not None:
        for number, sample in enumerate(np.asarray(found.samples[:_SHOWN]), 1):
            columns[f"sample {number}"] = sample
    return plotting.compare(columns, heading=heading, limits=(low, high), errors=False)
