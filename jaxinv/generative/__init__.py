"""Generative models as priors, and reconstruction in their latent spaces."""

from .._prior import AbstractGenerativePrior as AbstractGenerativePrior
from .._proximal_map import AbstractProximalMap as AbstractProximalMap
from ._algorithm import Alternating as Alternating
from ._autoencoder import AutoencoderPrior as AutoencoderPrior, autoencoder_loss as autoencoder_loss
from ._check_range import RangeCheck as RangeCheck, check_range as check_range
from ._deviation import Relaxed as Relaxed, Soft as Soft
from ._flow import FlowPrior as FlowPrior, flow_loss as flow_loss
from ._function import FunctionPrior as FunctionPrior
from ._gan import (
    GANPrior as GANPrior,
    minimax_loss as minimax_loss,
    nonsaturating_loss as nonsaturating_loss,
    wasserstein_loss as wasserstein_loss,
)
from ._gaussian_deviation import deviation_weight as deviation_weight, residual_gaussian as residual_gaussian
from ._images import (
    AbstractPath as AbstractPath,
    Linear as Linear,
    Spherical as Spherical,
    interpolate as interpolate,
    sample as sample,
)
from ._method import AbstractLatentMethod as AbstractLatentMethod, Hard as Hard
from ._mode_coverage import ModeCoverage as ModeCoverage
from ._pca_prior import PCAPrior as PCAPrior
from ._project import encode as encode, project as project
from ._reconstruct import reconstruct as reconstruct
from ._sample_posterior import sample_posterior as sample_posterior
from ._start import AbstractStart as AbstractStart, From as From, FromEncoder as FromEncoder, FromPrior as FromPrior
from ._vae import VAEPrior as VAEPrior, vae_loss as vae_loss
from ._variational import (
    AbstractFamily as AbstractFamily,
    MeanFieldGaussian as MeanFieldGaussian,
    MeanFieldUniform as MeanFieldUniform,
    variational_posterior as variational_posterior,
)
from ._weights import choose_weight as choose_weight

__all__ = [
    "AbstractFamily",
    "AbstractGenerativePrior",
    "AbstractLatentMethod",
    "AbstractPath",
    "AbstractProximalMap",
    "AbstractStart",
    "Alternating",
    "autoencoder_loss",
    "AutoencoderPrior",
    "check_range",
    "choose_weight",
    "deviation_weight",
    "encode",
    "flow_loss",
    "FlowPrior",
    "From",
    "FromEncoder",
    "FromPrior",
    "FunctionPrior",
    "GANPrior",
    "Hard",
    "interpolate",
    "Linear",
    "MeanFieldGaussian",
    "MeanFieldUniform",
    "minimax_loss",
    "ModeCoverage",
    "nonsaturating_loss",
    "PCAPrior",
    "project",
    "RangeCheck",
    "reconstruct",
    "Relaxed",
    "residual_gaussian",
    "sample",
    "sample_posterior",
    "Soft",
    "Spherical",
    "vae_loss",
    "VAEPrior",
    "variational_posterior",
    "wasserstein_loss",
]
