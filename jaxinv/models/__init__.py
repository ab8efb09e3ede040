"""Networks, and nothing but networks: always batched, stateless Flax NNX modules."""

from ._autoencoder import Autoencoder as Autoencoder
from ._likelihood import Bernoulli as Bernoulli, Gaussian as Gaussian
from ._unet import UNet as UNet
from ._vae import VAE as VAE
