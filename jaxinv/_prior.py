"""The abstract class of generative priors, which `generative`, `diffusion` and `oracles` implement."""

import abc
from typing import TYPE_CHECKING

import equinox as eqx
from jaxtyping import Array

from ._module import Module
from ._types import Abstract, Key


class AbstractGenerativePrior(Module):
    """A prior on images that is given by a latent density and a decoder, `x = G(z)` with `z ~ p`.

    The methods act on one latent and one image, never on a batch: map them with `jax.vmap`. To define a prior,
    implement these members; every verb of `jaxinv.generative` accepts it.

    - `latent_shape`, `image_shape`: the shapes of one latent and one image, static.
    """

    if TYPE_CHECKING:
        latent_shape = Abstract[tuple[int, ...]]()
        image_shape = Abstract[tuple[int, ...]]()
    else:
        latent_shape: eqx.AbstractVar[tuple[int, ...]]
        image_shape: eqx.AbstractVar[tuple[int, ...]]

    @abc.abstractmethod
    def decode(self, z: Array) -> Array:
        """The image `G(z)`.

        **Arguments:**

        - `z`: one latent, of shape `latent_shape`.

        **Returns:** one image, of shape `image_shape` and a real floating dtype.
        """

    @abc.abstractmethod
    def energy(self, z: Array) -> Array:
        """The energy `-log p(z)`, up to a constant.

        **Arguments:**

        - `z`: one latent, of shape `latent_shape`.

        **Returns:** a real scalar.
        """

    @abc.abstractmethod
    def sample_latent(self, *, key: Key) -> Array:
        """Draw a latent `z` from `p`.

        **Arguments:**

        - `key`: a typed key.

        **Returns:** one latent, of shape `latent_shape`.
        """

    @abc.abstractmethod
    def encode(self, x: Array) -> Array:
        """A latent whose image is near `x`.

        **Arguments:**

        - `x`: one image, of shape `image_shape`.

        **Returns:** one latent, of shape `latent_shape`.

        **Raises:** `ValueError` if the prior has no encoder.
        """


def check_prior(prior: object) -> AbstractGenerativePrior:
    """Return `prior`, or raise unless it is a generative prior."""
    if not isinstance(prior, AbstractGenerativePrior):
        raise ValueError(
            f"`prior` must be a generative prior, such as `VAEPrior(model)` or `FunctionPrior(decode, energy, shape)`; "
            f"got {type(prior).__name__}."
        )
    return prior


def no_encoder(name: str) -> ValueError:
    """The error of a prior without an encoder."""
    return ValueError(
        f"{name} has no encoder. The priors that have one are PCAPrior, AutoencoderPrior, VAEPrior, FlowPrior and "
        "oracles.Gaussian.as_latent(); or start from the prior, `start=generative.FromPrior()`."
    )
