"""The command `jaxinv evaluate`, which reconstructs held-out images with a trained prior."""

import json
import time
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import classical, generative, io, metrics, oracles, plotting
from .._solution import RESULTS
from .._types import Key
from ..likelihood import Likelihood
from . import _networks, _posterior, _score
from ._demo import plotting_folder
from ._images import load
from ._many import solve_all
from ._tasks import TASKS, Shape, measured_by


class _Trained(NamedTuple):
    """A trained prior: its kind, the shape of its images, and its method of reconstruction.

    `solve(likelihood, y, keys)`, with a key for each image, returns images by their name in the figure, arrays to
    store, and the mask of failures.
    """

    kind: str
    shape: Shape
    solve: Any


def run(
    *,
    network: Path,
    prior: str | None,
    task: str,
    data: str,
    images: int,
    level: float,
    restarts: int,
    samples: int,
    seed: int,
    output: Path,
) -> None:
    """Simulate measurements of held-out images, reconstruct them with a trained prior, and write figure and numbers."""
    plotting_folder(output)
    trained = _open(network, restarts, samples)
    if prior not in (None, trained.kind):
        raise ValueError(f"--prior {prior}: {network} holds the prior of kind {trained.kind}.")
    keys = [jax.random.fold_in(jax.random.key(seed), i) for i in range(3)]
    train, _, test = load(data, images, quick=False)
    if test.shape[1:] != trained.shape:
        raise ValueError(
            f"{network} was trained on images of shape {trained.shape}; those of --data {data} are {test.shape[1:]}."
        )
    heading, make = TASKS[task]
    likelihood = measured_by(make(trained.shape, keys[0]), level, keys[0])
    each = jax.random.split(keys[1], len(test))
    y = jax.vmap(lambda x, key: likelihood.simulate(x, key=key))(test, each)

    began = time.perf_counter()
    found, stored, failed = jax.block_until_ready(trained.solve(likelihood, y, jax.random.split(keys[2], len(test))))
    seconds = time.perf_counter() - began
    pictures = {"Gaussian": _gaussian(likelihood, train, y)} | found
    rows = {}
    print(heading + f", noise {level:g} of the norm; {len(test)} held-out images.")
    for method, value in pictures.items():
        quality = jax.vmap(metrics.psnr)(jnp.clip(value, 0, 1), test)
        rows[method] = {"psnr_clipped": float(quality.mean()), "worst": float(quality.min())}
        print(f"  {method:<14} PSNR clipped {quality.mean():6.2f} dB, worst {quality.min():6.2f} dB")
    result = {"network": str(network), "task": task, "noise": level, "seconds": seconds, "rows": rows}
    result["failed"] = int(np.sum(np.asarray(failed)))
    if trained.kind == "score":
        result |= _posterior.report(stored, test, output / f"{task}_samples.png")
    print(f"  {seconds:.1f} s, compilation included; {result['failed']} of {len(test)} failed.")
    figure = plotting.compare(
        {name: np.asarray(value[:4]) for name, value in pictures.items()},
        reference=np.asarray(test[:4]),
        heading=heading,
        limits=(0, 1),
    )
    plotting.save(figure, output / f"{task}.png")
    array = BytesIO()
    np.save(array, np.asarray(stored))
    io.write_bytes(output / f"{task}.npy", array.getvalue())
    io.write_bytes(output / "results.json", (json.dumps(result, indent=1) + "\n").encode())
    print(f"Wrote {output}.")


def _open(network: Path, restarts: int, samples: int) -> _Trained:
    if _score.is_score(network):
        score = _score.load(network)
        return _Trained("score", score.shape, lambda *problem: _posterior.solve(score, samples, *problem))
    kind, shape, prior = _networks.load(network)
    return _Trained(kind, shape, lambda *problem: _latent(kind, prior, restarts, *problem))


def _latent(
    kind: str, prior: Any, restarts: int, likelihood: Likelihood, y: Array, keys: Key
) -> tuple[dict[str, Array], Array, Array]:
    def solve(likelihood, prior, problem):
        y, key = problem
        return generative.reconstruct(likelihood, prior, y, key=key, restarts=restarts)

    solution = solve_all(jax.tree_util.Partial(solve, likelihood, prior), (y, keys), f"Reconstructing: {kind}")
    finished = (solution.result == RESULTS.successful) | (solution.result == RESULTS.max_steps_reached)
    return {kind: solution.value}, solution.value, ~finished


def _gaussian(likelihood: Likelihood, train: Array, y: Array) -> Array:
    baseline = oracles.Gaussian.from_samples(train)
    return jax.vmap(lambda y: classical.gaussian(likelihood, baseline, y).value)(y)
