"""Metrics of reconstructions, samplers and densities.

A metric of images takes one image, and a metric of samplers one or two sets of samples: map over more with `jax.vmap`.
"""

from ._calibration import calibration_ranks as calibration_ranks, coverage as coverage
from ._image import (
    GaussianWindow as GaussianWindow,
    UniformWindow as UniformWindow,
    nrmse as nrmse,
    psnr as psnr,
    ssim as ssim,
)
from ._samples import (
    bits_per_dim as bits_per_dim,
    mmd as mmd,
    mode_weights as mode_weights,
    sliced_wasserstein as sliced_wasserstein,
)
from ._wasserstein2_gaussian import wasserstein2_gaussian as wasserstein2_gaussian

__all__ = [
    "GaussianWindow",
    "UniformWindow",
    "bits_per_dim",
    "calibration_ranks",
    "coverage",
    "mmd",
    "mode_weights",
    "nrmse",
    "psnr",
    "sliced_wasserstein",
    "ssim",
    "wasserstein2_gaussian",
]
