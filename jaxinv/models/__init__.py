"""Networks, and nothing but networks: always batched, stateless Flax NNX modules."""

from ._autoencoder import Autoencoder as Autoencoder
from ._conv_decoder import ConvDecoder as ConvDecoder
from ._coupling import (
    AbstractCoupling as AbstractCoupling,
    Affine as Affine,
    RationalQuadratic as RationalQuadratic,
)
from ._critic import Critic as Critic
from ._deep_decoder import DeepDecoder as DeepDecoder
from ._flow import Flow as Flow
from ._generator import Generator as Generator
from ._learned_gradient import LearnedGradient as LearnedGradient
from ._learned_primal_dual import LearnedPrimalDual as LearnedPrimalDual
from ._lista import LISTA as LISTA
from ._mixer import Mixer as Mixer
from ._resampling import AbstractUpsampling as AbstractUpsampling, Bilinear as Bilinear, Nearest as Nearest
from ._skip_unet import SkipUNet as SkipUNet
from ._trunks import AbstractTrunk as AbstractTrunk, Convolutional as Convolutional, Dense as Dense
from ._unet import UNet as UNet
from ._vae import VAE as VAE, Bernoulli as Bernoulli, Gaussian as Gaussian
