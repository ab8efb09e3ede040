"""The part of `jaxinv demo` that draws images without a measurement, from the priors that `_demo.py` trains."""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from .. import diffusion, generative, metrics, models, oracles, plotting
from .._types import Key
from ..diffusion import Preconditioned
from . import _score
from ._networks import rngs_of
from ._progress import Bar, progress

_COUNT, _SHOWN = 64, 8
_TO = 2000  # The number of training images with which samples are compared.
_KEPT = 0.9998  # The share of the variance of the images in the principal directions that are kept.


def fit(train: Array, tuning: Array, *, key: Key, num_steps: int, full: bool) -> tuple[_score.Score, dict[str, Any]]:
    """Train a small score network.

    **Arguments:**

    - `train`: the training images.
    - `tuning`: images that select the epoch.
    - `key`: a typed key.
    - `num_steps`: the number of training steps.
    - `full`: whether to use finer patches, all principal directions, and the epoch that is best on `tuning`.

    **Returns:** the score, and the history of `training.fit`.
    """
    # An image has few patches of 7 x 7 pixels, so batches may be larger: with batches of 32 images, or narrower tokens,
    # the network needs a thousand steps before it is better than the Gaussian.
    sizes = {"width": 64, "channel_width": 128} if full else {"patch_size": 7, "width": 96, "channel_width": 192}
    # A short training needs the start from the covariance.
    parametrisation = Preconditioned.from_samples(train)
    return _score.fit(
        models.Mixer(train.shape[1:], num_blocks=3, token_width=64, **sizes, rngs=rngs_of(key)),
        train,
        # With a decaying rate the last step is the best, and validation would compile another program.
        tuning if full else None,
        key=key,
        parametrisation=parametrisation if full else _leading(parametrisation),
        num_steps=num_steps,
        batch_size=32 if full else 64,
        progress=Bar("Training the score network"),
    )


def _leading(parametrisation: Preconditioned) -> Preconditioned:
    # Each principal direction costs time in every evaluation, and the last two thirds have almost no variance.
    basis, std = parametrisation.basis, parametrisation.std
    assert basis is not None
    share = np.cumsum(np.asarray(std) ** 2)
    kept = int(np.searchsorted(share, _KEPT * share[-1])) + 1
    return Preconditioned(parametrisation.mean, std[:kept], basis[:, :kept])


def run(
    train: Array,
    tuning: Array,
    priors: tuple[oracles.Gaussian, generative.VAEPrior, diffusion.AbstractScore],
    *,
    num_steps: int,
    key: Key,
    output: Path,
) -> list[dict[str, Any]]:
    """Draw from the priors, and write `output`/samples.png."""
    print("\nSamples: images from the priors alone, and how far they are from the training images")
    gaussian, vae, score = priors
    diffuse = lambda score: (
        diffusion.sample(
            score, train.shape[1:], key=key, num_samples=_COUNT, method=diffusion.DPMSolver(num_steps)
        ).value
    )
    draws = {
        "Gaussian, exact score": lambda: diffuse(gaussian.score(score.process)),
        "VAE": lambda: generative.sample(vae, _COUNT, key=key),
        "score network": lambda: diffuse(score),
        "held-out images": lambda: tuning[:_COUNT],
    }
    rows, shown = [], []
    for name, draw in draws.items():
        began = time.perf_counter()
        with progress(f"Drawing: {name}"):
            images = np.clip(jax.block_until_ready(draw()), 0, 1)
        seconds = time.perf_counter() - began
        distance = float(metrics.sliced_wasserstein(images, train[:_TO], key=key))
        rows.append({"method": name, "sliced_wasserstein": distance, "seconds": seconds})
        shown.append(images[:_SHOWN])
        print(f"  {name:<22} sliced Wasserstein {distance:.3f}  {seconds:8.3f} s, compilation included", flush=True)
    figure = plotting.compare(
        {f"{j + 1}": np.stack([images[j] for images in shown]) for j in range(_SHOWN)},
        titles=list(draws),
        heading="Samples",
        limits=(0, 1),
    )
    plotting.save(figure, output / "samples.png")
    return rows
