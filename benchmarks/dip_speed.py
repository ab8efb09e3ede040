"""How fast is a deep image prior, beside deepinv's `DeepImagePrior`, and many at once beside one after the other?

    python benchmarks/dip_speed.py [--peers DIR] [--quick]

Inpainting, the same `ConvDecoder` (7 layers, 64 channels), Adam: milliseconds per step, the whole call divided by its
steps; compile time and temporary memory of our program stand beside. And 16 problems at once with the deep decoder and
the `ConvDecoder`, together and one after the other. Beside deepinv: medians of rounds in which each has a turn; `least`
and `most` are of the rounds.
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from harness import Recorder, peer_seconds, timed

import jaxinv

STD, LAYERS, CHANNELS, MANY = 0.05, 7, 64, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="the folder that shared/tools/peers.sh filled")
    parser.add_argument("--quick", action="store_true", help="64 x 64 only, few steps")
    parser.add_argument("--rounds", type=int, default=5, help="of ours and theirs in turn")
    parser.add_argument("--name", default="dip_speed", help="of the file of results")
    options = parser.parse_args()
    steps = 20 if options.quick else 100
    recorder = Recorder(options.name + ("_quick" if options.quick else ""))
    for size in (64,) if options.quick else (64, 128):
        one(recorder, size, steps, options.peers, 1 if options.quick else options.rounds)
    kinds = {
        "deep decoder": partial(jaxinv.models.DeepDecoder, channels=CHANNELS),
        "convolutional decoder": partial(jaxinv.models.ConvDecoder, layers=LAYERS, channels=CHANNELS),
    }
    for name, make in kinds.items():
        many(recorder, name, make, 64, steps // 4 if "conv" in name else steps, 1 if options.quick else 3)
    recorder.write()


def one(recorder, size, steps, peers, rounds):
    """One inpainting problem; in each round, ours and then theirs: the machine is not as fast in every minute."""
    mask, y = problem(size, 1)
    network = jaxinv.models.ConvDecoder((size, size, 1), layers=LAYERS, channels=CHANNELS, rngs=nnx.Rngs(0))

    def run(mask, y, network):
        likelihood = jaxinv.Likelihood(jaxinv.operators.Mask(mask), jaxinv.noise.Gaussian(STD))
        return jaxinv.dip.reconstruct(likelihood, network, y, key=jax.random.key(0), num_steps=steps, stride=steps)

    began = time.perf_counter()
    compiled = jax.jit(run).lower(mask, y[0], network).compile()
    line = {"case": "one", "size": size, "steps": steps, "compile_seconds": time.perf_counter() - began}
    line["temporary_megabytes"] = compiled.memory_analysis().temp_size_in_bytes / 1e6
    assert int(compiled(mask, y[0], network).stats["num_steps"]) == steps
    ours, theirs = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready(compiled(mask, y[0], network))
        ours.append(1e3 * (time.perf_counter() - began) / steps)
        theirs.append(peer(peers, mask, y[0], steps))
    line["milliseconds"] = statistics.median(ours)
    found = [1e3 * turn["seconds"]["run"] / steps for turn in theirs if "seconds" in turn]
    if found:
        ratios = [other / own for other, own in zip(found, ours, strict=True)]
        line |= {"deepinv milliseconds": statistics.median(found), "deepinv over ours": statistics.median(ratios)}
        line |= {"least": min(ratios), "most": max(ratios)}
    else:
        line |= {"peer": theirs[0]["skipped"]}
    recorder.add(**line)


def peer(folder, mask, y, steps):
    if folder is None:
        return {"skipped": "no folder of peers was named"}
    inputs = {"mask": mask, "y": y, "layers": LAYERS, "channels": CHANNELS, "steps": steps}
    inputs = {key: np.asarray(value) for key, value in inputs.items()}
    return peer_seconds("dip_deepinv", folder / "torch" / "bin" / "python", inputs)


def many(recorder, name, make, size, steps, repeats):
    """Many problems, and networks of their own weights."""
    mask, y = problem(size, MANY)
    network = make((size, size, 1), rngs=nnx.Rngs(0))

    def run(together, mask, y, network):
        likelihood = jaxinv.Likelihood(jaxinv.operators.Mask(mask), jaxinv.noise.Gaussian(STD))
        return jaxinv.dip.reconstruct_many(
            likelihood, network, y, key=jax.random.key(0), together=together, num_steps=steps, stride=steps
        ).value

    _, together = timed(partial(run, True), mask, y, network, repeats=repeats)
    _, apart = timed(partial(run, False), mask, y, network, repeats=repeats)
    recorder.add(
        case=f"{MANY} at once",
        network=name,
        size=size,
        steps=steps,
        together_seconds=together["seconds"],
        apart_seconds=apart["seconds"],
        apart_over_together=apart["seconds"] / together["seconds"],
        together_megabytes=together.get("temporary_megabytes"),
        apart_megabytes=apart.get("temporary_megabytes"),
    )


def problem(size, count):
    """A mask, and masked phantoms."""
    mask = (jax.random.uniform(jax.random.key(2), (size, size, 1)) < 0.5).astype(jnp.float32)
    x = jaxinv.data.ellipses(count, size, key=jax.random.key(0))
    return mask, mask * (x + STD * jax.random.normal(jax.random.key(1), x.shape))


if __name__ == "__main__":
    main()
