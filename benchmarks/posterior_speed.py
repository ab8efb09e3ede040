"""What posterior sampling costs: beyond the calls of the network, and beside deepinv.

    python benchmarks/posterior_speed.py [--peers DIR] [--quick]

A score network of random weights, six 3 x 3 convolutions of 64 channels, inpainting of half the pixels, a batch of
samples by `num_samples`. `over_bare` is the time over that of a compiled loop of as many evaluations, with as many
vector-Jacobian products, of the bare network on the same batch; the bar is 1.05 with 64 x 64 images.
`samples_per_second` beside that of deepinv's `DPS`, `DiffPIR` and `PosteriorDiffusion(PiGDMDataFidelity())`, with the
same network and weights, the same number of steps and no clipping; `over deepinv` is how many times more of ours.
Medians of five rounds, in each of which ours and theirs run three times; `least` and `most` are of the rounds.
"""

import argparse
import functools
import statistics
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from diffusion_speed import ratio
from flax import nnx
from harness import Recorder, peer_seconds

import jaxinv
from jaxinv import diffusion, noise, operators
from jaxinv.models._convolutional import convolution

PROCESS = diffusion.VP()
KEY = jax.random.key(0)
WIDTH, LAYERS, STD = 64, 6, 0.1


class Network(nnx.Module):
    """Convolutions and rectifiers; what it is told of the time does not matter here."""

    def __init__(self, rngs: nnx.Rngs):
        widths = [1, *(LAYERS - 1) * [WIDTH], 1]
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.layers = nnx.List([convolution(into, out, rngs=rngs) for into, out in pairs])

    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="the folder that shared/tools/peers.sh filled")
    parser.add_argument("--quick", action="store_true", help="one small case, one run: does it run?")
    options = parser.parse_args()
    recorder = Recorder("posterior_speed_quick" if options.quick else "posterior_speed")
    cases = ((28, 2, 4),) if options.quick else ((28, 8, 20), (64, 1, 20), (64, 4, 10))
    for size, count, steps in cases:
        case(recorder, size, count, steps, 1 if options.quick else 5, options.peers)
    recorder.write()


def case(recorder, size, count, steps, repeats, peers):
    shape = (size, size, 1)
    network = Network(nnx.Rngs(0))
    score = diffusion.score_from(network, PROCESS)
    mask = (jax.random.uniform(KEY, shape) < 0.5).astype(jnp.float32)
    likelihood = jaxinv.Likelihood(operators.Mask(mask), noise.Gaussian(STD))
    y = likelihood.simulate(jnp.zeros(shape), key=KEY)
    methods = {
        "DPS": diffusion.DPS(steps),
        "PiGDM": diffusion.PiGDM(steps, solver_steps=3),
        "DiffPIR": diffusion.DiffPIR(steps),
        "MomentMatching": diffusion.MomentMatching(2),
    }
    compiled, figures = {}, {}
    for name, method in methods.items():
        began = time.perf_counter()
        compiled[name] = eqx.filter_jit(functools.partial(draw, method, count)).lower(score, likelihood, y).compile()
        seconds = time.perf_counter() - began
        counts = compiled[name](score, likelihood, y)[1]
        calls = {figure: int(np.max(counts[figure])) for figure in ("network_evaluations", "vjps")}
        figures[name] = {"compile_seconds": seconds, **calls}
    for calls in {tuple(figure.values())[1:] for figure in figures.values()}:
        program = functools.partial(bare, calls=calls, shape=(count, *shape))
        compiled[calls] = eqx.filter_jit(program).lower(score, likelihood, y).compile()
        jax.block_until_ready(compiled[calls](score, likelihood, y))
    seconds, theirs = {name: [] for name in compiled}, []
    # Each round has a turn of the peer: the machine is not as fast in every minute.
    for _ in range(repeats):
        for name, program in [*compiled.items()] * 3:
            began = time.perf_counter()
            jax.block_until_ready(program(score, likelihood, y))
            seconds[name].append(time.perf_counter() - began)
        theirs.append(peer(peers, network, mask, y, count, steps))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, figure in figures.items():
        row = {"image": str(shape), "samples": count, "method": name, "seconds": medians[name]}
        row |= {"over_bare": ratio(seconds, name, tuple(figure.values())[1:]), **figure}
        row |= {"samples_per_second": count / medians[name]}
        others = [turn["seconds"][name] for turn in theirs if name in turn.get("seconds", {})]
        if others:
            ratios = [other / statistics.median(seconds[name][3 * i : 3 * i + 3]) for i, other in enumerate(others)]
            row |= {"deepinv samples_per_second": count / statistics.median(others)}
            row |= {"over deepinv": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        elif name in ("DPS", "PiGDM", "DiffPIR"):
            row |= {"peer": theirs[0].get("skipped", "not measured")}
        recorder.add(**row)


def draw(method, count, score, likelihood, y):
    solution = diffusion.posterior_sample(likelihood, score, y, key=KEY, method=method, num_samples=count)
    return solution.value, solution.stats


def bare(score, likelihood, y, *, calls, shape):
    evaluations, vjps = calls
    times = jnp.linspace(1, 1e-3, evaluations)
    # As many products in each step as there are on average; what is left over is done in a step of its own.
    each = vjps // evaluations

    def step(products, x, t):
        call = lambda x: score.network(x, jnp.full(shape[0], t))
        if not products:
            return call(x), None
        value, pull = jax.vjp(call, x)
        for _ in range(products):
            (value,) = pull(value)
        return value, None

    x, _ = jax.lax.scan(functools.partial(step, each), jax.random.normal(KEY, shape), times)
    left = vjps - each * evaluations
    return step(left, x, times[0])[0] if left else x


def peer(folder, network, mask, y, count, steps):
    if folder is None:
        return {"skipped": "no folder of peers was named"}
    arrays = {"mask": mask, "y": y, "samples": count, "steps": steps, "std": STD, "layers": LAYERS, "repeats": 3}
    for i, layer in enumerate(network.layers):
        arrays |= {f"kernel{i}": layer.kernel[...], f"bias{i}": layer.bias[...]}
    inputs = {name: np.asarray(value) for name, value in arrays.items()}
    return peer_seconds("posterior_deepinv", folder / "torch" / "bin" / "python", inputs)


if __name__ == "__main__":
    main()
