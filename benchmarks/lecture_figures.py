"""The lecture's figures of generators on MNIST: interpolation, three starts of a deconvolution, mode coverage.

    python benchmarks/lecture_figures.py [--steps 8000] [--gan-steps 4000] [--networks FOLDER] [--quick]

Autoencoder and VAE as in `latent_mnist.py`, the GAN as in `gan_mnist.py`, 8 latents each. `lecture_interpolation.png`
(figure 6): lines between the latents of test images, which the encoder gives, and for the GAN a projection.
`lecture_deconvolution.png` (figure 8): test images 533, 128 and 2, blurred, with noise .1, from three random starts;
beside them what removes the spread over the starts, the best of 8 by its objective, or the start from the encoder.
`lecture_mode_coverage.png`: which of 20 clusters the GAN reaches in the course of its training.

PSNR in dB. `spread` is the largest minus the smallest: of the three starts, and of the best of 8, taken three times.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from flax import nnx
from gan_mnist import LATENTS, OPTIMISERS
from harness import RESULTS, Recorder
from latent_methods import STD, _operator, _simulate
from latent_mnist import SHAPE, _train

import jaxinv
from jaxinv import generative, io, metrics, models, noise, plotting, subspace, training

PAIRS = ((0, 3), (1, 8), (18, 11))
DECONVOLVED = (533, 128, 2)
STEPS = 9
CHUNKS = 40
GROUPS, RESTARTS = 3, 8
SIDE, GAP = 0.62, 0.04  # inches
SMALL, MEDIUM = 6.5, 8.0  # points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8000, help="of the training of autoencoder and VAE")
    parser.add_argument("--gan-steps", type=int, default=4000)
    parser.add_argument("--networks", type=Path, help="a folder where trained networks are kept")
    parser.add_argument("--quick", action="store_true", help="300 steps: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.steps = options.gan_steps = 300
    name = "lecture_figures_quick" if options.quick else "lecture_figures"
    recorder = Recorder(name, ("matplotlib",))
    train = np.asarray(jaxinv.data.mnist("train")[0], np.float32) / 255
    test = jnp.asarray(jaxinv.data.mnist("test")[0], jnp.float32) / 255
    monitor = generative.ModeCoverage(subspace.kmeans(train[:10000], 20, key=jax.random.key(5)))
    file = options.networks and options.networks / f"{name}.safetensors"
    if file and file.exists():
        priors, history = io.load(file, _untrained())
    else:
        priors = _train(train, test[100:200], options.steps, recorder)
        priors["GAN-8"], history = _train_gan(train, monitor, options.gan_steps, recorder)
        if file:
            io.save(file, (priors, history))
    suffix = "_quick" if options.quick else ""
    figures = {
        "interpolation": _interpolation(priors, test, recorder),
        "deconvolution": _deconvolution(priors, test, recorder),
        "mode_coverage": plotting.mode_coverage(
            history, reference_entropy=monitor.reference_entropy, heading="GAN-8: 1000 samples, 20 clusters of MNIST"
        ),
    }
    for name, figure in figures.items():
        plotting.save(figure, RESULTS / f"lecture_{name}{suffix}.png")
    seen = history["monitor"]
    recorder.add(
        figure="mode coverage",
        generator="GAN-8",
        coverage=[round(float(v), 2) for v in seen["coverage"]][:: CHUNKS // 10],
        entropy=[round(float(v), 2) for v in seen["entropy"]][:: CHUNKS // 10],
        entropy_of_the_data=round(float(monitor.reference_entropy), 2),
    )
    recorder.write()


def _train_gan(train, monitor, steps, recorder):
    (generator, _), history = training.fit_adversarial(
        models.Generator(SHAPE, LATENTS, rngs=nnx.Rngs(0)),
        models.Critic(SHAPE, rngs=nnx.Rngs(1)),
        generative.nonsaturating_loss(0.3),
        train,
        key=jax.random.key(0),
        optimisers=OPTIMISERS,
        num_steps=steps,
        batch_size=64,
        ema=0.999,
        monitor=monitor,
        chunk_size=-(-steps // CHUNKS),
    )
    recorder.add(task="training", method="GAN-8", steps=steps, training_seconds=round(history["seconds"], 1))
    return generative.GANPrior(generator), {name: history[name] for name in ("monitor", "monitor_steps")}


def _untrained():
    """What a file of networks is read into."""
    rngs = nnx.Rngs(0)
    vae = models.VAE(SHAPE, LATENTS, likelihood=models.Gaussian(0.025**0.5), rngs=rngs)
    latents = jax.random.normal(jax.random.key(0), (100, LATENTS))
    curve = np.zeros(CHUNKS, np.float32)
    return {
        "AE-8": generative.AutoencoderPrior(models.Autoencoder(SHAPE, LATENTS, rngs=rngs), latents),
        "VAE-8": generative.VAEPrior(vae),
        "GAN-8": generative.GANPrior(models.Generator(SHAPE, LATENTS, rngs=rngs)),
    }, {"monitor": {"coverage": curve, "entropy": curve}, "monitor_steps": np.zeros(CHUNKS, int)}


def _interpolation(priors, test, recorder):
    ends = test[np.array(PAIRS)]
    columns, rows = STEPS + 2, len(priors)
    canvas = _Canvas(columns, len(PAIRS) * (rows * (SIDE + GAP) + 0.12) + 0.2)
    for column, title in (
        (0, "image"),
        *((j + 1, f"{j / (STEPS - 1):.3g}") for j in range(STEPS)),
        (STEPS + 1, "image"),
    ):
        canvas.heading(column, 0.14, title)
    for number, (name, prior) in enumerate(priors.items()):
        images = _lines(prior, ends)
        gaps = [float(jax.vmap(metrics.psnr)(images[:, -i], ends[:, i]).mean()) for i in range(2)]
        recorder.add(figure="interpolation", generator=name, psnr_of_the_ends=round(float(np.mean(gaps)), 2))
        for pair in range(len(PAIRS)):
            top = 0.2 + pair * (rows * (SIDE + GAP) + 0.12) + number * (SIDE + GAP)
            canvas.label(top, name)
            for j in range(STEPS):
                canvas.image(1 + j, top, images[pair, j])
            if number == rows // 2:
                for i, column in enumerate((0, STEPS + 1)):
                    canvas.image(column, top, ends[pair, i])
    return canvas.figure


@jax.jit
def _lines(prior, ends):
    def encode(x):
        if isinstance(prior, generative.GANPrior):
            options = {"restarts": 20, "learning_rate": 0.1, "max_steps": 300}
            return generative.encode(prior, x, key=jax.random.key(3), **options).value
        return prior.encode(x)

    latents = jax.vmap(jax.vmap(encode))(ends)
    return jax.vmap(lambda z: generative.interpolate(prior, z[0], z[1], STEPS))(latents)


def _deconvolution(priors, test, recorder):
    truth = test[np.array(DECONVOLVED)]
    likelihood = jaxinv.Likelihood(_operator("deconvolution"), noise.Gaussian(STD))
    y = _simulate(likelihood, truth, 0)
    titles = ("start 1", "start 2", "start 3", "best of 8", "encoder")
    pitch, block = SIDE + GAP, len(titles) + 0.35
    top = 0.2 + pitch + 0.28
    canvas = _Canvas(len(truth) * block - 0.35, top + len(priors) * (2 * pitch + 0.26))
    for i, number in enumerate(DECONVOLVED):
        at = i * block
        for j, (title, image) in enumerate((("image", truth[i]), ("data", y[i].reshape(SHAPE)))):
            canvas.heading(at + j, 0.14, f"{title} {number}" if j == 0 else title)
            canvas.image(at + j, 0.18, image)
        for j, title in enumerate(titles):
            canvas.heading(at + j, top - 0.16, title)
    for row, (name, prior) in enumerate(priors.items()):
        images, scores = _solve(likelihood, prior, y, truth)
        down = top + row * (2 * pitch + 0.26)
        canvas.label(down, name)
        canvas.label(down + pitch, "residual")
        for i, number in enumerate(DECONVOLVED):
            for j, image in enumerate(images[i]):
                canvas.image(i * block + j, down, image, f"{scores[i, j]:.1f} dB")
                canvas.image(i * block + j, down + pitch, image - truth[i], signed=True)
            random, best = scores[i, :GROUPS], scores[i, -GROUPS:]
            encoder = {"encoder": round(float(scores[i, 4]), 2)} if len(images[i]) == 5 else {}
            recorder.add(
                figure="deconvolution",
                generator=name,
                image=number,
                starts=[round(float(s), 2) for s in random],
                spread=round(float(np.ptp(random)), 2),
                best_of_8=[round(float(s), 2) for s in best],
                spread_of_the_best=round(float(np.ptp(best)), 2),
                **encoder,
            )
    return canvas.figure


def _solve(likelihood, prior, y, truth):
    """Images, one row for each measurement: three starts, the best of 8, that from the encoder if there is one. And
    their PSNR, to which those of three times the best of 8 are appended.
    """
    encoded = not isinstance(prior, generative.GANPrior)

    @jax.jit
    def solve(y, key, prior):
        options = {"key": key, "max_steps": 1000, "rtol": 1e-5}
        run = generative.reconstruct(likelihood, prior, y, restarts=GROUPS * RESTARTS, **options).aux
        best = jnp.argmin(run["objectives"].reshape(GROUPS, RESTARTS), axis=1) + RESTARTS * jnp.arange(GROUPS)
        images = [run["images"][:GROUPS], run["images"][best[:1]]]
        if encoded:
            images.append(
                generative.reconstruct(likelihood, prior, y, start=generative.FromEncoder(), **options).value[None]
            )
        return jnp.concatenate(images), run["images"][best]

    images, best = jax.vmap(solve, (0, 0, None))(y, jax.random.split(jax.random.key(11), len(y)), prior)
    score = jax.vmap(jax.vmap(metrics.psnr, (0, None)))
    return images, np.concatenate([score(images, truth), score(best, truth)], axis=1)


class _Canvas:
    """Small images, placed in columns from the left and by inches from above."""

    def __init__(self, columns, height):
        self.left, self.pitch = 0.62, SIDE + GAP
        self.size = self.left + columns * self.pitch, height
        self.figure = matplotlib.figure.Figure(figsize=self.size, facecolor="white")

    def image(self, column, top, image, title="", signed=False):
        box = self._at(column), 1 - (top + SIDE) / self.size[1], SIDE / self.size[0], SIDE / self.size[1]
        axes = self.figure.add_axes(box)
        low, colours = (-1, "RdBu_r") if signed else (0, "gray")
        axes.imshow(image[..., 0], cmap=colours, vmin=low, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(linewidth=0.4, color="0.6")
        axes.set_title(title, fontsize=SMALL, pad=1.5)

    def heading(self, column, down, text):
        x = self._at(column) + 0.5 * SIDE / self.size[0]
        self.figure.text(x, 1 - down / self.size[1], text, ha="center", va="bottom", fontsize=MEDIUM)

    def label(self, top, text):
        x, y = (self.left - 0.08) / self.size[0], 1 - (top + 0.5 * SIDE) / self.size[1]
        self.figure.text(x, y, text, ha="right", va="center", fontsize=MEDIUM)

    def _at(self, column):
        return (self.left + column * self.pitch) / self.size[0]


if __name__ == "__main__":
    main()
