"""Posterior sampling with a score trained on MNIST, beside TV, a Gaussian prior and a VAE on the same problems.

    python benchmarks/posterior_mnist.py --networks FOLDER [--images 16] [--samples 10] [--quick]

Test images in [0, 1]; operators of norm 1; noise .1 for deblurring and compressed sensing (the operators of
`latent_mnist`), .05 for tomography (10 angles) and inpainting (30 % of the pixels). The score is that of
`score_mnist.py`, VP, seed 0, read from the folder where it was kept, else trained as there; it knows images in [-1, 1],
and so does the measurement, of twice the size. PSNR of the mean of the samples and of one sample, clipped to the range,
means over images; `coverage` is the share of pixels within the central 90 % interval of the samples, where `ideal` is
what as many samples of the exact posterior cover. `TV`: the best weight of a grid, chosen on other training images.
`Gaussian MMSE`: the posterior mean for mean and covariance of 59 000 training images. `VAE`: of 20 latents, as in
`bora_mnist`, the image of the most probable latent of 10 starts. `over_gaussian` is the gain of the mean over it, `met`
whether one method at least gains. The committed run, on one core beside tests, is of `--images 8` and five methods.
"""

import argparse
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import score_mnist
from bora_mnist import train_vae
from flax import nnx
from harness import RESULTS, Recorder
from latent_methods import operator_of
from latent_mnist import SHAPE

import jaxinv
from jaxinv import classical, diffusion, generative, io, metrics, models, noise, operators, oracles, plotting
from jaxinv.diffusion import Preconditioned, UniformLogSNR

PROCESS = diffusion.VP()
KEY = jax.random.key(0)
METHODS = {
    "default: moment matching": None,
    "moment matching, 30 log-SNR": diffusion.MomentMatching(30, schedule=UniformLogSNR()),
    "TMPD": diffusion.TMPD(),
    "PiGDM": diffusion.PiGDM(),
    "DPS": diffusion.DPS(100),
    "DPS, zeta .3": diffusion.DPS(100, zeta=0.3),
    "DiffPIR": diffusion.DiffPIR(),
    "DDRM": diffusion.DDRM(),
    "REDDiff": diffusion.REDDiff(),
    "DAPS": diffusion.DAPS(),
}
TV_WEIGHTS = jnp.geomspace(0.3, 30.0, 7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=Path, required=True, help="the folder where trained networks are kept")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--quick", action="store_true", help="two images, two samples, two methods: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.images, options.samples, options.methods = 2, 2, ["DPS", "DiffPIR"]
    recorder = Recorder("posterior_mnist_quick" if options.quick else "posterior_mnist")
    train = np.asarray(jaxinv.data.mnist("train")[0], np.float32) / 255
    truth = jnp.asarray(jaxinv.data.mnist("test")[0][: options.images], jnp.float32) / 255
    score = trained_score(options.networks)
    vae, _ = train_vae(train[:-10_000], 300 if options.quick else 8000, options.networks)
    gaussian = oracles.Gaussian.from_samples(train[:-1000])
    ranks = {}
    for task, (operator, std) in tasks().items():
        likelihood = jaxinv.Likelihood(operator, noise.Gaussian(std))
        y, y_chooser = (measure(likelihood, x) for x in (truth, jnp.asarray(train[-50:])))
        baseline = classics(recorder, task, likelihood, gaussian, vae, y, y_chooser, truth, train[-50:])
        gains = []
        for name in options.methods:
            solution, figures = posterior(score, operator, std, y, METHODS[name], options.samples)
            # Images in [-1, 1] to those in [0, 1].
            samples = (solution.value + 1) / 2
            mean = float(psnr(samples.mean(1), truth))
            inside = jax.vmap(metrics.coverage)(samples, truth)
            gains.append(mean - baseline)
            recorder.add(
                task=task,
                method=name,
                psnr_mean=round(mean, 2),
                psnr_sample=round(float(psnr(samples[:, 0], truth)), 2),
                over_gaussian=round(mean - baseline, 2),
                coverage=round(float(inside.mean()), 3),
                coverage_error=round(float(inside.std() / np.sqrt(len(truth))), 3),
                ideal=round(0.9 * (options.samples - 1) / (options.samples + 1), 3),
                failed=int(np.sum(np.asarray(jaxinv.RESULTS.successful != solution.result))),
                **figures,
            )
            if name == options.methods[0]:
                show(f"{recorder.path.stem}_{task.replace(' ', '_')}", task, samples, truth)
                ranks[task] = jax.vmap(lambda s, x: metrics.calibration_ranks(s, x, jnp.sum))(samples, truth)
        recorder.add(task=task, method="bar: one above the Gaussian MMSE", met=bool(max(gains) > 0))
    figure = plotting.calibration(
        np.stack([np.asarray(r) for r in ranks.values()], axis=1), options.samples, bins=2, titles=list(ranks)
    )
    plotting.save(figure, RESULTS / f"{recorder.path.stem}_calibration.png")
    recorder.write()


