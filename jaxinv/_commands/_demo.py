"""The command `jaxinv demo`, which trains priors and reconstructs real images, end to end."""

import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from .. import classical, diffusion, generative, io, metrics, operators, oracles, plotting, zoo
from .._types import Key
from .._version import __version__
from ..likelihood import Likelihood
from . import _demo_samples
from ._images import load
from ._networks import KINDS, rngs_of
from ._progress import Bar, in_pieces, progress
from ._tasks import TASKS, measured_by

NOISE = 0.1


class _Effort(NamedTuple):
    """The numbers of steps and samples, which decide time and quality.

    - `posterior`, `samples`: the sampler of the posterior under the score network, and the number of samples of a mean.
    - `drawing_steps`: the number of steps for images that are drawn without a measurement.
    """

    vae_steps: int
    score_steps: int
    restarts: int
    posterior: diffusion.MomentMatching
    samples: int
    drawing_steps: int


def _moment_matching(num_steps: int, **options: int) -> diffusion.MomentMatching:
    return diffusion.MomentMatching(num_steps, schedule=diffusion.UniformLogSNR(), **options)


# The default is as accurate as the full training, to .3 dB: at the constant rate of the latter, the last two thirds of
# the steps of the autoencoder only overfit, and a decaying rate needs a sixth of the steps.
EFFORTS = {
    "quick": _Effort(400, 200, 2, _moment_matching(10, solver_steps=6, root_steps=3), 2, 20),
    "default": _Effort(1000, 3000, 8, _moment_matching(30, solver_steps=6, root_steps=3), 16, 20),
    "full": _Effort(6000, 6000, 8, _moment_matching(30), 16, 50),
}


class _Task(NamedTuple):
    """One kind of measurement of all images."""

    name: str
    title: str
    operator: operators.AbstractLinearOperator
    likelihood: Likelihood
    measurements: Array
    tuning_images: Array
    tuning_measurements: Array


class _Method(NamedTuple):
    """A method of reconstruction: `program(y, others)` reconstructs `piece` measurements at a time.

    Models and operators are among the arguments `others`, since in a closure they would become constants of the
    program.
    """

    name: str
    program: Callable[..., Array]
    others: tuple
    piece: int
    compile_seconds: float

    def solve(self, y: Array, tell: Callable[[float], None]) -> Array:
        """The reconstructions of all measurements; `tell` receives the completed share."""
        return in_pieces(lambda piece: self.program(piece, self.others), y, self.piece, tell)


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


def run(*, data: str, effort: str, images: int, seed: int, output: Path, pretrained: bool = False) -> None:
    """Train, reconstruct, print the table and write `output`/{deblurring,tomography,samples}.png and results.json.

    **Arguments:**

    - `data`: the name of a data set, as for `_images.load`.
    - `effort`: a key of `EFFORTS`.
    - `images`: the number of images to reconstruct.
    - `seed`: the seed of all random numbers.
    - `output`: the folder of the results.
    - `pretrained`: whether to take the priors of `zoo`, which are of MNIST, in place of training as far as there are.
    """
    if pretrained and data != "mnist":
        raise ValueError("The weights of the package are of MNIST: `--pretrained` needs `--data mnist`.")
    plotting_folder(output)
    began = time.perf_counter()
    key = jax.random.key(seed)
    keys = [jax.random.fold_in(key, i) for i in range(1, 5)]
    quick, full, chosen = effort == "quick", effort == "full", EFFORTS[effort]
    count = min(images, 4) if quick else images
    train, tuning, test = load(data, count, quick)
    print(f"{data}: {len(train)} training images, {len(test)} held-out ones to reconstruct; no pairs are used.")

    seconds = [0.0, 0.0]
    ready = zoo.names() if pretrained else ()
    prior: Any
    score: Any
    if "mnist-vae" in ready:
        prior = zoo.load("mnist-vae")
        print("VAE: that of the package.")
    else:
        prior, history = _train(train, tuning, keys[0], chosen.vae_steps, full=full)
        print(f"VAE: {len(history['loss'])} steps in {history['seconds']:.0f} s.")
        seconds[0] = history["seconds"]
    if "mnist-score" in ready:
        score = zoo.load("mnist-score")
        print("Score network: that of the package.")
    else:
        learned, scored = _demo_samples.fit(train, tuning, key=keys[3], num_steps=chosen.score_steps, full=full)
        print(f"Score network: {len(scored['loss'])} steps in {scored['seconds']:.0f} s.")
        score, seconds[1] = learned.prior(), scored["seconds"]
    gaussian = oracles.Gaussian.from_samples(train)

    rows = []
    with progress("Simulating the measurements"):
        tasks = _tasks(tuning[:32], test, keys[1])
    for number, task in enumerate(tasks):
        print(f"\n{task.title}")
        pictures = {}
        for method in _methods(task, prior, gaussian, score, jax.random.fold_in(keys[2], number), chosen):
            value, row = _time(task, method, test)
            rows.append(row)
            pictures[method.name] = np.asarray(value)
            print(_line(row), flush=True)
        shown = min(4, len(test))
        figure = plotting.compare(
            {name: picture[:shown] for name, picture in pictures.items()},
            reference=np.asarray(test[:shown]),
            heading=task.title,
            limits=(0, 1),
        )
        plotting.save(figure, output / f"{task.name}.png")
    priors = (gaussian, prior, score)
    samples = _demo_samples.run(train, tuning, priors, num_steps=chosen.drawing_steps, key=keys[3], output=output)
    result = {
        "data": data,
        "effort": effort,
        "pretrained": pretrained,
        "seed": seed,
        "total_seconds": round(time.perf_counter() - began, 1),
        "training_seconds": round(seconds[0], 1),
        "score_training_seconds": round(seconds[1], 1),
        "machine": {"platform": platform.platform(), "device": str(jax.devices()[0])},
        "versions": {"jaxinv": __version__, "jax": jax.__version__, "flax": flax.__version__},
        "rows": [row._asdict() for row in rows],
        "samples": samples,
    }
    io.write_bytes(output / "results.json", (json.dumps(result, indent=1) + "\n").encode())
    print(f"\n{result['total_seconds']:.0f} s in all. Figures and results.json are in {output}.")


