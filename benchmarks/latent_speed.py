"""How fast are many latent reconstructions at once, beside deepinv's one by one and a hand-batched PyTorch loop?

    python benchmarks/latent_speed.py [--peers DIR] [--quick]

256 problems x 8 restarts, decoder 8-256-512-784, 100 measurements, 500 Adam steps, with no early stop. `one by one` is
deepinv's `CSGMGenerator` on a single problem and start, which a user would call 2048 times; `hand-batched` a PyTorch
loop over all starts at once, timed over 20 steps. Both as factors over ours. `gigaflops` counts the matrix products of
decoder and operator, forward and for the gradient in the latents; `gemm_gigaflops` is what one large product of that
shape reaches in the same run.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from harness import Recorder, peer_seconds, timed

import jaxinv

RATE, STD, LATENTS, MEASUREMENTS = 0.01, 0.1, 8, 100
WIDTHS = (LATENTS, 256, 512, 784)


class Decoder(nnx.Module):
    """Three dense layers."""

    def __init__(self, rngs: nnx.Rngs):
        pairs = zip(WIDTHS[:-1], WIDTHS[1:], strict=True)
        self.layers = nnx.List([nnx.Linear(into, out, rngs=rngs) for into, out in pairs])

    def __call__(self, z: jax.Array) -> jax.Array:
        first, second, last = self.layers
        return jax.nn.sigmoid(last(jax.nn.silu(second(jax.nn.silu(first(z))))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="the folder that shared/tools/peers.sh filled")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, one run")
    parser.add_argument("--name", default="latent_speed", help="of the file of results")
    options = parser.parse_args()
    problems, restarts, steps = 256, 8, 50 if options.quick else 500
    recorder = Recorder(options.name)
    decoder = Decoder(nnx.Rngs(0))
    prior = jaxinv.generative.FunctionPrior(
        jax.tree_util.Partial(decode, decoder), lambda z: 0.5 * jnp.sum(z**2), (LATENTS,)
    )
    keys = jax.random.split(jax.random.key(0), 3)
    matrix = jax.random.normal(keys[0], (MEASUREMENTS, 784)) / 28
    likelihood = jaxinv.Likelihood(jaxinv.operators.Matrix(matrix, (28, 28, 1)), jaxinv.noise.Gaussian(STD))
    z = jax.random.normal(keys[1], (problems, LATENTS))
    truth = decoder(z).reshape(problems, 28, 28, 1)
    y = jax.vmap(lambda x, k: likelihood.simulate(x, key=k))(truth, jax.random.split(keys[2], problems))

    def solve(likelihood, prior, y, keys):
        one = lambda y, key: jaxinv.generative.reconstruct(
            likelihood, prior, y, key=key, restarts=restarts, max_steps=steps, rtol=0.0, learning_rate=RATE
        )
        return jax.vmap(one)(y, keys)

    solution, figures = timed(
        solve, likelihood, prior, y, jax.random.split(jax.random.key(1), problems), repeats=1 if options.quick else 3
    )
    # Some lanes stand still in float32 before; the batch runs on.
    assert int(solution.stats["num_steps"].max()) == steps
    products = sum(a * b for a, b in zip(WIDTHS[:-1], WIDTHS[1:], strict=True)) + MEASUREMENTS * 784
    step = figures["seconds"] / steps
    line = {"problems": problems, "restarts": restarts, "steps": steps, **figures}
    line |= {"problems_per_second": problems / figures["seconds"], "step_milliseconds": 1e3 * step}
    line |= {"gigaflops": 4 * products * problems * restarts / step / 1e9}
    line |= {"gemm_gigaflops": gemm_gigaflops(problems * restarts)}
    if options.peers is not None:
        weights = {f"weight{i}": layer.kernel[...] for i, layer in enumerate(decoder.layers)}
        biases = {f"bias{i}": layer.bias[...] for i, layer in enumerate(decoder.layers)}
        arrays = {"matrix": matrix, "y": y, "starts": jax.random.normal(keys[1], (problems, restarts, LATENTS))}
        numbers = {"steps": steps, "rate": RATE, "std": STD, "loop_steps": 20}
        inputs = {name: np.asarray(value) for name, value in {**weights, **biases, **arrays, **numbers}.items()}
        found = peer_seconds("latent_deepinv", options.peers / "torch" / "bin" / "python", inputs)
        if "seconds" in found:
            one_by_one, loop = found["seconds"]["one_call"], found["seconds"]["loop_step"]
            line |= {
                "one by one seconds": one_by_one,
                "one by one over ours": one_by_one * problems * restarts / figures["seconds"],
            }
            line |= {"hand-batched step milliseconds": 1e3 * loop, "hand-batched over ours": loop / step}
        else:
            line |= {"peer": found["skipped"]}
    recorder.add(**line)
    recorder.write()


def gemm_gigaflops(rows: int) -> float:
    """The rate of the widest product of the decoder, alone."""
    a, b = jnp.ones((rows, WIDTHS[-2])), jnp.ones((WIDTHS[-2], WIDTHS[-1]))
    _, figures = timed(lambda a, b: a @ b, a, b, repeats=9)
    return 2 * rows * WIDTHS[-2] * WIDTHS[-1] / figures["seconds"] / 1e9


def decode(decoder: Decoder, z: jax.Array) -> jax.Array:
    return decoder(z[None])[0].reshape(28, 28, 1)


if __name__ == "__main__":
    main()
