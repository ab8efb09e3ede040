"""How well do reconstructions of a brain predict frequencies that were left out? Real k-space of eight coils.

    python benchmarks/mri.py

The scan has 12.4 % of the frequencies of 230 x 180, in a Poisson disc with a fully sampled middle of 24 x 24. A tenth
of the frequencies outside of the middle is left out; the error is `||P(A x - y)|| / ||P y||` over these, `P`, which
needs no true image. `noise` is the share that is noise, from the outermost frequencies. The weights are those of the
least error of a small grid, chosen on one half of the frequencies that are left out and scored on the other.
"""

import argparse
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from harness import Recorder

from jaxinv import Likelihood, classical, mri, noise, operators


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = os.environ.get("JAXINV_DATA", Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--file", type=Path, default=Path(folder) / "mri" / "brain_cartesian_ksp_8coil.npy")
    options = parser.parse_args()
    recorder = Recorder("mri")
    kspace = jnp.asarray(np.load(options.file))[..., None]
    covariance = mri.noise_covariance(kspace, outside=0.75)
    white = mri.prewhiten(kspace, covariance)
    measured = np.any(np.asarray(white) != 0, axis=0)
    h, w, _ = measured.shape
    middle = np.zeros_like(measured)
    middle[h // 2 - 12 : h // 2 + 12, w // 2 - 12 : w // 2 + 12] = True
    draw = np.random.default_rng(0).uniform(size=measured.shape)
    out = [measured & ~middle & (draw < 0.05), measured & ~middle & (draw >= 0.05) & (draw < 0.1)]
    kept = jnp.asarray(measured & ~out[0] & ~out[1], white.real.dtype)
    data = white * kept
    parts = [jnp.asarray(part, white.real.dtype) for part in out]
    expected = 2 * white.shape[0] * float(jnp.sum(parts[1]) / jnp.sum(jnp.abs(white * parts[1]) ** 2))
    recorder.add(part="data", coils=white.shape[0], kept=float(jnp.mean(kept)), noise=expected**0.5)

    for name, method in {"ESPIRiT": mri.ESPIRiT(), "low resolution": mri.LowResolution()}.items():
        began = time.perf_counter()
        maps = jax.block_until_ready(mri.coil_maps(data, method=method))
        recorder.add(part="maps", method=name, seconds=time.perf_counter() - began)
        for solver, (solve, weights) in SOLVERS.items():
            began, found = time.perf_counter(), []
            for weight in weights:
                image = solve(Likelihood(operators.MultiCoilFourier(kept, maps), noise.Gaussian(1.0)), data, weight)
                found.append([float(left_out(maps, image, white, part)) for part in parts])
            best = min(range(len(found)), key=lambda i: found[i][0])
            seconds = (time.perf_counter() - began) / len(weights)
            recorder.add(
                part="images", maps=name, solver=solver, weight=weights[best], error=found[best][1], seconds=seconds
            )
    recorder.write()


@jax.jit
def left_out(maps, image, data, part):
    """The relative error of the frequencies that were left out."""
    everything = operators.MultiCoilFourier(jnp.ones_like(part), maps)
    residual = jnp.sum(jnp.abs((everything(image) - data) * part) ** 2)
    return jnp.sqrt(residual / jnp.sum(jnp.abs(data * part) ** 2))


SOLVERS = {
    "zero-filled": (lambda likelihood, y, weight: likelihood.operator.adjoint(y), [0.0]),
    "SENSE": (
        lambda likelihood, y, weight: classical.tikhonov(likelihood, y, weight=weight).value,
        [0.001, 0.01, 0.1, 1.0],
    ),
    "TV": (
        lambda likelihood, y, weight: classical.tv(likelihood, y, weight=weight, norm=1.0, max_steps=300).value,
        [0.3, 1.0, 3.0, 10.0, 30.0],
    ),
}


if __name__ == "__main__":
    main()
