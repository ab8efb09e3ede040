"""Variational autoencoders: the prior and its loss."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import as_parameter, check_key, check_one, check_shape, is_concrete
from .._networks import as_network, weights_dtype
from .._prior import AbstractGenerativePrior
from .._types import ArrayLike, Checked, Key, Network, PyTree, Scalar
from ..models import Gaussian


class VAEPrior(AbstractGenerativePrior):
    """The prior of a variational autoencoder: `x = G(z)` with `z` standard normal, energy `1/2 ||z||^2`.

    **Arguments:**

    - `model`: `models.VAE`, or any Flax or equinox network or object with the same batched calls,
        `encode(x) -> (mean, log_std)` and `decode(z) -> x`.
    - `latent_shape`: needed only where the model has no `latent_size`.

    **Raises:** `ValueError` if the shapes do not fit; its methods, for anything but one latent or one image.

    !!! cite "Reference"
        Bora, Jalal, Price, Dimakis, Compressed Sensing using Generative Models, 2017

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        model = jaxinv.models.VAE((28, 28, 1), 8, rngs=nnx.Rngs(0))
        prior = jaxinv.generative.VAEPrior(model)
        x = prior.decode(prior.sample_latent(key=jax.random.key(0)))  # (28, 28, 1)
        ```
    """

    model: PyTree
    latent_shape: tuple[int, ...] = eqx.field(static=True)
    image_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, model: Network, *, latent_shape: tuple[int, ...] | None = None):
        if latent_shape is None:
            size = getattr(model, "latent_size", None)
            if size is None:
                raise ValueError(
                    f"The model {type(model).__name__} does not say its `latent_size`; give `VAEPrior(model, "
                    "latent_shape=(k,))`."
                )
            latent_shape = (size,)
        self.latent_shape = check_shape(latent_shape, "latent_shape")
        self.model = as_network(model)
        self.image_shape = decoded_shape(self.model, self.latent_shape)

    def decode(self, z: ArrayLike) -> Array:
        """The mean image of `z`."""
        z = check_one(z, self.latent_shape, "a latent", "VAEPrior")
        return self.model.decode(z[None])[0]

    def energy(self, z: ArrayLike) -> Float[Array, ""]:
        """`1/2 ||z||^2`."""
        z = check_one(z, self.latent_shape, "a latent", "VAEPrior")
        return 0.5 * jnp.sum(z**2)

    def sample_latent(self, *, key: Key) -> Array:
        """A standard normal latent, in the dtype of the weights."""
        check_key(key)
        return jax.random.normal(key, self.latent_shape, weights_dtype(self.model))

    def encode(self, x: ArrayLike) -> Array:
        """The mean of `q(z | x)`."""
        x = check_one(x, self.image_shape, "an image", "VAEPrior")
        return _posterior(self.model, x[None])[0][0]


class VAELoss(eqx.Module):
    """The loss that `vae_loss` makes: `loss(model, batch, *, key)`, in nats per image."""

    beta: Array = eqx.field(converter=as_parameter)
    free_bits: Array = eqx.field(converter=as_parameter)

    def __check_init__(self):
        for name in ("beta", "free_bits"):
            value = getattr(self, name)
            if value.shape != ():
                raise ValueError(f"`{name}` must be a scalar; got shape {value.shape}.")
            if is_concrete(value) and not 0 <= float(value) < float("inf"):
                raise ValueError(f"`{name}` must be finite and not negative; got {float(value)}.")

    def __call__(self, model: Network, batch: Array, *, key: Key) -> Float[Array, ""]:
        mean, log_std = _posterior(model, batch)
        z = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)
        # KL(q(z|x) || N(0, I)) of each latent variable, the mean over the batch.
        divergence = 0.5 * jnp.mean(mean**2 + jnp.exp(2 * log_std) - 1 - 2 * log_std, axis=0)
        divergence = jnp.sum(jnp.maximum(divergence, self.free_bits.astype(mean.dtype)))
        return jnp.mean(_negative_log_likelihood(model, batch, z)) + self.beta.astype(mean.dtype) * divergence


def vae_loss(beta: Checked[Scalar] = 1.0, free_bits: Checked[Scalar] = 0.0) -> VAELoss:
    """The negative evidence lower bound, `E_q[-log p(x | z)] + beta KL(q(z | x) || N(0, I))`, in nats per image.

    It draws one `z` per image. `p(x | z)` is the `likelihood` of the model; for a model without one, but with the calls
    of `models.VAE`, it is `models.Gaussian()` around `decode(z)`.

    **Arguments:**

    - `beta`: the weight of the KL term. Raise it for latents nearer to the prior. It is an array leaf of the loss, so
        another value does not retrace.
    - `free_bits`: nats of KL that cost nothing, for each latent variable, in the mean over the batch. Raise it against
        latents that die in training.

    **Returns:** `loss(model, batch, *, key) -> scalar`, for `training.fit`; `batch` is `(n, h, w, c)`.

    **Raises:** `ValueError` if a number is negative or not finite.

    !!! cite "Reference"
        Kingma, Welling, Auto-Encoding Variational Bayes, 2014; Higgins et al., beta-VAE, 2017; Kingma et al., Improved
        Variational Inference with Inverse Autoregressive Flow, 2016 (free bits)

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        model = jaxinv.models.VAE((8, 8, 1), 4, rngs=nnx.Rngs(0))
        images = jax.random.uniform(jax.random.key(0), (64, 8, 8, 1))
        loss = jaxinv.generative.vae_loss(beta=0.5)
        model, history = jaxinv.training.fit(
            model, loss, images, key=jax.random.key(1), num_steps=20, batch_size=32
        )
        ```
    """
    return VAELoss(beta, free_bits)


def decoded_shape(model: PyTree, latent_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one image that the batched network `model` decodes."""
    batch = jax.ShapeDtypeStruct((1, *latent_shape), weights_dtype(model))
    images = eqx.filter_eval_shape(lambda network, z: network.decode(z), model, batch)
    if not isinstance(images, jax.ShapeDtypeStruct) or len(images.shape) < 2 or images.shape[0] != 1:
        raise ValueError(
            f"`decode` must map latents {batch.shape} to a batch of images (1, h, w, c); it gives {images}. Networks "
            "always take and return a batch axis."
        )
    return images.shape[1:]


def _posterior(model: Network, batch: Array) -> tuple[Array, Array]:
    moments = model.encode(batch)
    if not isinstance(moments, tuple | list) or len(moments) != 2:
        raise ValueError(
            f"`encode` of a VAE returns (mean, log_std); {type(model).__name__} returned {type(moments).__name__}. A "
            "model that encodes to one latent is an autoencoder: `generative.AutoencoderPrior`, `autoencoder_loss`."
        )
    return moments[0], moments[1]


def _negative_log_likelihood(model: Network, batch: Array, z: Array) -> Float[Array, " n"]:
    likelihood, logits = getattr(model, "likelihood", None), getattr(model, "decode_logits", None)
    if likelihood is None or logits is None:
        return jax.vmap(Gaussian().about)(batch, model.decode(z))
    return jax.vmap(likelihood.negative_log_likelihood)(batch, logits(z))
