"""Networks, and nothing but networks: always batched, stateless Flax NNX modules."""

from ._affine import Affine as Affine
from ._autoencoder import Autoencoder as Autoencoder
from ._coupling import AbstractCoupling as AbstractCoupling
from ._critic import Critic as Critic
from ._flow import Flow as Flow
from ._generator import Generator as Generator
from ._likelihood import Bernoulli as Bernoulli, Gaussian as Gaussian
from ._mixer import Mixer as Mixer
from ._spline import RationalQuadratic as RationalQuadratic
from ._trunks import AbstractTrunk as AbstractTrunk, Convolutional as Convolutional, Dense as Dense
from ._unet import UNet as UNet
from ._vae import VAE as VAE
