"""Gradients of convolutions, and training steps of a U-Net, inside a compiled loop and outside.

    python benchmarks/convolution.py [--repeats 7]

Bars: gradients inside `lax.scan` within 1.5 times the same call outside (with plain lax on a processor: 50 times), and
a training step inside within 1.1 times a Python loop over the jitted step. Times are of one call, or of one step.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from harness import Recorder, timed

from jaxinv import models
from jaxinv._kernels import conv_general_dilated

STEPS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="of which the median is taken")
    parser.add_argument("--name", default="convolution", help="of the file of results")
    options = parser.parse_args()
    recorder = Recorder(options.name)
    _gradients(recorder, options.repeats)
    _many(recorder, options.repeats)
    _training(recorder, options.repeats)
    recorder.write()


def _loss(convolution):
    return lambda x, w: jnp.sum(jnp.tanh(convolution(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))))


def _gradients(recorder, repeats):
    x = jax.random.normal(jax.random.key(0), (1, 64, 64, 64))
    w = 0.05 * jax.random.normal(jax.random.key(1), (3, 3, 64, 64))

    def inside(convolution):
        def descend(x, w):
            step = jax.grad(_loss(convolution), (0, 1))
            body = lambda c, _: (jax.tree.map(lambda a, g: a - 1e-3 * g, c, step(*c)), None)
            return jax.lax.scan(body, (x, w), None, length=STEPS)[0]

        return descend

    task = "gradients of one 64 x 64 image, 3 x 3, 64 to 64 channels"
    _, outside = timed(jax.grad(_loss(conv_general_dilated), (0, 1)), x, w, repeats=repeats)
    recorder.add(task=task, method="outside", **outside)
    ways = {"in scan": (conv_general_dilated, repeats), "in scan, plain lax": (jax.lax.conv_general_dilated, 1)}
    for method, (convolution, number) in ways.items():
        _, figures = timed(inside(convolution), x, w, repeats=number)
        figures["seconds"] /= STEPS
        recorder.add(task=task, method=method, over_outside=figures["seconds"] / outside["seconds"], **figures)


def _many(recorder, repeats):
    """Many problems, each with its own image and its own weights."""
    for problems, images, size, channels in ((16, 1, 64, 32), (8, 8, 28, 16), (64, 1, 28, 16)):
        x = jax.random.normal(jax.random.key(0), (problems, images, size, size, channels))
        w = jax.random.normal(jax.random.key(1), (problems, 3, 3, channels, channels))
        task = f"gradients of {problems} problems, {images} of {size} x {size}, {channels} channels"
        for method, convolution in (("ours", conv_general_dilated), ("plain lax", jax.lax.conv_general_dilated)):
            _, figures = timed(jax.vmap(jax.grad(_loss(convolution), (0, 1))), x, w, repeats=repeats)
            recorder.add(task=task, method=method, **figures)


def _training(recorder, repeats):
    network = models.UNet((28, 28, 1), rngs=nnx.Rngs(0))
    weights, treedef = jax.tree.flatten(network)
    images = jax.random.uniform(jax.random.key(0), (32, 28, 28, 1))
    optimiser = optax.adam(1e-3)

    def loss(weights, key):
        time_key, noise_key = jax.random.split(key)
        t = jax.random.uniform(time_key, (len(images),))
        noise = jax.random.normal(noise_key, images.shape)
        part = t.reshape(-1, 1, 1, 1)
        predicted = jax.tree.unflatten(treedef, weights)((1 - part) * images + part * noise, t)
        return jnp.mean((predicted - noise) ** 2)

    def step(carry, key):
        weights, state = carry
        value, gradient = jax.value_and_grad(loss)(weights, key)
        updates, state = optimiser.update(gradient, state, weights)
        return (optax.apply_updates(weights, updates), state), value

    keys = jax.random.split(jax.random.key(1), STEPS)
    carry = (weights, optimiser.init(weights))
    one = jax.jit(step)
    many = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))

    def python_loop(carry):
        for key in keys:
            carry, _ = one(carry, key)
        return carry

    ways = {"Python loop": python_loop, "scan": lambda carry: many(carry, keys)}
    seconds = {method: [] for method in ways}
    # Turn by turn, so that what else the machine does meets both alike.
    for repeat in range(repeats + 1):
        for method, way in ways.items():
            began = time.perf_counter()
            jax.block_until_ready(way(carry))
            if repeat:  # the first one compiles
                seconds[method].append((time.perf_counter() - began) / STEPS)
    medians = {method: statistics.median(values) for method, values in seconds.items()}
    count = sum(leaf.size for leaf in weights)
    for method, value in medians.items():
        over = value / medians["Python loop"]
        task = "training step of a U-Net, batch 32, 28 x 28"
        recorder.add(task=task, method=method, weights=count, seconds=value, over_python_loop=over)


if __name__ == "__main__":
    main()
