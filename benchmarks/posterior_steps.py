"""Are steps of `DPS` and `DiffPIR` those of deepinv, with the same network, measurement and noise?

    python benchmarks/posterior_steps.py --peers DIR

A small DRUNet with drawn weights, inpainting of half of the pixels, single precision. From every state of deepinv's run
one step of ours is made, with deepinv's noise; `error` is the largest difference to deepinv's next state, over the
largest value of that, the worst of all steps; `path` is that of the last state of a run of ours from the same start.

Where the update of deepinv is not that of the paper, ours is given the number that makes the two equal. DPS there adds
the gradient of the residual's norm to the score, so that its step in `x_t` has the factor
`scale scale' sigma^2 (1 - r^2)`, `r` being the ratio of the noise levels after and before the step, where the paper and
we have `zeta`. DiffPIR there divides the penalty of the paper by two, so that `lambda_ = 2 weight`. Its clamp of
denoised images and its images in [-1, 1] are part of the network here. The clip of denoised images in the residual, but
not in the step, which deepinv's DPS has by default and the paper has not, is off. Its DiffPIR starts from `A^T y` and
returns its last noisy state; ours starts from noise, as the paper does, and returns the image.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from harness import Recorder, peer_seconds

import jaxinv
from jaxinv import diffusion, models, noise, operators

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from _torch_cases import draw

SHAPE, STEPS, STD = (32, 32, 1), 20, 0.05
WEIGHT, LAMBDA, ZETA = 3.0, 7.0, 0.5


class Denoised(eqx.Module):
    """A denoiser of images in [0, 1] for a network of times, `network(x, t) -> E[x_0 | x_t]`."""

    network: Any
    process: diffusion.AbstractProcess
    centred: bool = eqx.field(static=True)

    def __call__(self, x, t):
        scale, std = (v[:, None, None, None] for v in jax.vmap(self.process.marginal)(t))
        sigma = (std / scale)[:, 0, 0, 0]
        if not self.centred:
            return self.network(x / scale, sigma)
        return jnp.clip(2 * self.network(x / scale / 2 + 0.5, sigma / 2) - 1, -1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="the folder of the peers' environments")
    options = parser.parse_args()
    build = models.DRUNet((None, None, 1), widths=(4, 8, 8, 16), num_blocks=1, rngs=nnx.Rngs(0))
    network = models.from_torch({name: draw(name, a.shape) for name, a in models.to_torch(build).items()})
    rng = np.random.default_rng(0)
    keys = jax.random.split(jax.random.key(0), STEPS)
    given = {
        "x": rng.uniform(size=SHAPE).astype(np.float32),
        "mask": rng.integers(2, size=SHAPE).astype(np.float32),
        "noise": np.stack([jax.random.normal(key, SHAPE) for key in keys]),
        "times": np.linspace(1, 1e-3, STEPS + 1).astype(np.float32),
        "std": STD,
        "weight": WEIGHT,
        "lambda": LAMBDA,
    }
    given["y"] = given["mask"] * rng.uniform(size=SHAPE).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.npz"
        python = options.peers / "torch" / "bin" / "python"
        peer = peer_seconds("posterior_steps", python, given | {"output_file": str(file)})
        if "skipped" in peer:
            sys.exit(peer["skipped"])
        with np.load(file) as found:
            found = dict(found)
    recorder = Recorder("posterior_steps")
    version = peer["versions"]["deepinv"]
    for name, (error, path) in compare(network, given, keys, found).items():
        recorder.add(method=name, steps=STEPS, error=error, path=path, deepinv=version)
    recorder.write()


def compare(network, given, keys, found):
    operator = operators.Mask(given["mask"])
    y = jnp.asarray(given["y"])
    outcome = {}
    process = diffusion.VP()
    score = diffusion.score_from(Denoised(network, process, centred=False), process, diffusion.Denoiser())
    likelihood = jaxinv.Likelihood(operator, noise.Gaussian(STD))
    times = jnp.asarray(given["times"])

    @jax.jit
    def dps(x, t, t_next, key):
        (scale, std), (scale_next, std_next) = process.marginal(t), process.marginal(t_next)
        before, after = std / scale, std_next / scale_next
        # The factor of deepinv's score, half of which is `zeta` of the gradient of the square over the norm.
        zeta = WEIGHT / 2 * scale_next * scale * before**2 * (1 - (after / before) ** 2)
        method = diffusion.DPS(STEPS, zeta=zeta)
        problem, _ = method.prepare(likelihood, score, y)
        state = method.init(problem, key=key)._replace(x=x)
        return method.step(problem, state, t, t_next, key=key)[0].x

    states = found["DPS"]
    ours = [dps(states[i], times[i], times[i + 1], keys[i]) for i in range(STEPS)]
    x = states[0]
    for i in range(STEPS):
        x = dps(x, times[i], times[i + 1], keys[i])
    outcome["DPS"] = (worst(ours, states[1:]), worst([x], states[-1:]))

    discrete = diffusion.DiscreteVP.linear(1000, 1e-4, 0.02)
    score = diffusion.score_from(Denoised(network, discrete, centred=True), discrete, diffusion.Denoiser())
    # Of images in [-1, 1].
    doubled, shifted = jaxinv.Likelihood(operator, noise.Gaussian(2 * STD)), 2 * y - operator(jnp.ones(SHAPE))
    method = diffusion.DiffPIR(STEPS, weight=LAMBDA / 2, zeta=ZETA, rtol=1e-7)

    @jax.jit
    def diffpir(x, t, t_next, key):
        problem, _ = method.prepare(doubled, score, shifted)
        return method.step(problem, x, t, t_next, key=key)[0]

    times = (found["steps"] + 1) / 1000
    # deepinv's denoiser got `x / scale / 2 + 1/2`.
    scales = jax.vmap(discrete.marginal)(jnp.asarray(times))[0][:, None, None, None]
    states = np.asarray((2 * found["DiffPIR"] - 1) * scales)
    # The first noise is in the start, and the last state has no step.
    count = len(states) - 1
    ours = [diffpir(states[i], times[i], times[i + 1], keys[i + 1]) for i in range(count)]
    x = states[0]
    for i in range(count):
        x = diffpir(x, times[i], times[i + 1], keys[i + 1])
    outcome["DiffPIR"] = (worst(ours, states[1:]), worst([x], states[-1:]))
    return outcome


def worst(ours, theirs):
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    main()
