"""The command `jaxinv sample`, which draws images from a trained prior."""

import time
from io import BytesIO
from pathlib import Path

import jax
import numpy as np

from .. import diffusion, generative, io, plotting
from . import _networks, _score
from ._files import check_outputs


def run(*, network: Path, images: int, steps: int, seed: int, output: Path) -> None:
    """Draw images from a trained prior; write a picture and the arrays."""
    arrays = output.with_suffix(".npy")
    check_outputs([output, arrays], [network])
    key = jax.random.key(seed)
    began = time.perf_counter()
    if _score.is_score(network):
        value = _score.load(network).draw(images, key=key, method=diffusion.DPMSolver(steps))
    else:
        _, _, prior = _networks.load(network)
        value = generative.sample(prior, images, key=key)
    value = np.asarray(value)
    seconds = time.perf_counter() - began
    plotting.save(plotting.sample_grid(np.clip(value, 0, 1), limits=(0, 1)), output)
    stored = BytesIO()
    np.save(stored, value)
    io.write_bytes(arrays, stored.getvalue())
    print(f"{images} images in {seconds:.1f} s, compilation included. Wrote {output} and {arrays}.")
