"""Compressed sensing with a VAE on MNIST beside linear and sparse methods: Bora, Jalal, Price, Dimakis (2017).

    python benchmarks/bora_mnist.py [--steps 8000] [--draws 5] [--networks FOLDER] [--quick]

Rows N(0, 1), noise .1, test images 0 to 49; mean squared error per pixel, raw and clipped to [0, 1]. Methods without a
network: the mean over draws of noise and matrices, with the spread over draws. LASSO has the weight .1 of the mean of
squared residuals; PCA-20 is the posterior mean for the Gaussian of 20 components, MMSE that for the mean and covariance
of all training images. `reference` are the figures of the plain numpy protocol, one draw, of which LASSO is clipped.

The first draw only: VAE-20 minimises `mean_i (y - A G(z))_i^2 + .1 ||z||^2` as in the paper, with Adam at .01, 1000
steps, the best of 10 restarts; `relaxed` lets the image deviate from its range at the price of the Gaussian of what the
range misses of 9950 training images that the network has not seen. The weight of the energy is chosen for each number
of measurements on 25 others of these; the choice includes the limit of a large one, `latent_part` 0, where the latent
stays at 0, the deviation is that of the images from `G(0)`, and what is left is a Gaussian prior. The bar is the
smaller of VAE-20 and the MMSE, clipped, and 5 % more.

On a busy machine OPENBLAS_NUM_THREADS=1 makes the triangular solves of `relaxed` several times faster.
"""

import argparse
import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from harness import Recorder
from latent_mnist import SHAPE

import jaxinv
from jaxinv import classical, generative, io, models, noise, operators, oracles, regularisers, training

