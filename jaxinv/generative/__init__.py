"""Generative models as priors, and reconstruction in their latent spaces."""

from ._autoencoder import AutoencoderPrior as AutoencoderPrior, autoencoder_loss as autoencoder_loss
from ._function import FunctionPrior as FunctionPrior
from ._method import AbstractMethod as AbstractMethod, Hard as Hard
from ._pca_prior import PCAPrior as PCAPrior
from ._reconstruct import reconstruct as reconstruct
from ._start import AbstractStart as AbstractStart, From as From, FromEncoder as FromEncoder, FromPrior as FromPrior
from ._vae import VAEPrior as VAEPrior, vae_loss as vae_loss
