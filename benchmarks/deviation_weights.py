"""The weight of `generative.deviation_weight` beside the best of a grid, on MNIST.

    python benchmarks/deviation_weights.py [--steps 800] [--images 8]

A VAE with 8 latents and one layer of 160 units, and the weight from the residuals of 500 training images that it has
not seen. Test images from number 100 on; `Soft` with half the squared distance, and `Relaxed` with `L1()`; denoising,
half of the pixels, and 150 random measurements, each at noise of .05 and .2. Clipped PSNR, the mean over images.
`below_best`: by how many dB the weight falls short of the best of the grid; `met`: by at most .5 dB. For `L1()` a
second line has the smaller of the weight and 1 / noise: soft thresholding by `weight noise^2` then takes no more than
the noise from an entry.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from harness import Recorder
from latent_mnist import SHAPE

import jaxinv
from jaxinv import generative, metrics, models, noise, operators, regularisers, training

BAR = 0.5
KINDS = {
    "Soft(Tikhonov())": (generative.Soft, regularisers.Tikhonov(), np.geomspace(2, 488, 7)),
    "Relaxed(L1())": (generative.Relaxed, regularisers.L1(), np.geomspace(1, 244, 7)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800, help="of the training of the network")
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    recorder = Recorder("deviation_weights")
    train = np.asarray(jaxinv.data.mnist("train")[0], np.float32) / 255
    test = jnp.asarray(jaxinv.data.mnist("test")[0][100 : 100 + options.images], jnp.float32) / 255
    model = models.VAE(SHAPE, 8, likelihood=models.Gaussian(0.025**0.5), trunk=models.Dense((160,)), rngs=nnx.Rngs(0))
    model, history = training.fit(
        model,
        generative.vae_loss(),
        train[:-5000],
        key=jax.random.key(0),
        num_steps=options.steps,
        batch_size=128,
        ema=0.999,
    )
    prior = generative.VAEPrior(model)
    recorder.add(task="training", steps=options.steps, seconds=round(history["seconds"], 1))
    for name, (method, deviation, grid) in KINDS.items():
        chosen = float(generative.deviation_weight(prior, train[-500:], deviation))
        for task, operator in _operators().items():
            for std in (0.05, 0.2):
                likelihood = jaxinv.Likelihood(operator, noise.Gaussian(std))
                keys = jax.random.split(jax.random.key(0), len(test))
                y = jax.vmap(lambda x, key, likelihood=likelihood: likelihood.simulate(x, key=key))(test, keys)
                solve = _solver(method, deviation)
                weights = {name: chosen}
                if isinstance(deviation, regularisers.L1):
                    weights[f"{name}, at most 1 / noise"] = min(chosen, 1 / std)
                images = solve(likelihood, prior, y, jnp.asarray([*grid, *weights.values()], jnp.float32))
                psnr = [round(_psnr(each, test), 2) for each in images]
                best = int(np.argmax(psnr[: len(grid)]))
                for (called, weight), found in zip(weights.items(), psnr[len(grid) :], strict=True):
                    recorder.add(
                        task=f"{task}, noise {std}",
                        method=called,
                        weight=round(weight, 2),
                        psnr=found,
                        best=psnr[best],
                        best_weight=round(float(grid[best]), 1),
                        below_best=round(psnr[best] - found, 2),
                        met=bool(psnr[best] - found <= BAR),
                    )
    recorder.write()


def _solver(method, deviation):
    def one(likelihood, prior, y, weight, i):
        return generative.reconstruct(
            likelihood,
            prior,
            y,
            key=jax.random.fold_in(jax.random.key(7), i),
            method=method(deviation, weight),
            optimiser=generative.Alternating(),
            max_steps=150,
            rtol=1e-3,
        ).value

    def all_of_them(likelihood, prior, y, weights):
        of_image = jax.vmap(one, (None, None, 0, None, 0))
        return jax.vmap(of_image, (None, None, None, 0, None))(likelihood, prior, y, weights, jnp.arange(len(y)))

    return jax.jit(all_of_them)


def _operators():
    random = np.random.default_rng(0)
    matrix = random.normal(size=(150, 784)).astype(np.float32)
    return {
        "denoising": operators.Identity(SHAPE),
        "half of the pixels": operators.Mask(jnp.asarray(random.uniform(size=SHAPE) < 0.5)),
        "150 random measurements": operators.Matrix(jnp.asarray(matrix / np.linalg.norm(matrix, 2)), SHAPE),
    }


def _psnr(images, test):
    return float(np.mean(np.asarray(jax.vmap(metrics.psnr)(jnp.clip(images, 0, 1), test))))


if __name__ == "__main__":
    main()
