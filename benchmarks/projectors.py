"""How fast are the projectors, beside those of other libraries on the same images and angles in the same run?

    python benchmarks/projectors.py [--peers DIR] [--repeats 15]

One line for each case and direction: `seconds` is our median, `problems_per_second` images through it, and each peer's
column its median time over ours. Parallel beams have a detector over the diagonal. Fan beams have the same number of
bins, a source at twice the size of the image and bins of 1.6 pixels, so that three rays pass within a pixel of some
pixels where two do of parallel beams; `over parallel` is their time over that of the parallel beam of the same size.

What bounds them are look-ups: two for each ray and line, forward, and as many as rays pass within a pixel for each view
and pixel, adjoint, whatever the batch. `lookups per ns` is that number over the time, and `bare lookups per ns` the
rate at which the same machine, in the same run, does nothing but look up and add as many numbers from a table in cache.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from harness import Recorder, peer_seconds, timed

from jaxinv._kernels._beams import num_taps
from jaxinv.operators import FanBeam, ParallelBeam

# Size, images, angles.
CASES = [(128, 16, 60), (28, 256, 30), (256, 1, 180), (512, 1, 720)]
PEERS = {"deepinv": "torch", "astra": "torch", "skimage": "torch", "mbirjax": "mbirjax", "scico": "scico"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="the folder that shared/tools/peers.sh filled")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--name", default="projectors", help="of the file of results")
    options = parser.parse_args()
    recorder = Recorder(options.name)
    for case in CASES:
        measure(recorder, *case, options)
    recorder.write()


def measure(recorder: Recorder, size: int, images: int, num_angles: int, options: argparse.Namespace) -> None:
    shape = (size, size, 1)
    angles = jnp.linspace(0, jnp.pi, num_angles, endpoint=False)
    parallel = ParallelBeam(shape, angles)
    bins = parallel.codomain.shape[1]
    fan = FanBeam(shape, 2 * angles, bins, 1.6, 2.0 * size, 1.0 * size)
    x = jax.random.uniform(jax.random.key(0), (images, *shape))
    repeats = options.repeats if size < 512 else 3
    ours = {}
    bare = bare_lookups(num_angles * bins, size, images)
    for name, operator in (("parallel", parallel), ("fan", fan)):
        y = jax.vmap(operator)(x)
        for direction, argument in (("forward", x), ("adjoint", y)):
            function = run_forward if direction == "forward" else run_adjoint
            _, figures = timed(function, operator, argument, repeats=repeats)
            ours[name, direction] = figures
    peers = {}
    if size < 512 and options.peers is not None:
        inputs = {"images": np.moveaxis(np.asarray(x[..., 0]), 0, -1), "angles": angles, "num_detectors": bins}
        for peer, environment in PEERS.items():
            peers[peer] = peer_seconds(f"projector_{peer}", options.peers / environment / "bin" / "python", inputs)
            if "skipped" in peers[peer]:
                recorder.add(peer=peer, skipped=peers[peer]["skipped"])
    for (name, direction), figures in ours.items():
        seconds = figures["seconds"]
        line = {"size": f"{images} x {size} x {size}, {num_angles} angles", "beam": name, "direction": direction}
        line |= {"seconds": float(f"{seconds:.4g}"), "problems per second": round(images / seconds, 1)}
        taps = 2 if direction == "forward" else num_taps(parallel.rays if name == "parallel" else fan.rays)
        points = bins * size if direction == "forward" else size * size
        line |= {"lookups per ns": round(num_angles * points * taps * images / seconds / 1e9, 2)}
        line |= {"bare lookups per ns": round(bare, 2), "compile seconds": round(figures["compile_seconds"], 2)}
        line |= {"temporary megabytes": round(figures.get("temporary_megabytes", float("nan")), 2)}
        if name == "fan":
            line["over parallel"] = round(seconds / ours["parallel", direction]["seconds"], 2)
        else:
            times = {peer: found.get("seconds", {}).get(direction) for peer, found in peers.items()}
            line |= {f"{peer} over ours": round(t / seconds, 1) for peer, t in times.items() if t is not None}
        recorder.add(**line)


def bare_lookups(rays: int, lines: int, images: int) -> float:
    """Look-ups per nanosecond, each of `images` numbers next to each other, with nothing to compute."""
    table = jax.random.normal(jax.random.key(1), (lines, lines + 4, images))
    index = jax.random.randint(jax.random.key(2), (rays,), 0, lines)

    def add_up(table, index):
        body = lambda total, line: (total + line.at[index].get(mode="promise_in_bounds"), None)
        return jax.lax.scan(body, jnp.zeros((rays, images)), table, unroll=8 if images < 64 else 1)[0]

    _, figures = timed(add_up, table, index)
    return rays * lines * images / figures["seconds"] / 1e9


def run_forward(operator, x):
    return jax.vmap(operator)(x)


def run_adjoint(operator, y):
    return jax.vmap(operator.adjoint)(y)


if __name__ == "__main__":
    main()