STD = 0.1
LATENTS = 20
HELD_OUT, CHOOSING = 10_000, 50  # training images, and how many of them choose
RANK = 300
# Plain numpy, one draw: LASSO (clipped), PCA-20, Gaussian MMSE by the number of measurements.
REFERENCE = {
    10: (0.0981, 0.0712, 0.0488),
    25: (0.0973, 0.0864, 0.0355),
    50: (0.0966, 0.0350, 0.0218),
    100: (0.0872, 0.0289, 0.0128),
    200: (0.0643, 0.0251, 0.0052),
    400: (0.0140, 0.0237, 0.0011),
    750: (0.0031, 0.0232, None),
}
# From which the training images choose: the part of their latents from whose images they deviate, and the weight of the
# energy.
CHOICES = [(1.0, 0.3), (1.0, 1.0), (1.0, 3.0), (0.0, 1e4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8000, help="of the training of the network")
    parser.add_argument("--draws", type=int, default=5, help="of noise and matrices, for the methods without a network")
    parser.add_argument("--networks", type=Path, help="a folder where the trained network is kept")
    parser.add_argument("--quick", action="store_true", help="300 steps, ten images, one draw: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.draws = 300, 1
    recorder = Recorder("bora_mnist_quick" if options.quick else "bora_mnist")
    count = 10 if options.quick else 50
    train = np.asarray(jaxinv.data.mnist("train")[0], np.float32) / 255
    test = jnp.asarray(jaxinv.data.mnist("test")[0][:count], jnp.float32) / 255
    baselines = _baselines(train, test, options.draws, recorder)

    prior, seconds = train_vae(train[:-HELD_OUT], options.steps, options.networks)
    recorder.add(
        method="VAE-20",
        task="training",
        steps=options.steps,
        weights=sum(leaf.size for leaf in jax.tree.leaves(prior)),
        seconds=round(seconds, 1),
    )
    missed = _missed(prior, jnp.asarray(train[-HELD_OUT:-CHOOSING]))
    chooser = jnp.asarray(train[-CHOOSING:][: count // 2])
    restarts = 2 if options.quick else 10
    for m in REFERENCE:
        likelihood = problem(m, 0)
        y, y_chooser = measure(likelihood, test, 0), measure(likelihood, chooser, 1)
        images, seconds = once(functools.partial(hard, restarts), y, likelihood, prior)
        vae = errors(images, test)
        recorder.add(m=m, method="VAE-20", **_named([vae]), seconds=round(seconds, 1), **_bars(m, vae, baselines))

        few = jax.jit(functools.partial(relaxed, restarts))
        found = [
            errors(few(y_chooser, likelihood, prior, missed[part], energy), chooser)[1] for part, energy in CHOICES
        ]
        part, energy = CHOICES[int(np.argmin(found))]
        images, seconds = once(functools.partial(relaxed, restarts), y, likelihood, prior, missed[part], energy)
        figures = errors(images, test)
        bar = 1.05 * min(vae[1], baselines[m, "MMSE"][0][1])
        recorder.add(
            m=m,
            method="relaxed",
            **_named([figures]),
            seconds=round(seconds, 1),
            bar=f"1.05 min(VAE-20, MMSE) = {bar:.4g}",
            met=bool(figures[1] <= bar),
            latent_part=part,
            energy_weight=energy,
        )
    recorder.write()


def problem(m: int, draw: int) -> jaxinv.Likelihood:
    matrix = jax.random.normal(jax.random.fold_in(jax.random.key(1000 + draw), m), (m, 784))
    return jaxinv.Likelihood(operators.Matrix(matrix, SHAPE), noise.Gaussian(STD))


def measure(likelihood, images, seed):
    keys = jax.random.split(jax.random.key(seed), len(images))
    return jax.jit(jax.vmap(lambda likelihood, x, k: likelihood.simulate(x, key=k), (None, 0, 0)))(
        likelihood, images, keys
    )


def errors(images, truth) -> tuple[float, float]:
    """Mean squared error per pixel, raw and clipped."""
    return tuple(float(jnp.mean((x - truth) ** 2)) for x in (images, jnp.clip(images, 0, 1)))


def once(function, *arguments):
    """The result of one call, and its seconds without compilation."""
    compiled = jax.jit(function).lower(*arguments).compile()
    began = time.perf_counter()
    result = jax.block_until_ready(compiled(*arguments))
    return result, time.perf_counter() - began


def train_vae(train, steps, folder=None):
    """The prior, and the seconds of its training; read from the folder if it is there, else kept there."""
    trunk = models.Dense((500, 500))
    model = models.VAE(SHAPE, LATENTS, likelihood=models.Bernoulli(), trunk=trunk, rngs=nnx.Rngs(0))
    file = folder and folder / f"bora_mnist_{steps}.safetensors"
    if file and file.exists():
        return io.load(file, (generative.VAEPrior(model), 0.0))
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
    prior = generative.VAEPrior(model)
    if file:
        io.save(file, (prior, history["seconds"]))
    return prior, history["seconds"]


def _missed(prior, images):
    """For each part of their latents, the Gaussian of what is left of the images, as a penalty."""
    latents = jax.jit(jax.vmap(lambda prior, x: prior.encode(x), (None, 0)))(prior, images)
    return {
        part: regularisers.Gaussian(generative.residual_gaussian(prior, images, rank=RANK, latents=part * latents))
        for part in {part for part, _ in CHOICES}
    }


def hard(restarts, y, likelihood, prior):
    # The objective of the paper, times m / (2 std^2).
    weight = 0.1 * y.shape[1] / STD**2
    options = {"learning_rate": 0.01, "restarts": restarts, "max_steps": 1000, "rtol": 0.0}
    one = lambda y, i: generative.reconstruct(
        likelihood, prior, y, key=jax.random.fold_in(jax.random.key(7), i), weight=weight, **options
    )
    return jax.vmap(one)(y, jnp.arange(len(y))).value


def relaxed(restarts, y, likelihood, prior, missed, energy):
    method = generative.Relaxed(missed)
    options = {"method": method, "restarts": restarts, "max_steps": 300, "rtol": 1e-3}
    one = lambda y, i: generative.reconstruct(
        likelihood, prior, y, key=jax.random.fold_in(jax.random.key(7), i), weight=energy, **options
    )
    return jax.vmap(one)(y, jnp.arange(len(y))).value


def _baselines(train, test, draws, recorder):
    """`{(m, method): [(raw, clipped) of each draw]}`."""
    flat = train.reshape(len(train), -1).astype(np.float64)
    mean, covariance = flat.mean(0).reshape(SHAPE), np.cov(flat.T)
    values, vectors = np.linalg.eigh(covariance)
    factor = vectors[:, -LATENTS:] * np.sqrt(values[-LATENTS:])
    single = lambda array: jnp.asarray(array, jnp.float32)
    methods = {
        "LASSO": _lasso,
        "PCA-20": functools.partial(_posterior_mean, oracles.Gaussian.from_factor(single(mean), single(factor))),
        "MMSE": functools.partial(_posterior_mean, oracles.Gaussian(single(mean), single(covariance))),
    }
    figures = {}
    for m, reference in REFERENCE.items():
        for (name, method), expected in zip(methods.items(), reference, strict=True):
            drawn = []
            for draw in range(draws):
                likelihood = problem(m, draw)
                drawn.append(errors(method(likelihood, measure(likelihood, test, draw)), test))
            figures[m, name] = drawn
            recorder.add(m=m, method=name, **_named(drawn), reference=expected)
    return figures


@jax.jit
def _lasso(likelihood, y):
    # 1/(2m) ||y - A x||^2 + .1 ||x||_1, as scikit-learn scales it, times m / std^2.
    weight = 0.1 * y.shape[1] / STD**2
    return jax.vmap(lambda y: classical.fista(likelihood, y, weight=weight, max_steps=600).value)(y)


@jax.jit
def _posterior_mean(prior, likelihood, y):
    return jax.vmap(lambda y: classical.gaussian(likelihood, prior, y).value)(y)


def _bars(m, vae, baselines):
    lasso = lambda m: float(np.mean([clipped for _, clipped in baselines[m, "LASSO"]]))
    if m == 25:
        bars = {".025": 0.025, "LASSO / 3": lasso(25) / 3}
    elif m == 100:
        bars = {".008": 0.008, "LASSO at 400": lasso(400)}
    else:
        return {}
    return {
        "bar": ", ".join(name if name[0] == "." else f"{name} = {value:.4g}" for name, value in bars.items()),
        "met": bool(vae[1] <= min(bars.values())),
    }


def _named(drawn):
    raw, clipped = np.mean(drawn, axis=0)
    spread = {} if len(drawn) == 1 else {"spread": float(np.std(drawn, axis=0)[1])}
    return {"mse": float(raw), "mse_clipped": float(clipped), "draws": len(drawn), **spread}


if __name__ == "__main__":
    main()
