"""Generative adversarial networks on MNIST: how near test images come to the range, and how many modes are reached.

    python benchmarks/gan_mnist.py [--steps 6000] [--wasserstein-steps 0] [--convolutional] [--quick]

Latents of 8 dimensions. Test images 100 to 199 are projected onto the range (`generative.reconstruct` with the identity
and no prior term, the best of 20 restarts); PSNR as the mean over images. Modes are 20 clusters of training images, the
coverage is that of 1000 samples. The bar is 17 dB; eight principal components reach 14.7.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from harness import Recorder

import jaxinv
from jaxinv import generative, metrics, models, noise, operators, subspace, training

SHAPE = (28, 28, 1)
LATENTS = 8
# Generator and critic. Made once: transformations compare by identity.
OPTIMISERS = (optax.adam(1e-3, b1=0.0, b2=0.99), optax.adam(1e-3, b1=0.0, b2=0.99))
WASSERSTEIN_OPTIMISERS = (optax.adam(2e-4, b1=0.0, b2=0.9), optax.adam(2e-4, b1=0.0, b2=0.9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6000, help="of the generator, non-saturating loss with R1")
    parser.add_argument("--wasserstein-steps", type=int, default=0, help="of the generator, WGAN-GP; 0: not at all")
    parser.add_argument("--penalty", type=float, default=0.3, help="the weight of R1")
    parser.add_argument("--convolutional", action="store_true", help="the convolutional variants too")
    parser.add_argument("--quick", action="store_true", help="100 steps, ten images: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.steps = 100
    recorder = Recorder("gan_mnist_quick" if options.quick else "gan_mnist")
    train = np.asarray(jaxinv.data.mnist("train")[0], np.float32) / 255
    test = jnp.asarray(jaxinv.data.mnist("test")[0][100 : 110 if options.quick else 200], jnp.float32) / 255
    clusters = subspace.kmeans(train[:10000], 20, key=jax.random.key(5))
    monitor = generative.ModeCoverage(clusters)
    recorder.add(task="clusters of the training images", entropy=round(float(monitor.reference_entropy), 3))

    trunks = {"dense": models.Dense()}
    if options.convolutional:
        trunks["convolutional"] = models.Convolutional()
    for name, trunk in trunks.items():
        cases = {"non-saturating, R1": (generative.nonsaturating_loss(options.penalty), OPTIMISERS, 1, options.steps)}
        if options.wasserstein_steps:
            cases["WGAN-GP"] = (
                generative.wasserstein_loss(),
                WASSERSTEIN_OPTIMISERS,
                5,
                options.wasserstein_steps,
            )
        for loss_name, (loss, optimisers, critic_steps, steps) in cases.items():
            (generator, _), history = training.fit_adversarial(
                models.Generator(SHAPE, LATENTS, trunk=trunk, rngs=nnx.Rngs(0)),
                models.Critic(SHAPE, trunk=trunk, rngs=nnx.Rngs(1)),
                loss,
                train,
                key=jax.random.key(0),
                optimisers=optimisers,
                critic_steps=critic_steps,
                num_steps=steps,
                batch_size=64,
                ema=0.999,
                monitor=monitor,
                chunk_size=max(steps // 20, 1),
            )
            seen, began = history["monitor"], time.perf_counter()
            psnr = _project(generator, test)
            recorder.add(
                task="range of a GAN",
                networks=name,
                loss=loss_name,
                projection_psnr=round(float(psnr.mean()), 2),
                worst_decile_psnr=round(float(jnp.quantile(psnr, 0.1)), 2),
                bar=17.0,
                steps=steps,
                critic_steps=critic_steps,
                weights=sum(leaf.size for leaf in jax.tree.leaves(nnx.state(generator))),
                training_seconds=round(history["seconds"], 1),
                milliseconds_per_step=round(1e3 * history["seconds"] / steps, 2),
                projection_seconds=round(time.perf_counter() - began, 1),
                coverage=[round(float(value), 2) for value in seen["coverage"]],
                entropy=[round(float(value), 2) for value in seen["entropy"]],
                result=str(history["result"] == jaxinv.RESULTS.successful),
            )
    recorder.write()


def _project(generator, test):
    likelihood = jaxinv.Likelihood(operators.Identity(SHAPE), noise.Gaussian(0.1))
    keys = jax.random.split(jax.random.key(7), len(test))

    @jax.jit
    def project(prior, images, keys):
        solve = lambda x, k: (
            generative.reconstruct(
                likelihood, prior, x, key=k, weight=0.0, learning_rate=0.1, restarts=20, max_steps=150, rtol=1e-4
            ).value
        )
        return jax.vmap(metrics.psnr)(jax.vmap(solve)(images, keys), images)

    return jax.block_until_ready(project(generative.GANPrior(generator), test, keys))


if __name__ == "__main__":
    main()
