"""Hard, relaxed and soft range constraints of one VAE-8 on MNIST, beside the Gaussian-prior MMSE.

    python benchmarks/latent_methods.py [--steps 8000] [--quick]

Test images 100 to 199, the network, tasks and operators of `latent_mnist.py`, noise .1. Clipped PSNR, the mean over
images and over the worst tenth of them. The weights of the deviations are chosen on the last 50 training images, the
covariance of what the range misses comes from the 4950 before; the network has seen neither. The prior of the MMSE is
the Gaussian of 20 000 training images. `bars`: the best of relaxed and soft against hard (mean, worst decile), and the
best method against the MMSE.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from harness import Recorder, timed
from latent_mnist import SHAPE

import jaxinv
from jaxinv import classical, generative, metrics, models, noise, operators, oracles, regularisers, training

STD = 0.1
HELD_OUT = 5000
# Of the deviation: grids from which the training images choose.
GRIDS = {
    "relaxed, sparse": jnp.geomspace(3.0, 300.0, 5),
    "relaxed, Gaussian": jnp.geomspace(0.3, 3.0, 3),
    "soft": jnp.geomspace(1.0, 100.0, 5),
}

METHODS = {
    "hard": (lambda weight, covariance: generative.Hard(), None, 500),
    "relaxed, sparse": (lambda weight, covariance: generative.Relaxed(regularisers.L1(), weight), None, 600),
    "relaxed, Gaussian": (lambda weight, covariance: generative.Relaxed(covariance, weight), None, 500),
    "soft": (lambda weight, covariance: generative.Soft(weight=weight), generative.Alternating(), 600),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8000, help="of the training of the network")
    parser.add_argument("--restarts", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="300 steps, ten images: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.restarts = 300, 2
    recorder = Recorder("latent_methods_quick" if options.quick else "latent_methods")
    train = np.asarray(jaxinv.data.mnist("train")[0], np.float32) / 255
    test = jnp.asarray(jaxinv.data.mnist("test")[0][100 : 110 if options.quick else 200], jnp.float32) / 255
    chooser = jnp.asarray(train[-50:])

    prior, history = _train(train[:-HELD_OUT], options.steps)
    missed = generative.residual_gaussian(prior, train[-HELD_OUT:-50], rank=100)
    covariance = regularisers.Gaussian(missed)
    gaussian = oracles.Gaussian.from_samples(train[:20_000])
    recorder.add(task="training", method="VAE-8", steps=options.steps, seconds=round(history["seconds"], 1))

    for task in ("deconvolution", "compressed sensing"):
        likelihood = jaxinv.Likelihood(operator_of(task), noise.Gaussian(STD))
        y, y_chooser = (_simulate(likelihood, x, seed) for seed, x in enumerate((test, chooser)))
        mmse = lambda y, likelihood, gaussian: jax.vmap(lambda y: classical.gaussian(likelihood, gaussian, y).value)(y)
        images, _ = timed(mmse, y, likelihood, gaussian, repeats=1)
        figures = {"Gaussian MMSE": _psnrs(images, test)}
        recorder.add(task=task, method="Gaussian MMSE", **_named(figures["Gaussian MMSE"]))
        for name, (make, optimiser, max_steps) in METHODS.items():
            solve = functools.partial(_solve, make, optimiser, max_steps)
            weight = jnp.asarray(1.0)
            if name in GRIDS:
                few = jax.jit(functools.partial(solve, 1))
                found = [few(y_chooser, likelihood, prior, covariance, weight) for weight in GRIDS[name]]
                weight = GRIDS[name][int(np.argmax([_psnrs(images, chooser)[0] for images in found]))]
            images, cost = timed(
                functools.partial(solve, options.restarts), y, likelihood, prior, covariance, weight, repeats=1
            )
            figures[name] = _psnrs(images, test)
            recorder.add(
                task=task,
                method=name,
                **_named(figures[name]),
                weight=round(float(weight), 3),
                seconds=round(cost["seconds"], 2),
                problems_per_second=round(len(test) / cost["seconds"], 1),
            )
        off = [figures[name] for name in GRIDS]
        recorder.add(
            task=task,
            method="bars",
            off_the_range_beats_hard=[bool(max(f[i] for f in off) >= figures["hard"][i]) for i in range(2)],
            best_beats_mmse=bool(
                max(f[0] for n, f in figures.items() if "MMSE" not in n) >= figures["Gaussian MMSE"][0]
            ),
        )
    recorder.write()


def _solve(make, optimiser, max_steps, restarts, y, likelihood, prior, covariance, weight):
    def one(y, i):
        return generative.reconstruct(
            likelihood,
            prior,
            y,
            key=jax.random.fold_in(jax.random.key(7), i),
            method=make(weight, covariance),
            optimiser=optimiser,
            restarts=restarts,
            max_steps=max_steps,
            rtol=1e-3,
        ).value

    return jax.vmap(one)(y, jnp.arange(y.shape[0]))


def _train(train, steps):
    model = models.VAE(SHAPE, 8, likelihood=models.Gaussian(0.025**0.5), rngs=nnx.Rngs(0))
    model, history = training.fit(
        model,
        generative.vae_loss(),
        train[:-1000],
        key=jax.random.key(0),
        num_steps=steps,
        batch_size=128,
        ema=0.999,
        validation=train[-1000:],
    )
    return generative.VAEPrior(model), history


def operator_of(task):
    if task == "deconvolution":
        line = jnp.arange(5.0) - 2
        kernel = jnp.exp(-0.5 * (line[:, None] ** 2 + line[None, :] ** 2))
        matrix = operators.materialise(operators.Convolution(kernel / kernel.sum(), SHAPE))
    else:
        matrix = operators.Matrix(jax.random.normal(jax.random.key(1000), (150, 784)), SHAPE)
    return operators.materialise(matrix / jnp.linalg.norm(matrix.matrix, 2))


def _simulate(likelihood, images, seed):
    keys = jax.random.split(jax.random.key(seed), len(images))
    return jax.vmap(lambda x, k: likelihood.simulate(x, key=k))(images, keys)


def _psnrs(images, test):
    scores = np.sort(np.asarray(jax.vmap(metrics.psnr)(jnp.clip(images, 0, 1), test)))
    return float(scores.mean()), float(scores[: max(len(scores) // 10, 1)].mean())


def _named(figures):
    return {"psnr_clipped": round(figures[0], 2), "worst_decile": round(figures[1], 2)}


if __name__ == "__main__":
    main()
