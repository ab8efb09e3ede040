"""Plug-and-play: reconstruction with a denoiser for the prior.

A denoiser is a function `D(x, sigma)` of one image: a network (`denoiser_from`), a diffusion score at a noise level
(`FromScore`), a regulariser (`Proximal`) or a function (`Denoiser`). `reconstruct(likelihood, denoiser, y)` takes it
for the prior, by a method (`HQS`, `PGD`, `ADMM`, `RED`, `GradientStep`), and `certify` measures what the convergence of
these assumes of it. `training.denoising_loss` trains one.
"""

from ._admm import ADMM as ADMM
from ._certify import DenoiserCertificate as DenoiserCertificate, certify as certify
from ._denoiser import (
    AbstractDenoiser as AbstractDenoiser,
    Denoiser as Denoiser,
    Equivariant as Equivariant,
    FromScore as FromScore,
    Proximal as Proximal,
    denoiser_from as denoiser_from,
)
from ._gradient_step import GradientStep as GradientStep
from ._hqs import HQS as HQS
from ._method import (
    AbstractPlugAndPlay as AbstractPlugAndPlay,
    Iterate as Iterate,
    Problem as Problem,
    QuadraticData as QuadraticData,
    SmoothData as SmoothData,
    quadratic_problem as quadratic_problem,
    smooth_problem as smooth_problem,
)
from ._pgd import PGD as PGD
from ._reconstruct import reconstruct as reconstruct
from ._red import RED as RED

__all__ = [
    # The verb, and the certificate of a denoiser.
    "reconstruct",
    "certify",
    "DenoiserCertificate",
    # Denoisers.
    "denoiser_from",
    "FromScore",
    "Proximal",
    "Denoiser",
    "Equivariant",
    # Methods.
    "HQS",
    "PGD",
    "ADMM",
    "RED",
    "GradientStep",
    # These are for users who implement a method or a denoiser of their own.
    "AbstractDenoiser",
    "AbstractPlugAndPlay",
    "Iterate",
    "Problem",
    "QuadraticData",
    "SmoothData",
    "quadratic_problem",
    "smooth_problem",
]
