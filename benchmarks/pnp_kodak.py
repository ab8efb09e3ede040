"""Plug-and-play with the package's denoiser of photographs, beside total variation with the best weight.

    python benchmarks/pnp_kodak.py [--size 128] [--quick]

Middles of the images 3, 11, 19 and 23 of the Kodak suite, in colour, none of which the denoiser was trained on:
deblurring (a Gaussian of deviation 1.6, noise 2/255), inpainting (half of the pixels, noise 2/255) and super-resolution
by 2 (means of 2 x 2 pixels, noise 2/255). The weight of TV is for each image the one with the best PSNR, which nobody
knows who has no truth; `pnp.HQS` has the same numbers for all images of a task, chosen on images 5 and 13, which are
training images. PSNR is clipped to [0, 1]; `worst_gain` is the least of the four differences to TV.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from harness import RESULTS, Recorder

import jaxinv
from jaxinv import classical, metrics, noise, operators, plotting, pnp, zoo
from jaxinv.data._files import folders

IMAGES, TUNING = (3, 11, 19, 23), (5, 13)
STD = 2 / 255
WEIGHTS = np.geomspace(0.3, 300, 13)
METHODS = {
    "deblurring": {"HQS": pnp.HQS(8)},
    "inpainting": {"HQS": pnp.HQS(40, sigma_max=0.4, sigma_min=0.03)},
    "super-resolution": {"HQS": pnp.HQS(24)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="of the crops")
    parser.add_argument("--quick", action="store_true", help="one crop of 32 x 32: does it run?")
    options = parser.parse_args()
    numbers, size = (IMAGES[:1], 32) if options.quick else (IMAGES, options.size)
    recorder = Recorder("pnp_kodak_quick" if options.quick else "pnp_kodak", also=("scikit-image",))
    denoiser = zoo.load("photographs-denoiser")
    truths = jnp.stack([middle(n, size) for n in numbers])
    shown = {}
    for task, likelihood in tasks(truths.shape[1:]).items():
        ys = measure(likelihood, truths)
        images, weights, seconds = best_tv(likelihood, ys, truths)
        reference = psnrs(images, truths)
        recorder.add(task=task, method="TV, best weight", psnr=float(reference.mean()), seconds=seconds)
        row = [look(likelihood, ys[-1]), images[-1]]
        for name, method in METHODS[task].items():
            images, seconds = reconstruct(likelihood, denoiser, ys, method)
            gains = psnrs(images, truths) - reference
            recorder.add(
                task=task,
                method=name,
                psnr=float(psnrs(images, truths).mean()),
                gain=float(gains.mean()),
                worst_gain=float(gains.min()),
                seconds=seconds,
            )
            row += [images[-1]] if name == "HQS" else []
        shown[task] = row
    recorder.write()
    stacks = {name: np.stack([np.clip(row[i], 0, 1) for row in shown.values()]) for i, name in enumerate(COLUMNS)}
    reference = np.stack([np.asarray(truths[-1])] * len(shown))
    figure = plotting.compare(stacks, reference=reference, titles=list(shown), limits=(0, 1))
    plotting.save(figure, RESULTS / f"{recorder.path.stem}.png", dpi=110)


COLUMNS = ("measured", "TV", "plug-and-play")


def tasks(shape):
    line = np.arange(-5, 6)
    kernel = np.exp(-0.5 * (line[:, None] ** 2 + line[None] ** 2) / 1.6**2)
    mask = np.random.default_rng(0).integers(2, size=(*shape[:2], 1)) * np.ones(shape)
    made = {
        "deblurring": operators.Convolution(jnp.asarray(kernel / kernel.sum(), jnp.float32), shape, boundary="reflect"),
        "inpainting": operators.Mask(jnp.asarray(mask, jnp.float32)),
        "super-resolution": operators.Downsample(shape, 2),
    }
    return {name: jaxinv.Likelihood(operator, noise.Gaussian(STD)) for name, operator in made.items()}


def measure(likelihood, truths):
    keys = jax.random.split(jax.random.key(0), len(truths))
    return jax.vmap(lambda x, key: likelihood.simulate(x, key=key))(truths, keys)


def best_tv(likelihood, ys, truths):
    solve = jax.jit(lambda likelihood, y, weight: classical.tv(likelihood, y, weight=weight, rtol=1e-4).value)
    jax.block_until_ready(solve(likelihood, ys[0], WEIGHTS[0]))
    images, weights, seconds = [], [], []
    for y, truth in zip(ys, truths, strict=True):
        began = time.perf_counter()
        candidates = jax.block_until_ready(jnp.stack([solve(likelihood, y, weight) for weight in WEIGHTS]))
        seconds.append((time.perf_counter() - began) / len(WEIGHTS))
        best = int(psnrs(candidates, jnp.broadcast_to(truth, candidates.shape)).argmax())
        images.append(candidates[best])
        weights.append(best)
    assert {0, len(WEIGHTS) - 1}.isdisjoint(weights), weights  # the best is within the grid
    return jnp.stack(images), weights, float(np.median(seconds))


def reconstruct(likelihood, denoiser, ys, method):
    solve = jax.jit(lambda *arguments: pnp.reconstruct(*arguments, method=method).value)
    jax.block_until_ready(solve(likelihood, denoiser, ys[0]))
    began = time.perf_counter()
    images = jax.block_until_ready([solve(likelihood, denoiser, y) for y in ys])
    return jnp.stack(images), (time.perf_counter() - began) / len(ys)


def psnrs(images, truths):
    return np.asarray(jax.vmap(metrics.psnr)(jnp.clip(images, 0, 1), truths))


def look(likelihood, y):
    """A measurement in the shape of the image."""
    factor = likelihood.operator.domain.shape[0] // y.shape[0]
    return jnp.repeat(jnp.repeat(y, factor, 0), factor, 1)


def middle(number, size):
    for folder in folders():
        path = folder / "natural" / "kodak" / f"kodim{number:02d}.png"
        if path.is_file():
            picture = jaxinv.data.picture(path)
            top, left = ((n - size) // 2 for n in picture.shape[:2])
            return jnp.asarray(picture[top : top + size, left : left + size], jnp.float32)
    raise SystemExit("The images of the Kodak suite are not in $JAXINV_DATA/natural/kodak.")


if __name__ == "__main__":
    main()