def show(name, task, samples, truth):
    """A figure of the samples of some images."""
    columns = {"truth": truth[:6], "mean": samples[:6].mean(1), "deviation x 3": 3 * samples[:6].std(1)}
    columns |= {f"sample {i + 1}": samples[:6, i] for i in range(min(samples.shape[1], 4))}
    columns = {title: np.clip(images, 0, 1) for title, images in columns.items()}
    plotting.save(plotting.compare(columns, heading=f"Posterior of {task}", limits=(0, 1)), RESULTS / f"{name}.png")


def tasks():
    """`{name: (operator of norm 1, noise level)}`."""
    angles = jnp.linspace(0, jnp.pi, 10, endpoint=False)
    mask = (jax.random.uniform(jax.random.key(3), SHAPE) < 0.3).astype(jnp.float32)
    radon = operators.materialise(operators.ParallelBeam(SHAPE, angles))
    return {
        "deblurring": (operator_of("deconvolution"), 0.1),
        "compressed sensing": (operator_of("compressed sensing"), 0.1),
        "tomography": (radon / operators.norm(radon, key=KEY), 0.05),
        "inpainting": (operators.Mask(mask), 0.05),
    }


def trained_score(folder):
    train, validation, _ = score_mnist.grey_values()
    train = score_mnist.dequantised(train)
    parametrisation = Preconditioned(train.mean(), train.std())
    file = folder / "vp_0.safetensors"
    if file.exists():
        network = io.load(file, models.UNet(SHAPE, rngs=nnx.Rngs(0)))
    else:
        options = argparse.Namespace(steps=4600, folder=folder)
        validation = score_mnist.dequantised(validation)
        network, _ = score_mnist.fit(PROCESS, parametrisation, train, validation, 0, "vp", options)
    return diffusion.score_from(network, PROCESS, parametrisation)


def measure(likelihood, images):
    keys = jax.random.split(KEY, len(images))
    return jax.jit(jax.vmap(lambda x, key: likelihood.simulate(x, key=key)))(images, keys)


def psnr(images, truth):
    return metrics.psnr(jnp.clip(images, 0, 1), truth)


@eqx.filter_jit
def draw(score, likelihood, y, method, num_samples):
    one = lambda y, key: diffusion.posterior_sample(
        likelihood, score, y, key=key, method=method, num_samples=num_samples
    )
    return jax.vmap(one)(y, jax.random.split(KEY, len(y)))


def posterior(score, operator, std, y, method, num_samples):
    """The samples, of images in [-1, 1], and what they cost."""
    # A (2 x - 1) + 2 n = 2 (A x + n) - A 1.
    likelihood = jaxinv.Likelihood(operator, noise.Gaussian(2 * std))
    twice = 2 * y - operator(jnp.ones(SHAPE))[None]
    compiled = draw.lower(score, likelihood, twice, method, num_samples).compile()
    began = time.perf_counter()
    solution = jax.block_until_ready(compiled(score, likelihood, twice, method, num_samples))
    seconds = time.perf_counter() - began
    calls = {name: round(float(jnp.mean(solution.stats[name]))) for name in ("network_evaluations", "vjps")}
    return solution, calls | {"seconds": round(seconds, 1), "samples_per_second": len(y) * num_samples / seconds}


def classics(recorder, task, likelihood, gaussian, vae, y, y_chooser, truth, chooser):
    """Records the methods without a score; the PSNR of the Gaussian MMSE."""
    found = [float(psnr(smoothed(likelihood, weight, y_chooser), chooser)) for weight in TV_WEIGHTS]
    weight = TV_WEIGHTS[int(np.argmax(found))]
    figures = {"Gaussian MMSE": affine(likelihood, gaussian, y), "TV": smoothed(likelihood, weight, y)}
    figures["VAE"] = decoded(likelihood, vae, y)
    values = {name: float(psnr(images, truth)) for name, images in figures.items()}
    for name, value in values.items():
        chosen = {"weight": round(float(weight), 3)} if name == "TV" else {}
        recorder.add(task=task, method=name, psnr_mean=round(value, 2), **chosen)
    return values["Gaussian MMSE"]


@jax.jit
def affine(likelihood, prior, y):
    return jax.vmap(lambda y: classical.gaussian(likelihood, prior, y).value)(y)


@jax.jit
def smoothed(likelihood, weight, y):
    return jax.vmap(lambda y: classical.tv(likelihood, y, weight=weight).value)(y)


@jax.jit
def decoded(likelihood, prior, y):
    options = {"learning_rate": 0.05, "restarts": 10, "max_steps": 500, "rtol": 1e-4}
    one = lambda y, i: generative.reconstruct(likelihood, prior, y, key=jax.random.fold_in(KEY, i), **options).value
    return jax.vmap(one)(y, jnp.arange(len(y)))


if __name__ == "__main__":
    main()
