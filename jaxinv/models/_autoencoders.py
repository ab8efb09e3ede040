"""Autoencoders, plain and variational, and the laws of the pixels of the latter; `generative` trains them."""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .._arrays import check_count
from .._networks import check_batch, check_network_shape
from .._types import ArrayLike, Checked, IntLike
from ._trunks import AbstractTrunk, check_trunk


class Autoencoder(nnx.Module):
    """An encoder and a decoder; decoded images are in `[0, 1]`.

    With 8 latents and at 28 x 28 pixels it has 1.07 M weights by default, and 54 000 with `Convolutional()`.

    **Arguments:**

    - `image_shape`: the shape of an image, `(h, w, c)`.
    - `latent_size`: `k`, the number of latent variables.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `trunk`: `Dense(widths)`, the default, or `Convolutional(channels)`.
    - `widths`: the widths of the hidden layers of the encoder, which the decoder has in reverse; a short form of
      `trunk=Dense(widths)`.
    - `activation`: the function between the layers. The default is smooth, so a decoded image has second derivatives
      in `z`.

    **Raises:** `ValueError` for sizes that are not positive integers; its methods, for anything but a batch.

    !!! cite "Reference"
        Hinton, Salakhutdinov, Reducing the dimensionality of data with neural networks, 2006

    !!! example
        ```python
        import jax.numpy as jnp
        from flax import nnx
        import jaxinv
        model = jaxinv.models.Autoencoder((28, 28, 1), 8, rngs=nnx.Rngs(0))
        z = model.encode(jnp.ones((5, 28, 28, 1)))  # (5, 8)
        x = model.decode(z)  # (5, 28, 28, 1)
        ```
    """

    def __init__(
        self,
        image_shape: Checked[Sequence[int]],
        latent_size: IntLike,
        *,
        rngs: Checked[nnx.Rngs],
        trunk: Checked[AbstractTrunk | None] = None,
        widths: Checked[Sequence[int] | None] = None,
        activation: Callable[[Array], Array] = jax.nn.silu,
    ):
        self.image_shape = check_network_shape(image_shape, rngs)
        self.latent_size = check_count(latent_size, "latent_size")
        trunk = check_trunk(trunk, widths)
        self.encoder = trunk.encoder(self.image_shape, latent_size, activation=activation, rngs=rngs)
        self.decoder = trunk.decoder(latent_size, self.image_shape, activation=activation, rngs=rngs)

    def encode(self, x: ArrayLike) -> Float[Array, "n k"]:
        """The latents of images `x` of shape `(n, h, w, c)`."""
        return self.encoder(check_batch(x, self.image_shape, "images", "Autoencoder"))

    def decode(self, z: ArrayLike) -> Float[Array, "n h w c"]:
        """The images, in `[0, 1]`, of latents `z` of shape `(n, k)`."""
        z = check_batch(z, (self.latent_size,), "latents", "Autoencoder")
        return jax.nn.sigmoid(self.decoder(z)).reshape(-1, *self.image_shape)


class Gaussian(eqx.Module):
    """Pixels are Gaussian around `sigmoid(logits)`, with one standard deviation.

    With weight 1 on the KL term this is the loss `sum (x - xhat)^2 + 2 std^2 KL`, up to a factor and a constant; the
    default `std` makes it `sum (x - xhat)^2 + .05 KL`.

    **Arguments:**

    - `std`: the standard deviation, in the unit of the pixels. It is static, and so not trained.

    **Raises:** `ValueError` if `std` is not a positive number.
    """

    std: Checked[float] = eqx.field(default=math.sqrt(0.025), static=True)

    def __check_init__(self):
        if not isinstance(self.std, numbers.Real) or not 0 < float(self.std) < math.inf:
            raise ValueError(f"`std` must be a positive Python number (it is static); got {self.std!r}.")

    def mean(self, logits: Float[Array, "*image"]) -> Float[Array, "*image"]:
        """The mean image."""
        return jax.nn.sigmoid(logits)

    def negative_log_likelihood(self, x: Float[Array, "*image"], logits: Float[Array, "*image"]) -> Float[Array, ""]:
        """`-log p(x | logits)` of one image, in nats, constants included."""
        return self.about(x, self.mean(logits))

    def about(self, x: Float[Array, "*image"], mean: Float[Array, "*image"]) -> Float[Array, ""]:
        """`-log p(x)` of one image around a given mean image, in nats, constants included."""
        constant = x.size * (math.log(self.std) + 0.5 * math.log(2 * math.pi))
        return 0.5 * jnp.sum((x - mean) ** 2) / self.std**2 + constant


