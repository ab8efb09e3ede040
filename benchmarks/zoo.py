"""The weights of `jaxinv.zoo`: their training, their figures, and the cards that say both.

    python benchmarks/zoo.py NAME [--steps N] [--folder FOLDER] [--quick]

NAME is `photographs-denoiser`, `mnist-denoiser`, `mnist-score` or `mnist-vae`. The weights go to FOLDER, by default
that of the package, in half precision, with a card of their data, licence, steps and figures. The figures are of the
rounded weights on images that were not trained on. The photographs are eight of the odd-numbered images of the Kodak
suite, whose folder is `natural/kodak` of `$JAXINV_DATA`, and two of scikit-image; the suite's images 3, 11, 19 and 23
and scikit-image's astronaut are held out. Patches of 40 x 40 are turned and flipped. The network begins as the
identity.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import skimage
from flax import nnx
from harness import environment

import jaxinv
from jaxinv import diffusion, generative, io, metrics, models, pnp, training
from jaxinv.data._files import folders

KODAK = (1, 5, 7, 9, 13, 15, 17, 21)
HELD_OUT = (3, 11, 19, 23)
PATCH, BATCH = 40, 8
MNIST = {
    "data": "MNIST, the first 59000 training images, in [0, 1]",
    "licence": "MNIST: CC BY-SA 3.0 (LeCun, Cortes); the weights: Apache-2.0",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--steps", type=int, help="of the training")
    parser.add_argument("--folder", type=Path, default=Path(jaxinv.__file__).parent / "zoo" / "weights")
    parser.add_argument("--quick", action="store_true", help="20 steps: does it run?")
    options = parser.parse_args()
    made_by = environment()
    if made_by["commit"].endswith("-dirty") and not options.quick:
        sys.exit("The tree has changes that are not committed, so that the weights would belong to no commit.")
    recipe, steps = RECIPES[options.name]
    steps = 20 if options.quick else options.steps or steps
    before = time.process_time()
    network, figures, card = recipe(steps)
    card = {
        "name": options.name,
        **card,
        "weights": sum(leaf.size for leaf in jax.tree.leaves(network)),
        "steps": steps,
        "processor_seconds": round(time.process_time() - before),
        "figures": {name: round(float(value), 3) for name, value in figures.items()},
        "script": "benchmarks/zoo.py",
        "commit": made_by["commit"],
        "versions": made_by["versions"],
    }
    print(json.dumps(card, indent=1), flush=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    io.save(options.folder / f"{options.name}.safetensors", rounded(network), metadata={"card": json.dumps(card)})


def rounded(network, dtype=jnp.float16):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), network)


def decaying(peak, steps):
    rate = optax.warmup_cosine_decay_schedule(0.0, peak, min(200, steps // 10), steps, 1e-3 * peak)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def fitted(network, loss, data, steps, *, peak, batch_size):
    """The weights as `zoo.load` has them: the average, rounded to half precision."""
    network, history = training.fit(
        network,
        loss,
        data,
        key=jax.random.key(0),
        optimiser=decaying(peak, steps),
        num_steps=steps,
        batch_size=batch_size,
        # The average is of the last fifth or so, in a short training too.
        ema=1 - 5 / max(steps, 50),
        chunk_size=max(1, min(steps // 20, 100)),
        report=lambda step, found: print(step, {k: float(f"{v:.4g}") for k, v in found.items()}, flush=True),
    )
    assert history["result"] == jaxinv.RESULTS.successful
    return rounded(rounded(network), jnp.float32)


class Patches:
    """Random patches of photographs, each turned or flipped, for `fit`."""

    def __init__(self, photographs, count):
        self.photographs, self.count = photographs, count
        sizes = np.array([photo.size for photo in photographs], float)
        self.shares = sizes / sizes.sum()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng(int(index))
        photo = self.photographs[rng.choice(len(self.photographs), p=self.shares)]
        i, j = (rng.integers(size - PATCH + 1) for size in photo.shape[:2])
        patch = np.rot90(photo[i : i + PATCH, j : j + PATCH], rng.integers(4))
        patch = patch[::-1] if rng.integers(2) else patch
        return np.ascontiguousarray(patch, np.float32) / 255


def kodak(number):
    for folder in folders():
        path = folder / "natural" / "kodak" / f"kodim{number:02d}.png"
        if path.is_file():
            return skimage.io.imread(path)
    sys.exit("The images of the Kodak suite are not in $JAXINV_DATA/natural/kodak.")


def near_identity(network):
    """`network`, a DRUNet, which returns its input: the first channels hold the image, and nothing is added to it."""
    channels = network.image_shape[-1]
    one = np.eye(channels, dtype=np.float32)
    head, tail = np.array(network.head.kernel[...]), np.zeros(network.tail.kernel[...].shape, np.float32)
    head[..., :channels] = 0
    head[1, 1, :channels, :channels] = tail[1, 1, :channels] = one
    network.head.kernel[...], network.tail.kernel[...] = jnp.asarray(head), jnp.asarray(tail)
    network.doublings[0].kernel[...] *= 0
    return network


def denoised_psnr(denoiser, images, sigma):
    noise = np.random.default_rng(0).normal(size=images.shape).astype(np.float32)
    clean = jax.jit(jax.vmap(denoiser, (0, None)))(images + sigma * noise, jnp.float32(sigma))
    return float(jax.vmap(metrics.psnr)(clean, images).mean())


def crops(photo, size=128):
    """The crop in the middle of a photograph."""
    i, j = ((length - size) // 2 for length in photo.shape[:2])
    return photo[i : i + size, j : j + size].astype(np.float32) / 255


def photographs_denoiser(steps):
    photographs = [kodak(n) for n in KODAK] + [skimage.data.coffee(), skimage.data.chelsea()]
    network = models.DRUNet((None, None, 3), widths=(32, 48, 64), num_blocks=1, rngs=nnx.Rngs(0))
    loss = training.denoising_loss((0.0, 0.2))
    data = Patches(photographs, steps * BATCH)
    network = fitted(near_identity(network), loss, data, steps, peak=1e-3, batch_size=BATCH)
    denoiser = pnp.denoiser_from(network, sigma_range=(0.0, 0.2))
    held_out = jnp.stack([crops(kodak(n)) for n in HELD_OUT])
    astronaut = jnp.asarray(crops(skimage.data.astronaut())[None])
    figures = {}
    for grey in (10, 25, 50):
        figures[f"PSNR of Kodak 3, 11, 19, 23 (middle 128 x 128) with noise {grey}/255"] = denoised_psnr(
            denoiser, held_out, grey / 255
        )
    figures["PSNR of astronaut (middle 128 x 128) with noise 25/255"] = denoised_psnr(denoiser, astronaut, 25 / 255)
    card = {
        "description": "A denoiser of colour photographs in [0, 1], for noise of up to 0.2",
        "data": "the Kodak suite, images 1, 5, 7, 9, 13, 15, 17 and 21; coffee and chelsea of scikit-image",
        "licence": "Kodak: unrestricted usage; coffee, chelsea: CC0; the weights: Apache-2.0",
    }
    return network, figures, card


def digits():
    images = np.asarray(jaxinv.data.mnist("train")[0], np.float32) / 255
    return images[:-1000], jnp.asarray(jaxinv.data.mnist("test")[0][:16], jnp.float32) / 255


def mnist_denoiser(steps):
    train, test = digits()
    network = near_identity(models.DRUNet(train.shape[1:], widths=(16, 32), num_blocks=1, rngs=nnx.Rngs(0)))
    network = fitted(network, training.denoising_loss((0.0, 1.0)), train, steps, peak=2e-3, batch_size=32)
    denoiser = pnp.denoiser_from(network, sigma_range=(0.0, 1.0))
    figures = {
        f"PSNR of 16 test images with noise {sigma}": denoised_psnr(denoiser, test, sigma) for sigma in (0.1, 0.3, 1.0)
    }
    return network, figures, {"description": "A denoiser of digits in [0, 1], for noise of up to 1", **MNIST}


def mnist_score(steps):
    train, test = digits()
    process = diffusion.VP()
    # To three digits, so that the card says them.
    parametrisation = diffusion.Preconditioned(0.131, 0.308)
    loss = diffusion.score_matching_loss(process, parametrisation=parametrisation)
    network = fitted(models.UNet(train.shape[1:], rngs=nnx.Rngs(0)), loss, train, steps, peak=2e-3, batch_size=32)
    denoiser = pnp.FromScore(diffusion.score_from(network, process, parametrisation))
    figures = {
        f"PSNR of 16 test images with noise {sigma}": denoised_psnr(denoiser, test, sigma) for sigma in (0.1, 0.3, 1.0)
    }
    description = "The score of digits in [0, 1], of the process VP(), by Preconditioned(0.131, 0.308)"
    return network, figures, {"description": description, **MNIST}


def mnist_vae(steps):
    train, test = digits()
    network = models.VAE(train.shape[1:], 16, widths=(256, 128), rngs=nnx.Rngs(0))
    network = fitted(network, generative.vae_loss(), train, steps, peak=3e-3, batch_size=128)
    prior = generative.VAEPrior(network)
    decoded = jax.jit(jax.vmap(lambda x: prior.decode(prior.encode(x))))(test)
    figures = {"PSNR of 16 test images, encoded and decoded": float(jax.vmap(metrics.psnr)(decoded, test).mean())}
    return network, figures, {"description": "A VAE of digits in [0, 1] with 16 latents", **MNIST}


RECIPES = {
    "photographs-denoiser": (photographs_denoiser, 5000),
    "mnist-denoiser": (mnist_denoiser, 600),
    "mnist-score": (mnist_score, 2500),
    "mnist-vae": (mnist_vae, 1500),
}

if __name__ == "__main__":
    main()
