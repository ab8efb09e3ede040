"""The generator and the critic of a GAN."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from .._arrays import check_shape
from .._types import ArrayLike, Checked, IntLike
from ._network import check_batch, check_sizes
from ._trunks import AbstractTrunk, check_trunk


class Generator(nnx.Module):
    """A generator, `generator(z) -> x`: images in `[0, 1]` from latents.

    With 8 latents and at 28 x 28 pixels it has .54 M weights by default, and 33 000 with `Convolutional()`. No
    statistic is taken over the batch, and none is kept.

    **Arguments:**

    - `image_shape`: `(h, w, c)`.
    - `latent_size`: `k`, the number of latent variables.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `trunk`: `Dense(widths)`, the default, or `Convolutional(channels)`.
    - `widths`: of the hidden layers, from the image to the latents, as the encoder of an autoencoder has them. Short
        for `trunk=Dense(widths)`.
    - `activation`: between the layers. The default is smooth, so an image has second derivatives in `z`.

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
        self.image_shape, self.latent_size, _ = check_sizes(image_shape, latent_size, (1,), rngs)
        trunk = check_trunk(trunk, widths)
        self.network = trunk.decoder(latent_size, self.image_shape, activation=activation, rngs=rngs)

    def __call__(self, z: ArrayLike) -> Float[Array, "n h w c"]:
        """The images, in `[0, 1]`, of latents `z` of shape `(n, k)`."""
        z = check_batch(z, (self.latent_size,), "latents", "Generator")
        return jax.nn.sigmoid(self.network(z)).reshape(z.shape[0], *self.image_shape)


def latent_shape_of(generator: Any, latent_shape: Checked[Sequence[int] | None], call: str) -> tuple[int, ...]:
    """The shape of one latent: as given, or as the generator tells it by its `latent_size`.

    - `call`: how to give it, for the message.
    """
    if latent_shape is None:
        size = getattr(generator, "latent_size", None)
        if size is None:
            raise ValueError(f"The generator {type(generator).__name__} does not say its `latent_size`; give `{call}`.")
        latent_shape = (size,)
    return check_shape(latent_shape, "latent_shape")


def _leaky(x: Array) -> Array:
    return jax.nn.leaky_relu(x, 0.2)


class Critic(nnx.Module):
    """A critic, or discriminator, `critic(x) -> (n,)`: the logit of each image being one of the data.

    At 28 x 28 pixels it has .53 M weights by default, and 10 000 with `Convolutional()`. No statistic is taken over
    the batch, so the gradient of one image's logit is that image's alone, which gradient penalties rest on.

    **Arguments:**

    - `image_shape`: `(h, w, c)`.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `trunk`: `Dense(widths)`, the default, or `Convolutional(channels)`.
    - `widths`: of the hidden layers. Short for `trunk=Dense(widths)`.
    - `activation`: between the layers. Default: leaky ReLU of slope .2.

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
        self.image_shape, _, _ = check_sizes(image_shape, 1, (1,), rngs)
        self.network = check_trunk(trunk, widths).encoder(self.image_shape, 1, activation=activation, rngs=rngs)

    def __call__(self, x: ArrayLike) -> Float[Array, " n"]:
        """The logits of images `x` of shape `(n, h, w, c)`."""
        return self.network(check_batch(x, self.image_shape, "images", "Critic"))[:, 0]