def plotting_folder(output: Path) -> None:
    """Make the folder of the figures, or raise before the work if that fails."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"The output folder {output} cannot be made ({error.strerror}). Choose another by --output."
        ) from error
    io.check_writable(output / "results.json")


def _train(
    train: Array, tuning: Array, key: Key, steps: int, *, full: bool
) -> tuple[generative.VAEPrior, dict[str, Any]]:
    rate = optax.warmup_cosine_decay_schedule(0.0, 3e-3, min(100, steps // 10), steps, 6e-5)
    model, history = KINDS["vae"].train(
        KINDS["vae"].make(train.shape[1:], 16, rngs_of(key)),
        train,
        tuning,
        key=key,
        optimiser=None if full else optax.adam(rate),
        num_steps=steps,
        batch_size=128,
        progress=Bar("Training the VAE"),
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
        split = lambda stream, count, number=number: jax.random.split(
            jax.random.fold_in(jax.random.fold_in(key, stream), number), count
        )
        stream_keys = jnp.concatenate([split(1, len(test)), split(2, len(tuning))])
        images = jnp.concatenate([test, tuning])
        y = jax.vmap(lambda x, k, noisy=likelihood: noisy.simulate(x, key=k))(images, stream_keys)
        tasks.append(_Task(name, title, operator, likelihood, y[: len(test)], tuning, y[len(test) :]))
    return tasks


def _methods(
    task: _Task,
    prior: generative.VAEPrior,
    gaussian: oracles.Gaussian,
    score: diffusion.AbstractScore,
    key: Key,
    effort: _Effort,
) -> Iterator[_Method]:
    likelihood = task.likelihood
    if isinstance(task.operator, operators.ParallelBeam):
        yield _compile(task, "FBP", _fbp, (task.operator,))
    else:
        yield _compile(task, "measurement", lambda y: y, ())
    yield _tuned(task, "Tikhonov", _tikhonov, jnp.geomspace(1e-4, 1, 13) / NOISE**2)
    yield _tuned(task, "TV", _tv, jnp.geomspace(1, 30, 7))
    yield _compile(task, "Gaussian", _gaussian, (likelihood, gaussian))
    yield _compile(task, "VAE", _latent, (likelihood, prior, key, effort.restarts), piece=16)
    drawing = (score, key, effort.posterior, effort.samples)
    yield _compile(task, "score, mean", _posterior_mean, (likelihood, *drawing), piece=2)


def _compile(task: _Task, name: str, solve: Callable[..., Array], others: tuple, piece: int | None = None) -> _Method:
    # `solve(y, *others)` reconstructs one measurement.
    y = task.measurements
    mapped: Any = eqx.filter_jit(lambda y, others: jax.vmap(lambda one: solve(one, *others))(y))
    piece = min(piece or len(y), len(y))
    with progress(f"Compiling: {task.name}, {name}"):
        began = time.perf_counter()
        program = mapped.lower(y[:piece], others).compile()
    return _Method(name, program, others, piece, time.perf_counter() - began)


def _tuned(task: _Task, name: str, solve: Callable[..., Array], weights: Array) -> _Method:
    # The weight is the one with the best PSNR on images that are neither training nor test images.
    method = _compile(task, name, solve, (task.likelihood, weights[0]))
    candidates = [method._replace(others=(task.likelihood, weight)) for weight in weights]
    quality = []
    with progress(f"Choosing the weight: {task.name}, {name}") as tell:
        for number, candidate in enumerate(candidates):
            images = jnp.clip(candidate.solve(task.tuning_measurements, lambda share: None), 0, 1)
            quality.append(float(_mean_psnr(images, task.tuning_images)))
            tell((number + 1) / len(candidates))
    return candidates[int(np.argmax(quality))]


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
    y: Array,
    likelihood: Likelihood,
    score: diffusion.AbstractScore,
    key: Key,
    method: diffusion.MomentMatching,
    num_samples: int,
) -> Array:
    options = {"key": key, "method": method, "num_samples": num_samples}
    return diffusion.posterior_sample(likelihood, score, y, **options).value.mean(0)


@jax.jit
def _mean_psnr(images: Array, truth: Array) -> Array:
    return jax.vmap(metrics.psnr)(images, truth).mean()


def _time(task: _Task, method: _Method, test: Array) -> tuple[Array, _Row]:
    with progress(f"{task.name.capitalize()}, {method.name}") as tell:
        began = time.perf_counter()
        value = method.solve(task.measurements, tell)
        seconds = time.perf_counter() - began
    clipped = jnp.clip(value, 0, 1)
    row = _Row(
        task.name,
        method.name,
        float(_mean_psnr(value, test)),
        float(_mean_psnr(clipped, test)),
        float(jax.vmap(metrics.ssim)(clipped, test).mean()),
        method.compile_seconds,
        seconds,
        len(test) / seconds,
    )
    return value, row


def _line(row: _Row) -> str:
    return (
        f"  {row.method:<12} PSNR {row.psnr:6.2f} dB  clipped {row.psnr_clipped:6.2f} dB  SSIM {row.ssim:.3f}  "
        f"{row.seconds:8.3f} s  {row.problems_per_second:9.1f} problems/s"
    )
