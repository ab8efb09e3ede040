"""Autoencoders."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from ._network import check_batch, check_sizes
from ._trunks import check_trunk


class Autoencoder(nnx.Module):
    """An encoder and a decoder; decoded images are in `[0, 1]`.

    With 8 latents and at 28 x 28 pixels it has 1.07 M weights by default, and 54 000 with `Convolutional()`.

    **Arguments:**

    - `image_shape`: `(h, w, c)`.
    - `latent_size`: `k`, the number of latent variables.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `trunk`: `Dense(widths)`, the default, or `Convolutional(channels)`.
    - `widths`: of the hidden layers of the encoder; the decoder has them in reverse. Short for `trunk=Dense(widths)`.
    - `activation`: between the layers. The default is smooth, so a decoded image has second derivatives in `z`.

    **Raises:** `ValueError` for sizes that are not positive integers; its calls, for anything but a batch.

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
        image_shape: Any,
        latent_size: Any,
        *,
        rngs: Any,
        trunk: Any = None,
        widths: Any = None,
        activation: Callable[[Array], Array] = jax.nn.silu,
    ):
        self.image_shape, self.latent_size, _ = check_sizes(image_shape, latent_size, (1,), rngs)
        trunk = check_trunk(trunk, widths)
        self.encoder = trunk.encoder(self.image_shape, latent_size, activation=activation, rngs=rngs)
        self.decoder = trunk.decoder(latent_size, self.image_shape, activation=activation, rngs=rngs)

    def encode(self, x: Any) -> Float[Array, "n k"]:
        """The latents of images `x` of shape `(n, h, w, c)`."""
        return self.encoder(check_batch(x, self.image_shape, "images", "Autoencoder"))

    def decode(self, z: Any) -> Float[Array, "n h w c"]:
        """The images, in `[0, 1]`, of latents `z` of shape `(n, k)`."""
        z = check_batch(z, (self.latent_size,), "latents", "Autoencoder")
        return jax.nn.sigmoid(self.decoder(z)).reshape(-1, *self.image_shape)
