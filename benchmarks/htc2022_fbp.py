"""Filtered back-projection of the real Helsinki fan-beam data against the reference reconstruction.

    python benchmarks/htc2022_fbp.py

All 720 views, 512 x 512 pixels of .1483 mm. `correlation` with the reference, and `scale`, the slope of the regression
of ours on it in its unit (attenuation per pixel of .1483 mm), which is 1 if the geometry's units are right.
"""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import scipy.io
from harness import Recorder

from jaxinv import classical, data, operators

PIXEL = 0.1483224173873
FOLDERS = (os.environ.get("JAXINV_DATA"), Path(__file__).parents[2] / "shared" / "data")


def main() -> None:
    folder = next(Path(f) / "ct" / "htc2022" for f in FOLDERS if f and (Path(f) / "ct" / "htc2022").is_dir())
    recorder = Recorder("htc2022_fbp")
    for phantom in ("ta", "solid_disc"):
        sinogram, geometry = data.htc2022(folder / f"htc2022_{phantom}_full.mat")
        # Our row 0 is the top of the image, theirs the bottom.
        reference = scipy.io.loadmat(folder / f"htc2022_{phantom}_full_recon_fbp.mat")["reconFullFbp"].T[::-1]
        operator = operators.FanBeam((512, 512, 1), pixel_size=PIXEL, **geometry)
        for window in (classical.RamLak(), classical.SheppLogan(), classical.Cosine(), classical.Hann()):
            image = classical.fbp(operator, jnp.asarray(sinogram), window=window).check().value
            ours, theirs = np.asarray(image[..., 0], np.float64).ravel() * PIXEL, reference.ravel()
            covariance = np.cov(ours, theirs)
            recorder.add(
                phantom=phantom,
                window=type(window).__name__,
                correlation=round(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]), 5),
                scale=round(covariance[0, 1] / covariance[1, 1], 5),
            )
    recorder.write()


if __name__ == "__main__":
    main()