class Bernoulli(eqx.Module):
    """Pixels are Bernoulli with probability `sigmoid(logits)`; for grey values in `[0, 1]`, the cross-entropy.

    Choose it where faint structure counts, since an error near 0 or 1 costs more than one near 1/2.
    """

    def mean(self, logits: Float[Array, "*image"]) -> Float[Array, "*image"]:
        """The mean image."""
        return jax.nn.sigmoid(logits)

    def negative_log_likelihood(self, x: Float[Array, "*image"], logits: Float[Array, "*image"]) -> Float[Array, ""]:
        """`-log p(x | logits)` of one image, in nats; no overflow for any logits."""
        return jnp.sum(jax.nn.softplus(logits) - x * logits)


class VAE(nnx.Module):
    """A variational autoencoder; decoded images are in `[0, 1]`.

    With 8 latents and at 28 x 28 pixels it has 1.07 M weights by default, and 67 000 with `Convolutional()`.

    **Arguments:**

    - `image_shape`: the shape of an image, `(h, w, c)`.
    - `latent_size`: `k`, the number of latent variables; their prior is standard normal.
    - `likelihood`: `Gaussian(std)` or `Bernoulli()`, the distribution of the pixels around the decoded image.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `trunk`: `Dense(widths)`, the default, or `Convolutional(channels)`.
    - `widths`: the widths of the hidden layers of the encoder, which the decoder has in reverse; a short form of
      `trunk=Dense(widths)`.
    - `activation`: the function between the layers. The default is smooth, so a decoded image has second derivatives
      in `z`.

    **Raises:** `ValueError` for sizes that are not positive integers; its methods, for anything but a batch.

    !!! cite "Reference"
        Kingma, Welling, Auto-Encoding Variational Bayes, 2014

    !!! example
        ```python
        import jax.numpy as jnp
        from flax import nnx
        import jaxinv
        model = jaxinv.models.VAE((28, 28, 1), 8, rngs=nnx.Rngs(0))
        mean, log_std = model.encode(jnp.ones((5, 28, 28, 1)))  # (5, 8) each
        x = model.decode(mean)  # (5, 28, 28, 1)
        ```
    """

    def __init__(
        self,
        image_shape: Checked[Sequence[int]],
        latent_size: IntLike,
        *,
        likelihood: Checked[Gaussian | Bernoulli | None] = None,
        rngs: Checked[nnx.Rngs],
        trunk: Checked[AbstractTrunk | None] = None,
        widths: Checked[Sequence[int] | None] = None,
        activation: Callable[[Array], Array] = jax.nn.silu,
    ):
        self.image_shape = check_network_shape(image_shape, rngs)
        self.latent_size = check_count(latent_size, "latent_size")
        self.likelihood = _check_likelihood(Gaussian() if likelihood is None else likelihood)
        trunk = check_trunk(trunk, widths)
        self.encoder = trunk.encoder(self.image_shape, 2 * latent_size, activation=activation, rngs=rngs)
        self.decoder = trunk.decoder(latent_size, self.image_shape, activation=activation, rngs=rngs)

    def encode(self, x: ArrayLike) -> tuple[Float[Array, "n k"], Float[Array, "n k"]]:
        """The mean and the logarithm of the standard deviation of `q(z | x)`, for images of shape `(n, h, w, c)`."""
        x = check_batch(x, self.image_shape, "images", "VAE")
        mean, log_std = jnp.split(self.encoder(x), 2, axis=-1)
        return mean, log_std

    def decode(self, z: ArrayLike) -> Float[Array, "n h w c"]:
        """The mean images, in `[0, 1]`, of latents `z` of shape `(n, k)`."""
        return self.likelihood.mean(self.decode_logits(z))

    def decode_logits(self, z: ArrayLike) -> Float[Array, "n h w c"]:
        """The decoded images before the sigmoid, as the methods of `likelihood` expect them."""
        z = check_batch(z, (self.latent_size,), "latents", "VAE")
        return self.decoder(z).reshape(-1, *self.image_shape)


def _check_likelihood(likelihood: Any) -> Any:
    if not hasattr(likelihood, "mean") or not hasattr(likelihood, "negative_log_likelihood"):
        raise ValueError(
            f"`likelihood` must be `models.Gaussian(std)` or `models.Bernoulli()`; got {likelihood!r}. One of your own "
            "has their methods `mean` and `negative_log_likelihood`."
        )
    return likelihood
