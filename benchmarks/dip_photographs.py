"""The recipe `dip.photograph()` on crops of photographs, beside total variation with its best weight.

    python benchmarks/dip_photographs.py [--size 64] [--steps 2500] [--pictures 05 13 23] [--quick]

The middle of Kodak's pictures: noise of 25/255; and half of the pixels, drawn at random, without noise (the likelihood
says .01). The deep image prior has the default recipe, which sees no truth; total variation the best of five weights
by the truth. `over TV` is the difference of the two PSNRs, of images that are clipped to [0, 1]; `step` is that of the
image that is kept. The bars: 1 dB over TV with noise, 1.5 dB with missing pixels.
"""

import argparse
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from dip_real import FOLDERS, KIND, TV_GRID, best, middle
from flax import nnx
from harness import Recorder

import jaxinv
from jaxinv import classical, dip, metrics, noise, operators


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--pictures", nargs="+", default=["05", "13", "23"])
    parser.add_argument("--quick", action="store_true", help="small images, few steps: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.size, options.steps, options.pictures = 32, 20, ["05"]
    folder = next(Path(f) for f in FOLDERS if f and (Path(f) / "natural").is_dir()) / "natural" / "kodak"
    recorder = Recorder("dip_photographs_quick" if options.quick else "dip_photographs")
    recorder.add(case="setting", size=options.size, steps=options.steps)
    recipe = dip.photograph(num_steps=options.steps)
    network = recipe.network((options.size, options.size, 3), rngs=nnx.Rngs(0))

    @eqx.filter_jit
    def fit(likelihood, network, y):
        solution = dip.reconstruct(likelihood, network, y, key=jax.random.key(1), recipe=recipe)
        return solution.value, solution.stats["step"]

    @eqx.filter_jit
    def vary(likelihood, y, weight):
        return classical.tv(likelihood, y, weight=weight, kind=KIND, rtol=1e-4).value

    gains = {"noise 25/255": [], "half of the pixels": []}
    for name in options.pictures:
        x = middle(folder / f"kodim{name}.png", options.size)
        for case, found in gains.items():
            likelihood, std, y, grid = problem(case, x)
            clipped = lambda image, x=x: float(metrics.psnr(jnp.clip(image, 0, 1), x))
            weight = best(grid, lambda w: vary(likelihood, y, w / std**2), x)  # noqa: B023
            varied = clipped(vary(likelihood, y, weight / std**2))
            began = time.perf_counter()
            image, step = fit(likelihood, network, y)
            fitted, seconds = clipped(jax.block_until_ready(image)), time.perf_counter() - began
            found.append(fitted - varied)
            figures = {"TV": varied, "DIP": fitted, "over TV": found[-1], "weight": weight, "step": int(step)}
            recorder.add(case=f"kodim{name}, {case}", **figures, seconds=seconds)
            recorder.write()
    for case, found in gains.items():
        recorder.add(case=f"mean, {case}", **{"over TV": float(np.mean(found)), "least": min(found)})
    recorder.write()


def problem(case, x):
    """The likelihood, its deviation, the measurement, and weights of total variation times the variance."""
    if case == "noise 25/255":
        likelihood = jaxinv.Likelihood(operators.Identity(x.shape), noise.Gaussian(25 / 255))
        return likelihood, 25 / 255, likelihood.simulate(x, key=jax.random.key(5)), 100 * TV_GRID
    mask = jax.random.bernoulli(jax.random.key(3), 0.5, (*x.shape[:2], 1)) * jnp.ones(x.shape)
    likelihood = jaxinv.Likelihood(operators.Mask(mask), noise.Gaussian(0.01))
    return likelihood, 0.01, mask * x, TV_GRID


if __name__ == "__main__":
    main()
