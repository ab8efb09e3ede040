"""Metrics of reconstructions, samplers and densities.

A metric of images takes one image, and a metric of samplers one or two sets of samples: map over more with `jax.vmap`.
"""

from ._calibration import calibration_ranks as calibration_ranks, coverage as coverage
from ._calibration_check import Calibration as Calibration
from ._energy import crps as crps, energy_distance as energy_distance
from ._energy_test import EnergyTest as EnergyTest, energy_test as energy_test
from ._image import (
    GaussianWindow as GaussianWindow,
    UniformWindow as UniformWindow,
    nrmse as nrmse,
    psnr as psnr,
    ssim as ssim,
)
from ._kernels import (
    AbstractRadialKernel as AbstractRadialKernel,
    GaussianKernel as GaussianKernel,
    InverseMultiquadric as InverseMultiquadric,
)
from ._samples import (
    bits_per_dim as bits_per_dim,
    mmd as mmd,
    mode_weights as mode_weights,
    sliced_wasserstein as sliced_wasserstein,
)
from ._stein import (
    SteinTest as SteinTest,
    kernel_stein_discrepancy as kernel_stein_discrepancy,
    stein_test as stein_test,
)
from ._wasserstein2_gaussian import wasserstein2_gaussian as wasserstein2_gaussian

__all__ = [
    "AbstractRadialKernel",
    "Calibration",
    "EnergyTest",
    "GaussianKernel",
    "GaussianWindow",
    "InverseMultiquadric",
    "SteinTest",
    "UniformWindow",
    "bits_per_dim",
    "calibration_ranks",
    "coverage",
    "crps",
    "energy_distance",
    "energy_test",
    "kernel_stein_discrepancy",
    "mmd",
    "mode_weights",
    "nrmse",
    "psnr",
    "sliced_wasserstein",
    "ssim",
    "stein_test",
    "wasserstein2_gaussian",
]
