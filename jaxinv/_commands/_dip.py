"""The command `jaxinv dip`, which fits a deep image prior to a measurement in the user's file (`_user_file.py`)."""

import dataclasses
import math
import time
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import data, dip, io, metrics, models, noise
from .._solution import RESULTS
from ..likelihood import Likelihood
from ._files import check_outputs, discard, keeping, scratch_file
from ._networks import rngs_of
from ._progress import Bar
from ._user_file import Measured, Request, Scale, measure

NETWORKS = {"conv": models.ConvDecoder, "deep": models.DeepDecoder}
# Images with more values than this are too large for the rule of windowed variance, which keeps a hundred images.
_LARGE = 2**19
# The weight of total variation for scans, in lengths of half the image's width; `benchmarks/dip_real.py` has the scale.
_TV_OF_SCANS = 1e-3
STOPPING = {
    "fixed": dip.FixedSteps,
    "variance": dip.WindowedVariance,
    "discrepancy": dip.Discrepancy,
    "held-out": dip.HeldOut,
}


def run(
    *,
    request: Request,
    level: float | None,
    reference: Path | None,
    network: str,
    tv: float | None,
    steps: int | None,
    rate: float | None,
    stopping: str | None,
    seed: int,
    output: Path,
) -> None:
    """Fit a network to one measurement of the user, and write the image; an interrupted run continues."""
    arrays = output.with_suffix(".npy")
    check_outputs([output, arrays], [request.file, request.mask, reference])
    checkpoint = scratch_file(output)
    measured = measure(request)
    truth = None if reference is None else _reference(reference, measured)
    scale = measured.scale
    std = measured.level if level is None else level / scale.unit
    print(f"{measured.heading}; noise of standard deviation {std * scale.unit:.3g}.")
    if scale != Scale():
        print(
            f"The network makes images from 0 to 1, which stand for {scale.black:.4g} to {scale.white:.4g} of the file."
        )

    likelihood = Likelihood(measured.operator, noise.Gaussian(std))
    keys = [jax.random.fold_in(jax.random.key(seed), i) for i in range(2)]
    shape = tuple(measured.operator.domain.shape)
    if stopping == "variance" and math.prod(shape) > _LARGE:
        raise ValueError(
            f"--stopping variance keeps the last hundred images, too large of {shape[0]} x {shape[1]} pixels: "
            "take --crop, --size, or another rule, such as --stopping fixed with fewer --steps."
        )
    recipe = recipe_for(measured.operator, measured.y, std, scale.peak, tv=tv, steps=steps, rate=rate)
    rngs = rngs_of(keys[0])
    began = time.perf_counter()
    solution = dip.resume(
        likelihood,
        recipe.network(shape, rngs=rngs) if network == "skip" else NETWORKS[network](shape, rngs=rngs),
        measured.y,
        checkpoint=checkpoint,
        key=keys[1],
        recipe=recipe,
        stopping=None if stopping is None else STOPPING[stopping](),
        reference=truth,
        stride=max(recipe.num_steps // 200, 1),
        progress=Bar("Fitting the network"),
        report=None if truth is None else partial(_tell, scale),
    )
    solution.value.block_until_ready()
    seconds = time.perf_counter() - began
    if solution.result == RESULTS.invalid_parameter:
        discard(checkpoint)
        raise ValueError("there are too few values to hold some out of: take --stopping fixed.")
    image = scale.write(np.asarray(solution.value))
    black, white = (0.0, 1.0) if scale == Scale() else (float(image.min()), float(image.max()))
    stored = BytesIO()
    np.save(stored, image)
    with keeping(checkpoint):
        io.write_bytes(arrays, stored.getvalue())
        _write(output, (image - black) / (white - black if white > black else 1))
    print(_verdict(solution, truth, scale, seconds))
    shades = "" if scale == Scale() else f" Black is {black:.4g} and white {white:.4g} in the picture."
    print(f"Wrote {output}, and {arrays} in the unit of {request.file}.{shades}")
    if solution.result not in (RESULTS.successful, RESULTS.max_steps_reached):
        raise ValueError(f"the run failed: {RESULTS[solution.result]} A smaller --rate may help.")


def recipe_for(
    operator: Any,
    y: Any,
    std: float,
    peak: float,
    *,
    tv: float | None = None,
    steps: int | None = None,
    rate: float | None = None,
) -> dip.Recipe:
    """The recipe for an image in [0, 1], with values in a range `peak`, from its measurement and the user's options."""
    if operator.is_tomograph:
        # Line integrals are as long as the image is wide, so the weight is the same in every unit of length; it was
        # chosen for noise of this level, and total variation goes with the inverse of the noise.
        half, level = operator.pixel_size * operator.domain.shape[1] / 2, 0.025 * float(jnp.mean(jnp.abs(y)))
        weight = peak * (_TV_OF_SCANS * half**2 / (std * level) if tv is None else tv / std**2)
        given = {"num_steps": steps, "learning_rate": rate}
        return dip.tomography(weight, **{name: v for name, v in given.items() if v is not None})
    recipe = dip.photograph() if steps is None else dip.photograph(num_steps=steps)
    if rate is not None:
        recipe = dataclasses.replace(recipe, learning_rate=rate)
    return recipe if tv is None else dataclasses.replace(recipe, weight=tv * peak / std**2, weight_by_noise=0.0)


def _reference(path: Path, measured: Measured) -> Any:
    reference = measured.scale.read(measured.view(data.picture(path)))
    shape = tuple(measured.operator.domain.shape)
    if reference.shape != shape:
        raise ValueError(f"--reference {path} is an image of shape {reference.shape}; the reconstruction has {shape}.")
    return jnp.asarray(reference)


def _tell(scale: Scale, figures: dict[str, float]) -> None:
    import tqdm

    # The PSNR of an image in [0, 1] is relative to 1, and that of the file to the range of its values.
    tqdm.tqdm.write(f"step {figures['step']:>6.0f}  PSNR {figures['psnr'] + 20 * math.log10(scale.peak):6.2f} dB")


def _verdict(solution: Any, truth: Any, scale: Scale, seconds: float) -> str:
    steps, kept = int(solution.stats["num_steps"]), int(solution.stats["step"])
    psnr = lambda: float(metrics.psnr(solution.value, truth, data_range=scale.peak))
    quality = "" if truth is None else f", PSNR {psnr():.2f} dB"
    line = f"{steps} steps in {seconds:.0f} s, compilation included; the image after step {kept} is kept{quality}."
    if solution.result == RESULTS.max_steps_reached:
        return line + " The rule has not stopped the run: more --steps may change the image."
    return line


def _write(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    grey = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    drawing = BytesIO()
    Image.fromarray(grey[..., 0] if grey.shape[2] == 1 else grey).save(drawing, format="PNG")
    io.write_bytes(path, drawing.getvalue())
