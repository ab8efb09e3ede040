"""Autoencoders: the prior, whose energy is a Gaussian fit to the latents of the training data, and its loss."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import check_floating, check_key, check_one, is_concrete
from .._networks import as_network
from .._prior import AbstractGenerativePrior
from .._types import ArrayLike, Key, Network, PyTree
from ..requirements import Requirement, finite
from ._vae import decoded_shape


class AutoencoderPrior(AbstractGenerativePrior):
    """The prior of an autoencoder: `x = G(z)`, with the energy `1/2 (z - m)^T C^-1 (z - m)`.

    An autoencoder does not say how its latents are distributed, so `m` and `C` are the mean and covariance of the
    latents of the training data.

    **Arguments:**

    - `model`: `models.Autoencoder`, or any Flax or equinox network or object with the same batched calls,
        `encode(x) -> z` and `decode(z) -> x`.
    - `latents`: `(n, k)`, `model.encode` of the training data, `n > k`.

    **Raises:** `ValueError` if there are too few latents for a covariance, or if they do not vary in all `k`
    directions; its methods, for anything but one latent or one image.

    !!! cite "Reference"
        Duff, Campbell, Ehrhardt, Regularising Inverse Problems with Generative Machine Learning Models, 2023

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        images = jax.random.uniform(jax.random.key(0), (64, 8, 8, 1))
        model = jaxinv.models.Autoencoder((8, 8, 1), 4, rngs=nnx.Rngs(0))
        prior = jaxinv.generative.AutoencoderPrior(model, model.encode(images))
        x = prior.decode(prior.encode(images[0]))  # (8, 8, 1)
        ```
    """

    model: PyTree
    mean: Float[Array, " k"]
    factor: Float[Array, "k k"]
    latent_shape: tuple[int, ...] = eqx.field(static=True)
    image_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, model: Network, latents: ArrayLike):
        latents = check_floating(jnp.asarray(latents), "`latents`", "AutoencoderPrior")
        if latents.ndim != 2:
            raise ValueError(
                f"`latents` must be the encoded training data, of shape (n, k); got {latents.shape}. Make them by "
                "`model.encode(data)`."
            )
        count, size = latents.shape
        if count <= size:
            raise ValueError(
                f"{count} latents of {size} dimensions do not determine a covariance; at least {size + 1} are needed, "
                f"better {10 * size}. Encode more of the training data."
            )
        self.model = as_network(model)
        self.mean = jnp.mean(latents, axis=0)
        # The QR factor of the latents is the Cholesky factor of their covariance, without squaring its condition.
        centred = (latents - self.mean[None]) / jnp.sqrt(count - 1).astype(latents.dtype)
        self.factor = jnp.linalg.qr(centred, mode="r").T
        pivots = jnp.abs(jnp.diagonal(self.factor))
        if is_concrete(pivots) and bool(jnp.min(pivots) <= size * jnp.finfo(pivots.dtype).eps * jnp.max(pivots)):
            raise ValueError(
                f"The {count} latents lie in fewer than {size} dimensions, so their covariance is singular (smallest "
                f"pivot {float(jnp.min(pivots)):.1e}, largest {float(jnp.max(pivots)):.1e}). Train the autoencoder "
                "longer, or with fewer latents."
            )
        self.latent_shape = (size,)
        self.image_shape = decoded_shape(self.model, self.latent_shape)

    def requirements(self) -> tuple[Requirement, ...]:
        return (
            finite("latents", self.factor, "`latents` must be finite; has the training of the autoencoder diverged?"),
        )

    def decode(self, z: ArrayLike) -> Array:
        """The image of `z`."""
        z = check_one(z, self.latent_shape, "a latent", "AutoencoderPrior")
        return self.model.decode(z[None])[0]

    def energy(self, z: ArrayLike) -> Float[Array, ""]:
        """`1/2 (z - m)^T C^-1 (z - m)`."""
        z = check_one(z, self.latent_shape, "a latent", "AutoencoderPrior")
        whitened = jax.scipy.linalg.solve_triangular(self.factor, z - self.mean, lower=True)
        return 0.5 * jnp.sum(whitened**2)

    def sample_latent(self, *, key: Key) -> Array:
        """A draw from the Gaussian `N(m, C)`."""
        check_key(key)
        noise = jax.random.normal(key, self.latent_shape, self.mean.dtype)
        return self.mean + jnp.matmul(self.factor, noise, precision=jax.lax.Precision.HIGHEST)

    def encode(self, x: ArrayLike) -> Array:
        """The latent of `x`."""
        x = check_one(x, self.image_shape, "an image", "AutoencoderPrior")
        return self.model.encode(x[None])[0]


def autoencoder_loss(model: Network, batch: Array, *, key: Key) -> Float[Array, ""]:
    """The squared error of decoding what was encoded, `||G(E(x)) - x||^2`, the mean over the batch.

    **Arguments:**

    - `model`: a network with `encode` and `decode`.
    - `batch`: images `(n, h, w, c)`.
    - `key`: not used; every loss of `training.fit` takes it.

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        model = jaxinv.models.Autoencoder((8, 8, 1), 4, rngs=nnx.Rngs(0))
        images = jax.random.uniform(jax.random.key(0), (64, 8, 8, 1))
        model, history = jaxinv.training.fit(
            model, jaxinv.generative.autoencoder_loss, images, key=jax.random.key(1), num_steps=20, batch_size=32
        )
        ```
    """
    del key
    return jnp.sum((model.decode(model.encode(batch)) - batch) ** 2) / batch.shape[0]
