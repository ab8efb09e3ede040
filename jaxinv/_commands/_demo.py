"""What `jaxinv demo` runs: the main job, end to end, on real images."""

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import flax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import classical, diffusion, generative, io, metrics, operators, oracles, plotting
from .._types import Key
from .._version import __version__
from ..likelihood import Likelihood
from . import _demo_samples
from ._images import load
from ._measurements import TASKS, measured_by
from ._networks import KINDS, rngs_of
from ._score import Score

NOISE = 0.1


class _Task(NamedTuple):
    """One kind of measurement of all images."""

    name: str
    title: str
    operator: operators.AbstractLinearOperator
    likelihood: Likelihood
    measurements: Array
    tuning_images: Array
    tuning_measurements: Array


class _Row(NamedTuple):
    """One line of the table."""

    task: str
    method: str
    psnr: float
    psnr_clipped: float
    ssim: float
    compile_seconds: float
    seconds: float
    problems_per_second: float


def run(*, data: str, quick: bool, images: int, seed: int, output: Path) -> None:
    """Train, reconstruct, print the table and write `output`/{deblurring,tomography,samples}.png and results.json."""
    plotting_folder(output)
    began = time.perf_counter()
    key = jax.random.key(seed)
    keys = [jax.random.fold_in(key, i) for i in range(1, 5)]
    count = min(images, 4) if quick else images
    train, tuning, test = load(data, count, quick)
    print(f"{data}: {len(train)} training images, {len(test)} held-out ones to reconstruct; no pairs are used.")

    prior, history = _train(train, tuning, keys[0], quick)
    print(f"VAE: {len(history['loss'])} steps in {history['seconds']:.0f} s.")
    score, score_history = _demo_samples.fit(train, tuning, key=keys[3], quick=quick)
    print(f"Score network: {len(score_history['loss'])} steps in {score_history['seconds']:.0f} s.")
    gaussian = oracles.Gaussian.from_samples(train)

    rows = []
    for number, task in enumerate(_tasks(tuning, test, keys[1])):
        print(f"\n{task.title}")
        pictures = {}
        methods = _methods(task, prior, gaussian, score, jax.random.fold_in(keys[2], number), quick)
        for method, (solve, others) in methods.items():
            value, row = _time(task, method, solve, others, test)
            rows.append(row)
            pictures[method] = np.asarray(value)
            print(_line(row), flush=True)
        shown = min(4, len(test))
        figure = plotting.compare(
            {name: picture[:shown] for name, picture in pictures.items()},
            reference=np.asarray(test[:shown]),
            heading=task.title,
            limits=(0, 1),
        )
        plotting.save(figure, output / f"{task.name}.png")
    samples = _demo_samples.run(train, tuning, (gaussian, prior, score), key=keys[3], output=output)
    result = {
        "data": data,
        "quick": quick,
        "seed": seed,
        "total_seconds": round(time.perf_counter() - began, 1),
        "training_seconds": round(history["seconds"], 1),
        "score_training_seconds": round(score_history["seconds"], 1),
        "machine": {"platform": platform.platform(), "device": str(jax.devices()[0])},
        "versions": {"jaxinv": __version__, "jax": jax.__version__, "flax": flax.__version__},
        "rows": [row._asdict() for row in rows],
        "samples": samples,
    }
    io.write_bytes(output / "results.json", (json.dumps(result, indent=1) + "\n").encode())
    print(f"\n{result['total_seconds']:.0f} s in all. Figures and results.json are in {output}.")


