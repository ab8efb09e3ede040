"""What `jaxinv reconstruct` runs."""

import json
import time
from io import BytesIO
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import classical, generative, io, metrics, oracles, plotting
from .._solution import RESULTS
from ._demo import plotting_folder
from ._images import load
from ._measurements import TASKS, measured_by
from ._networks import load as load_network


def run(
    *, network: Path, task: str, data: str, images: int, level: float, restarts: int, seed: int, output: Path
) -> None:
    """Measure held-out images, reconstruct them with a trained prior, and write figure, arrays and figures of merit."""
    plotting_folder(output)
    kind, shape, prior = load_network(network)
    keys = [jax.random.fold_in(jax.random.key(seed), i) for i in range(3)]
    train, _, test = load(data, images, quick=False)
    if test.shape[1:] != shape:
        raise ValueError(
            f"{network} was trained on images of shape {shape}; those of --data {data} are {test.shape[1:]}."
        )
    heading, make = TASKS[task]
    likelihood = measured_by(make(shape, keys[0]), level, keys[0])
    each = jax.random.split(keys[1], len(test))
    y = jax.vmap(lambda x, key: likelihood.simulate(x, key=key))(test, each)

    @eqx.filter_jit
    def solve(likelihood, prior, y, each):
        one = lambda y, key: generative.reconstruct(likelihood, prior, y, key=key, restarts=restarts)
        return jax.vmap(one)(y, each)

    began = time.perf_counter()
    solution = jax.block_until_ready(solve(likelihood, prior, y, jax.random.split(keys[2], len(test))))
    seconds = time.perf_counter() - began
    baseline = oracles.Gaussian.from_samples(train)
    gaussian = jax.vmap(lambda y: classical.gaussian(likelihood, baseline, y).value)(y)

    pictures = {"Gaussian": gaussian, kind: solution.value}
    rows = {}
    print(heading + f", noise {level:g} of the norm; {len(test)} held-out images.")
    for method, value in pictures.items():
        quality = jax.vmap(metrics.psnr)(jnp.clip(value, 0, 1), test)
        rows[method] = {"psnr_clipped": float(quality.mean()), "worst": float(quality.min())}
        print(f"  {method:<12} PSNR clipped {quality.mean():6.2f} dB, worst {quality.min():6.2f} dB")
    finished = (solution.result == RESULTS.successful) | (solution.result == RESULTS.max_steps_reached)
    failed = int(np.sum(~np.asarray(finished)))
    print(f"  {seconds:.1f} s, compilation included; {failed} of {len(test)} failed.")
    figure = plotting.compare(
        {name: np.asarray(value[:4]) for name, value in pictures.items()},
        reference=np.asarray(test[:4]),
        heading=heading,
        limits=(0, 1),
    )
    plotting.save(figure, output / f"{task}.png")
    stored = BytesIO()
    np.save(stored, np.asarray(solution.value))
    io.write_bytes(output / f"{task}.npy", stored.getvalue())
    result = {"network": str(network), "task": task, "noise": level, "seconds": seconds, "failed": failed, "rows": rows}
    io.write_bytes(output / "results.json", (json.dumps(result, indent=1) + "\n").encode())
    print(f"Wrote {output}.")
