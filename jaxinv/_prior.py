"""The interface that every generative prior shares."""

import abc

import equinox as eqx
from jaxtyping import Array

from ._module import Module
from ._types import Key


class AbstractGenerativePrior(Module):
    """A prior on images that is given by a latent density and a decoder, `x = G(z)` with `z ~ p`.

    The methods act on one latent and one image, never on a batch: map them with `jax.vmap`. A subclass has
    `latent_shape` and `image_shape`, tuples of integers that are static.
    """

    latent_shape: eqx.AbstractVar[tuple[int, ...]]
    image_shape: eqx.AbstractVar[tuple[int, ...]]

    @abc.abstractmethod
    def decode(self, z: Array) -> Array:
        """The image `G(z)`, of shape `image_shape`, for a latent `z` of shape `latent_shape`."""

    @abc.abstractmethod
    def energy(self, z: Array) -> Array:
        """`-log p(z)` up to a constant, a scalar."""

    @abc.abstractmethod
    def sample_latent(self, *, key: Key) -> Array:
        """A draw of `z`."""

    @abc.abstractmethod
    def encode(self, x: Array) -> Array:
        """A latent whose image is near `x`. A prior without an encoder raises a `ValueError`."""


def no_encoder(name: str) -> ValueError:
    """What a prior without an encoder raises."""
    return ValueError(
        f"{name} has no encoder. The priors that have one are PCAPrior, AutoencoderPrior, VAEPrior, FlowPrior and "
        "oracles.Gaussian.as_latent(); or start from the prior, `start=generative.FromPrior()`."
    )
