"""Do simulated devices cost anything: `scale.solve_many` on 8 of them beside its 8 parts, one after the other, on one.

    python benchmarks/solve_many.py [--repeats 5] [--quick]

`seconds` is the call on all devices; `parts_seconds` the sum of eight calls, each with the share of one device, on one
device; both are medians over rounds in which they take turns, compilation apart. `ratio` is the median of their ratios
round by round, which should be at most 1.1; below 1 the cores that a single loop leaves idle are put to use. `chunked`
is the call on one device in 8 chunks, over the sum of parts: what reading back and dispatch cost. `cpu_ratio` is as
`ratio`, of the processor time that this process took: it says more where others use the machine. `difference` is the
largest between the answers, relative to the largest value; `same_steps` is the share of problems with equal step
counts, which in float32 may differ where a residual stands at its rounding error.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from harness import Recorder
from jax.sharding import AxisType

import jaxinv
from jaxinv import classical, generative, models, noise, operators, scale

SHAPE = (28, 28, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--quick", action="store_true", help="few problems, one round: does it run?")
    options = parser.parse_args()
    repeats = 1 if options.quick else options.repeats
    count = 16 if options.quick else 256
    recorder = Recorder("solve_many_quick" if options.quick else "solve_many")
    devices = jax.device_count()
    mesh = jax.make_mesh((devices,), ("problems",), axis_types=(AxisType.Auto,))
    for name, solve, problems in cases(count):
        recorder.add(case=name, problems=count, devices=devices, **compare(solve, problems, count, mesh, repeats))
    recorder.write()


def cases(count):
    """Name, `solve` and problems: linear algebra, proximal steps, and a network."""
    images = jax.random.uniform(jax.random.key(0), (count, *SHAPE))
    beam = operators.ParallelBeam(SHAPE, jnp.linspace(0, jnp.pi, 30, endpoint=False))
    likelihood = jaxinv.Likelihood(beam, noise.Gaussian(0.5))
    yield (
        "tikhonov, parallel beam",
        lambda p: classical.tikhonov(likelihood, p["y"], weight=p["weight"], rtol=1e-3),
        {**measured(likelihood, images), "weight": np.geomspace(0.1, 10, count, dtype=np.float32)},
    )
    matrix = operators.Matrix(jax.random.normal(jax.random.key(1), (100, 784)) / 28, SHAPE)
    sparse = jaxinv.Likelihood(matrix, noise.Gaussian(0.1))
    yield (
        "fista, random matrix",
        lambda p: classical.fista(sparse, p["y"], weight=1.0, rtol=1e-4, max_steps=200),
        measured(sparse, images * (images > 0.9)),
    )
    prior = generative.VAEPrior(models.VAE(SHAPE, 8, widths=(512, 256), rngs=nnx.Rngs(0)))
    yield (
        "reconstruct, 8 restarts",
        lambda p: generative.reconstruct(sparse, prior, p["y"], key=p["key"], restarts=8, max_steps=100),
        {**measured(sparse, images), "key": jax.random.split(jax.random.key(3), count)},
    )


def measured(likelihood, images):
    keys = jax.random.split(jax.random.key(2), len(images))
    return {"y": np.asarray(jax.vmap(lambda x, k: likelihood.simulate(x, key=k))(images, keys))}


def compare(solve, problems, count, mesh, repeats):
    """All at once on the mesh, and the share of each device on one device, by turns."""
    share = count // mesh.size
    shares = [jax.tree.map(lambda a, i=i: a[i : i + share], problems) for i in range(0, count, share)]
    together = lambda: scale.solve_many(solve, problems, mesh=mesh)
    apart = lambda: [scale.solve_many(solve, part) for part in shares]
    chunked = lambda: scale.solve_many(solve, problems, chunk_size=share)
    (first, compiled), _, _ = clocked(together), clocked(apart), clocked(chunked)
    rounds = [[clocked(call) for call in (together, apart, chunked)] for _ in range(repeats)]
    seconds, processor = np.moveaxis([[spent for _, spent in turn] for turn in rounds], -1, 0)
    parts = rounds[-1][1][0]
    value = np.concatenate([part.value for part in parts])
    steps = np.concatenate([part.stats["num_steps"] for part in parts])
    median = np.median(seconds, axis=0)
    return {
        "compile_seconds": round(compiled[0] - median[0], 2),
        "seconds": round(median[0], 3),
        "parts_seconds": round(median[1], 3),
        "ratio": round(statistics.median(seconds[:, 0] / seconds[:, 1]), 3),
        "cpu_ratio": round(statistics.median(processor[:, 0] / processor[:, 1]), 3),
        "chunked": round(statistics.median(seconds[:, 2] / seconds[:, 1]), 3),
        "problems_per_second": round(count / median[0], 1),
        "difference": float(f"{np.abs(first.value - value).max() / np.abs(value).max():.1e}"),
        "same_steps": round(float((first.stats["num_steps"] == steps).mean()), 3),
    }


def clocked(call):
    """The result, the seconds on the clock, and those of the processors."""
    began, processor = time.perf_counter(), time.process_time()
    result = call()
    return result, (time.perf_counter() - began, time.process_time() - processor)


if __name__ == "__main__":
    main()
