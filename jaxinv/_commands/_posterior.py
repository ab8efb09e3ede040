"""The part of `jaxinv evaluate` that samples the posterior under a trained score, called by `_evaluate.py`."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from .. import diffusion, metrics, plotting
from .._solution import RESULTS
from .._types import Key
from ..likelihood import Likelihood
from ._many import solve_all
from ._score import Score

_LEVEL = 0.9
_SHOWN, _IMAGES = 6, 4


def solve(
    score: Score, count: int, likelihood: Likelihood, y: Array, keys: Key
) -> tuple[dict[str, Array], Array, Array]:
    """Means and one sample of each posterior, all samples, `(n, count, *shape)`, and the mask of failures."""

    def draw(likelihood, learned, problem):
        y, key = problem
        return diffusion.posterior_sample(likelihood, learned, y, key=key, num_samples=count)

    solution = solve_all(jax.tree_util.Partial(draw, likelihood, score.prior()), (y, keys), "Sampling the posterior")
    samples = solution.value
    return (
        {"score, mean": samples.mean(1), "score, sample": samples[:, 0]},
        samples,
        solution.result != RESULTS.successful,
    )


def report(samples: Array, truth: Array, path: Path) -> dict[str, Any]:
    """Print the error that the samples predict, and draw mean, deviation and samples of the first images."""
    if samples.shape[1] < 2:
        return {}
    coverage = float(np.mean(jax.vmap(lambda s, x: metrics.coverage(s, x, level=_LEVEL))(samples, truth)))
    spread = np.asarray(samples.std(1))
    said = f"{100 * _LEVEL:g} % credible intervals hold {100 * coverage:.1f} % of the pixels"
    print(f"  {samples.shape[1]} samples each: {said}.")
    shown = np.asarray(samples[:_IMAGES, :_SHOWN])
    columns = {"truth": np.asarray(truth[:_IMAGES]), "mean": np.asarray(samples[:_IMAGES].mean(1))}
    columns["deviation"] = spread[:_IMAGES] / max(float(spread[:_IMAGES].max()), 1e-12)
    columns |= {f"sample {j + 1}": shown[:, j] for j in range(shown.shape[1])}
    figure = plotting.compare(
        {name: np.clip(value, 0, 1) for name, value in columns.items()},
        heading=f"Posterior samples; deviations up to {spread[:_IMAGES].max():.2g}",
        limits=(0, 1),
    )
    plotting.save(figure, path)
    return {"coverage": coverage, "deviation": float(spread.mean())}
