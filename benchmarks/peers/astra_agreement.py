"""Does our forward projection agree with the ASTRA toolbox, on the CPU?

    pip install -e . astra-toolbox scipy && python benchmarks/peers/astra_agreement.py

Parallel beams are compared with ASTRA's `linear` projector, which is Joseph's method. ASTRA has no such projector for
fan beams on the CPU, so each ray of the fan goes to the same `linear` projector as a parallel view of its own with one
bin; its `line_fanflat`, which integrates pixels as squares, is another discretisation, shown for comparison only.

One line for each case, in float64; it fails if a relative difference, in the 2-norm, exceeds 1e-3.
"""

import sys
from pathlib import Path

import astra
import jax
import jax.numpy as jnp
import numpy as np

from jaxinv.data import shepp_logan
from jaxinv.operators import FanBeam, ParallelBeam

sys.path.insert(0, str(Path(__file__).parents[1]))
from harness import Recorder  # noqa: E402

BAR = 1e-3


def astra_forward(kind: str, geometry: dict, image: np.ndarray, pixel_size: float) -> np.ndarray:
    h, w = image.shape
    x, y = w * pixel_size / 2, h * pixel_size / 2
    volume = astra.create_vol_geom(h, w, -x, x, -y, y)
    projector = astra.create_projector(kind, geometry, volume)
    identifier, sinogram = astra.create_sino(image, projector)
    astra.data2d.delete(identifier)
    astra.projector.delete(projector)
    return sinogram


def fan_as_parallel(operator: FanBeam) -> dict:
    """Every ray of the fan as a parallel view with one bin."""
    angles, bins = np.asarray(operator.angles, float), operator.codomain.shape[1]
    s = (np.arange(bins) - (bins - 1) / 2) * operator.detector_spacing + float(operator.centre_offset)
    t, s = (a.ravel() for a in np.meshgrid(angles, s, indexing="ij"))
    along, up = np.stack([np.cos(t), np.sin(t)], 1), np.stack([-np.sin(t), np.cos(t)], 1)
    bin_centre = s[:, None] * along + operator.origin_detector * up
    ray = bin_centre + operator.source_origin * up
    ray = ray / np.linalg.norm(ray, axis=1, keepdims=True)
    across = np.stack([ray[:, 1], -ray[:, 0]], 1)
    return astra.create_proj_geom("parallel_vec", 1, np.concatenate([ray, bin_centre, across], 1))


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    recorder = Recorder("astra_agreement", also=("astra-toolbox",))
    rng = np.random.default_rng(0)
    phantom = np.asarray(shepp_logan(128))[..., 0].astype(float)
    images = {
        "Shepp-Logan 128 x 128": phantom,
        "Shepp-Logan 128 x 96": phantom[:, 16:112],
        "noise 65 x 40": rng.normal(size=(65, 40)),
    }
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False) + 0.01
    worst = 0.0
    for name, image in images.items():
        shape = (*image.shape, 1)
        for spacing, pixel in ((1.0, 1.0), (0.5, 1.0), (1.7, 1.0), (0.3, 0.25)):
            operator = ParallelBeam(shape, turn, None, spacing, pixel)
            bins = operator.codomain.shape[1]
            geometry = astra.create_proj_geom("parallel", spacing, bins, turn)
            error = relative(
                np.asarray(operator(jnp.asarray(image[..., None])))[..., 0],
                astra_forward("linear", geometry, image, pixel),
            )
            worst = max(worst, error)
            recorder.add(beam="parallel", image=name, spacing=spacing, pixel=pixel, difference=float(f"{error:.1e}"))
        for spacing, source, detector, pixel in ((1.6, 300.0, 200.0, 1.0), (0.6, 60.0, 80.0, 0.25)):
            operator = FanBeam(shape, turn, 160, spacing, source, detector, pixel)
            ours = np.asarray(operator(jnp.asarray(image[..., None])))[..., 0]
            theirs = astra_forward("linear", fan_as_parallel(operator), image, pixel).reshape(ours.shape)
            error = relative(ours, theirs)
            worst = max(worst, error)
            geometry = astra.create_proj_geom("fanflat", spacing, 160, turn, source, detector)
            line = relative(ours, astra_forward("line_fanflat", geometry, image, pixel))
            recorder.add(
                beam="fan",
                image=name,
                spacing=spacing,
                pixel=pixel,
                difference=float(f"{error:.1e}"),
                line_fanflat=float(f"{line:.1e}"),
            )
    recorder.write()
    if worst > BAR:
        sys.exit("The projections disagree.")


if __name__ == "__main__":
    main()
