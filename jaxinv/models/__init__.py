"""Network architectures only, as batched, stateless Flax NNX modules; the other modules train and use them."""

from ._adm_unet import ADMUNet as ADMUNet
from ._autoencoders import VAE as VAE, Autoencoder as Autoencoder, Bernoulli as Bernoulli, Gaussian as Gaussian
from ._convolutional import AbstractUpsampling as AbstractUpsampling, Bilinear as Bilinear, Nearest as Nearest
from ._coupling import (
    AbstractCoupling as AbstractCoupling,
    Affine as Affine,
    RationalQuadratic as RationalQuadratic,
)
from ._decoders import ConvDecoder as ConvDecoder, DeepDecoder as DeepDecoder
from ._diffusers_unet import DiffusersUNet as DiffusersUNet
from ._drunet import DRUNet as DRUNet
from ._flow import Flow as Flow
from ._gan import Critic as Critic, Generator as Generator
from ._learned_gradient import LearnedGradient as LearnedGradient
from ._learned_primal_dual import LearnedPrimalDual as LearnedPrimalDual
from ._lista import LISTA as LISTA
from ._mixer import Mixer as Mixer
from ._skip_unet import SkipUNet as SkipUNet
from ._torch_weights import from_torch as from_torch, to_torch as to_torch
from ._trunks import MLP as MLP, AbstractTrunk as AbstractTrunk, Convolutional as Convolutional, Dense as Dense
from ._unet import UNet as UNet

__all__ = [
    "ADMUNet",
    "DRUNet",
    "DiffusersUNet",
    "from_torch",
    "to_torch",
    "AbstractCoupling",
    "AbstractTrunk",
    "AbstractUpsampling",
    "Affine",
    "Autoencoder",
    "Bernoulli",
    "Bilinear",
    "ConvDecoder",
    "Convolutional",
    "Critic",
    "DeepDecoder",
    "Dense",
    "Flow",
    "Gaussian",
    "Generator",
    "LISTA",
    "LearnedGradient",
    "LearnedPrimalDual",
    "MLP",
    "Mixer",
    "Nearest",
    "RationalQuadratic",
    "SkipUNet",
    "UNet",
    "VAE",
]
