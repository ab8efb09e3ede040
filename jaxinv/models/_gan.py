"""The generator and the critic of a GAN, which `training.fit_adversarial` trains."""

from collections.abc import Callable, Sequence

import jax
from flax import nnx
from jaxtyping import Array, Float

from .._arrays import check_count
from .._networks import check_batch, check_network_shape
from .._types import ArrayLike, Checked, IntLike
from ._trunks import AbstractTrunk, check_trunk


class Generator(nnx.Module):
    """A generator, `generator(z) -> x`: images in `[0, 1]` from latents.

    With 8 latents and at 28 x 28 pixels it has .54 M weights by default, and 33 000 with `Convolutional()`. It has no
    statistics over the batch or between calls.

    **Arguments:**

    - `image_shape`: the shape of an image, `(h, w, c)`.
    - `latent_size`: `k`, the number of latent variables.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `trunk`: `Dense(widths)`, the default, or `Convolutional(channels)`.
    - `widths`: the widths of the hidden layers, in the order of the encoder of an autoencoder, from the image to the
        latents; a short form of `trunk=Dense(widths)`.
    - `activation`: the function between the layers. The default is smooth, so an image has second derivatives in `z`.

    **Raises:** `ValueError` for sizes that are not positive integers; its call, for anything but a batch.

    !!! cite "Reference"
        Goodfellow et al., Generative Adversarial Nets, 2014

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        generator = jaxinv.models.Generator((28, 28, 1), 8, rngs=nnx.Rngs(0))
        x = generator(jax.random.normal(jax.random.key(0), (5, 8)))  # (5, 28, 28, 1)
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
        self.network = trunk.decoder(latent_size, self.image_shape, activation=activation, rngs=rngs)

    def __call__(self, z: ArrayLike) -> Float[Array, "n h w c"]:
        """The images, in `[0, 1]`, of latents `z` of shape `(n, k)`."""
        z = check_batch(z, (self.latent_size,), "latents", "Generator")
        return jax.nn.sigmoid(self.network(z)).reshape(z.shape[0], *self.image_shape)


def _leaky(x: Array) -> Array:
    return jax.nn.leaky_relu(x, 0.2)


class Critic(nnx.Module):
    """A critic, or discriminator, `critic(x) -> (n,)`: the logit of each image being one of the data.

    At 28 x 28 pixels it has .53 M weights by default, and 10 000 with `Convolutional()`. It has no statistics over the
    batch, so an image's logit depends on that image alone, as gradient penalties require.

    **Arguments:**

    - `image_shape`: the shape of an image, `(h, w, c)`.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `trunk`: `Dense(widths)`, the default, or `Convolutional(channels)`.
    - `widths`: the widths of the hidden layers; a short form of `trunk=Dense(widths)`.
    - `activation`: the function between the layers, by default leaky ReLU of slope .2.

    **Raises:** `ValueError` for sizes that are not positive integers; its call, for anything but a batch.

    !!! cite "Reference"
        Goodfellow et al., Generative Adversarial Nets, 2014

    !!! example
        ```python
        import jax.numpy as jnp
        from flax import nnx
        import jaxinv
        critic = jaxinv.models.Critic((28, 28, 1), rngs=nnx.Rngs(0))
        logits = critic(jnp.ones((5, 28, 28, 1)))  # (5,)
        ```
    """

    def __init__(
        self,
        image_shape: Checked[Sequence[int]],
        *,
        rngs: Checked[nnx.Rngs],
        trunk: Checked[AbstractTrunk | None] = None,
        widths: Checked[Sequence[int] | None] = None,
        activation: Callable[[Array], Array] = _leaky,
    ):
        self.image_shape = check_network_shape(image_shape, rngs)
        self.network = check_trunk(trunk, widths).encoder(self.image_shape, 1, activation=activation, rngs=rngs)

    def __call__(self, x: ArrayLike) -> Float[Array, " n"]:
        """The logits of images `x` of shape `(n, h, w, c)`."""
        return self.network(check_batch(x, self.image_shape, "images", "Critic"))[:, 0]
