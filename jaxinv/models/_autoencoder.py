"""A dense autoencoder."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from ._mlp import MLP
from ._network import check_batch, check_sizes


class Autoencoder(nnx.Module):
    """An encoder and a decoder of dense layers; decoded images are in `[0, 1]`.

    With the default widths and 8 latents it has 1.07 M weights at 28 x 28 pixels.

    **Arguments:**

    - `image_shape`: `(h, w, c)`.
    - `latent_size`: `k`, the number of latent variables.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `widths`: of the hidden layers of the encoder; the decoder has them in reverse.
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
        widths: Sequence[int] = (512, 256),
        activation: Callable[[Array], Array] = jax.nn.silu,
    ):
        self.image_shape, self.latent_size, widths = check_sizes(image_shape, latent_size, widths, rngs)
        pixels = math.prod(self.image_shape)
        self.encoder = MLP((pixels, *widths, latent_size), activation=activation, rngs=rngs)
        self.decoder = MLP((latent_size, *widths[::-1], pixels), activation=activation, rngs=rngs)

    def encode(self, x: Any) -> Float[Array, "n k"]:
        """The latents of images `x` of shape `(n, h, w, c)`."""
        x = check_batch(x, self.image_shape, "images", "Autoencoder")
        return self.encoder(x.reshape(x.shape[0], -1))

    def decode(self, z: Any) -> Float[Array, "n h w c"]:
        """The images, in `[0, 1]`, of latents `z` of shape `(n, k)`."""
        z = check_batch(z, (self.latent_size,), "latents", "Autoencoder")
        return jax.nn.sigmoid(self.decoder(z)).reshape(-1, *self.image_shape)