def plotting_folder(output: Path) -> None:
    """Make the folder of the figures, or say before the work that it cannot be."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"The output folder {output} cannot be made ({error.strerror}). Choose another by --output."
        ) from error
    io.check_writable(output / "results.json")


def _train(train: Array, tuning: Array, key: Key, quick: bool) -> tuple[generative.VAEPrior, dict[str, Any]]:
    model, history = KINDS["vae"].train(
        KINDS["vae"].make(train.shape[1:], 16, rngs_of(key)),
        train,
        tuning,
        key=key,
        num_steps=400 if quick else 6000,
        batch_size=128,
        progress=diffrax.TqdmProgressMeter(refresh_steps=1),
    )
    return generative.VAEPrior(model), history


def _tasks(tuning: Array, test: Array, key: Key) -> list[_Task]:
    shape = test.shape[1:]
    tasks = []
    for number, name in enumerate(("deblurring", "tomography")):
        heading, make = TASKS[name]
        title = f"{heading}, noise {NOISE}" + ("" if name == "deblurring" else " of the norm")
        operator = make(shape, key)
        likelihood = measured_by(operator, NOISE, jax.random.fold_in(key, 0))
        draws = []
        for images, stream in ((test, 1), (tuning[:32], 2)):
            stream_keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, stream), number), len(images))
            draws.append(jax.vmap(lambda x, k, noisy=likelihood: noisy.simulate(x, key=k))(images, stream_keys))
        tasks.append(_Task(name, title, operator, likelihood, draws[0], tuning[:32], draws[1]))
    return tasks


def _methods(
    task: _Task, prior: generative.VAEPrior, gaussian: oracles.Gaussian, score: Score, key: Key, quick: bool
) -> dict[str, tuple[Callable[..., Array], tuple]]:
    # From the name of a method to a function of one measurement and its other arguments. Models and operators are
    # arguments and not closed over: what is closed over is compiled in as a constant.
    likelihood = task.likelihood
    restarts = 2 if quick else 8
    measurement = {"FBP": (_fbp, (task.operator,))}
    if not isinstance(task.operator, operators.ParallelBeam):
        measurement = {"measurement": (lambda y: y, ())}
    return measurement | {
        "Tikhonov": (_tikhonov, (likelihood, _best_weight(task, _tikhonov, jnp.geomspace(1e-4, 1, 13) / NOISE**2))),
        "TV": (_tv, (likelihood, _best_weight(task, _tv, jnp.geomspace(1, 30, 7)))),
        "Gaussian": (_gaussian, (likelihood, gaussian)),
        "VAE": (_latent, (likelihood, prior, key, restarts)),
        "score, mean": (_posterior_mean, (likelihood, *score.prior(), key, 10 if quick else 30, 2 if quick else 16)),
    }


def _fbp(y: Array, operator: operators.ParallelBeam) -> Array:
    return classical.fbp(operator, y, window=classical.Hann()).value


def _tikhonov(y: Array, likelihood: Likelihood, weight: Array) -> Array:
    return classical.tikhonov(likelihood, y, weight=weight, rtol=1e-4).value


def _tv(y: Array, likelihood: Likelihood, weight: Array) -> Array:
    return classical.tv(likelihood, y, weight=weight, rtol=1e-4, max_steps=500).value


def _gaussian(y: Array, likelihood: Likelihood, prior: oracles.Gaussian) -> Array:
    return classical.gaussian(likelihood, prior, y).value


def _latent(y: Array, likelihood: Likelihood, prior: generative.VAEPrior, key: Key, restarts: int) -> Array:
    return generative.reconstruct(likelihood, prior, y, key=key, restarts=restarts, max_steps=500).value


def _posterior_mean(
    y: Array, likelihood: Likelihood, process: Any, score: Any, key: Key, num_steps: int, num_samples: int
) -> Array:
    method = diffusion.MomentMatching(num_steps, schedule=diffusion.UniformLogSNR())
    options = {"key": key, "method": method, "num_samples": num_samples}
    return diffusion.posterior_sample(process, score, likelihood, y, **options).value.mean(0)


def _best_weight(task: _Task, solve: Callable[..., Array], weights: Array) -> Array:
    # By PSNR on images that are neither trained on nor reported: all weights and problems in one call.
    grid = jax.jit(jax.vmap(jax.vmap(solve, (0, None, None)), (None, None, 0)))
    images = jnp.clip(grid(task.tuning_measurements, task.likelihood, weights), 0, 1)
    return weights[jnp.argmax(jax.vmap(jax.vmap(metrics.psnr), (0, None))(images, task.tuning_images).mean(1))]


def _time(task: _Task, method: str, solve: Callable[..., Array], others: tuple, test: Array) -> tuple[Array, _Row]:
    compiled = eqx.filter_jit(lambda y, others: jax.vmap(lambda one: solve(one, *others))(y))
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        value = jax.block_until_ready(compiled(task.measurements, others))
        seconds.append(time.perf_counter() - began)
    clipped = jnp.clip(value, 0, 1)
    row = _Row(
        task.name,
        method,
        float(jax.vmap(metrics.psnr)(value, test).mean()),
        float(jax.vmap(metrics.psnr)(clipped, test).mean()),
        float(jax.vmap(metrics.ssim)(clipped, test).mean()),
        seconds[0] - seconds[1],
        seconds[1],
        len(test) / seconds[1],
    )
    return value, row


def _line(row: _Row) -> str:
    return (
        f"  {row.method:<12} PSNR {row.psnr:6.2f} dB  clipped {row.psnr_clipped:6.2f} dB  SSIM {row.ssim:.3f}  "
        f"{row.seconds:8.3f} s  {row.problems_per_second:9.1f} problems/s"
    )
