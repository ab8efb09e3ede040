"""Generative adversarial networks: the prior and the losses."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import as_parameter, check_key, check_one, is_concrete
from .._networks import as_network, latent_shape_of, weights_dtype
from .._prior import AbstractGenerativePrior, no_encoder
from .._types import ArrayLike, Checked, Key, Network, PyTree, Scalar


class GANPrior(AbstractGenerativePrior):
    """The prior of a generator: `x = G(z)` with `z` standard normal, energy `1/2 ||z||^2`. It has no encoder.

    **Arguments:**

    - `generator`: `models.Generator`, or any Flax or equinox network or function with the same batched call,
        `generator(z) -> x`.
    - `latent_shape`: needed only where the generator has no `latent_size`.

    **Raises:** `ValueError` if the shapes do not fit; its methods, for anything but one latent, and `encode` always.

    !!! cite "Reference"
        Goodfellow et al., Generative Adversarial Nets, 2014; Bora, Jalal, Price, Dimakis, Compressed Sensing using
        Generative Models, 2017

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        generator = jaxinv.models.Generator((28, 28, 1), 8, rngs=nnx.Rngs(0))
        prior = jaxinv.generative.GANPrior(generator)
        x = prior.decode(prior.sample_latent(key=jax.random.key(0)))  # (28, 28, 1)
        ```
    """

    generator: PyTree
    latent_shape: tuple[int, ...] = eqx.field(static=True)
    image_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, generator: Network, latent_shape: Checked[tuple[int, ...] | None] = None):
        if not callable(generator):
            advice = " Its decoder alone is one: `GANPrior(model.decode, latent_shape)`."
            raise ValueError(
                f"GANPrior takes a generator, which is called as `generator(z)`; {type(generator).__name__} cannot be "
                f"called.{advice if hasattr(generator, 'decode') else ''}"
            )
        self.latent_shape = latent_shape_of(generator, latent_shape, "GANPrior(generator, latent_shape=(k,))")
        self.generator = as_network(generator)
        batch = jax.ShapeDtypeStruct((1, *self.latent_shape), weights_dtype(self.generator))
        images = eqx.filter_eval_shape(lambda network, z: network(z), self.generator, batch)
        if not isinstance(images, jax.ShapeDtypeStruct) or len(images.shape) < 2 or images.shape[0] != 1:
            raise ValueError(
                f"A generator must map latents {batch.shape} to a batch of images (1, h, w, c); this one gives "
                f"{images}. Networks always take and return a batch axis."
            )
        self.image_shape = images.shape[1:]

    def decode(self, z: ArrayLike) -> Array:
        """The image of `z`."""
        z = check_one(z, self.latent_shape, "a latent", "GANPrior")
        return self.generator(z[None])[0]

    def energy(self, z: ArrayLike) -> Float[Array, ""]:
        """`1/2 ||z||^2`."""
        z = check_one(z, self.latent_shape, "a latent", "GANPrior")
        return 0.5 * jnp.sum(z**2)

    def sample_latent(self, *, key: Key) -> Array:
        """A standard normal latent, in the dtype of the weights."""
        check_key(key)
        return jax.random.normal(key, self.latent_shape, weights_dtype(self.generator))

    def encode(self, x: ArrayLike) -> Array:
        """Raises: there is no encoder."""
        del x
        raise no_encoder("GANPrior")


class MinimaxLoss(eqx.Module):
    """The loss that `minimax_loss` makes."""

    def __call__(
        self, generator: Network, critic: Network, images: Array, latents: Array, *, key: Key
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        del key
        real, fake = logits(critic, images), logits(critic, generator(latents))
        return -jnp.mean(jax.nn.softplus(fake)), _cross_entropy(real, fake)


class NonsaturatingLoss(eqx.Module):
    """The loss that `nonsaturating_loss` makes."""

    penalty: Array | None = eqx.field(converter=lambda p: None if p is None else as_parameter(p))

    def __check_init__(self):
        if self.penalty is not None:
            _check_penalty(self.penalty)

    def __call__(
        self, generator: Network, critic: Network, images: Array, latents: Array, *, key: Key
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        del key
        real, fake = logits(critic, images), logits(critic, generator(latents))
        critic_loss = _cross_entropy(real, fake)
        if self.penalty is not None:
            critic_loss += 0.5 * self.penalty.astype(real.dtype) * jnp.mean(_squared_slopes(critic, images))
        return jnp.mean(jax.nn.softplus(-fake)), critic_loss


class WassersteinLoss(eqx.Module):
    """The loss that `wasserstein_loss` makes."""

    penalty: Array = eqx.field(converter=as_parameter)

    def __check_init__(self):
        _check_penalty(self.penalty)

    def __call__(
        self, generator: Network, critic: Network, images: Array, latents: Array, *, key: Key
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        fakes = generator(latents)
        real, fake = logits(critic, images), logits(critic, fakes)
        share = jax.random.uniform(key, (images.shape[0],) + (1,) * (images.ndim - 1), images.dtype)
        squares = _squared_slopes(critic, share * images + (1 - share) * fakes)
        # The root has no derivative at zero, the slope of a constant critic.
        rising = squares > 0
        slopes = jnp.where(rising, jnp.sqrt(jnp.where(rising, squares, 1)), 0)
        penalty = self.penalty.astype(real.dtype) * jnp.mean((slopes - 1) ** 2)
        return -jnp.mean(fake), jnp.mean(fake) - jnp.mean(real) + penalty


def minimax_loss() -> MinimaxLoss:
    """The game `min_G max_D E log D(x) + E log(1 - D(G(z)))` with `D = sigmoid(critic)`.

    With the best critic its value is `2 JS(data, generated) - 2 log 2`, with the Jensen-Shannon divergence. Where the
    critic is certain, the gradient of the generator vanishes; `nonsaturating_loss` avoids that.

    **Returns:** `loss(generator, critic, images, latents, *, key) -> (loss of the generator, loss of the critic)`, for
    `training.fit_adversarial`, which takes `minimax_loss` itself as well.

    !!! cite "Reference"
        Goodfellow et al., Generative Adversarial Nets, 2014

    !!! example
        ```python
        import jax
        from flax import nnx
        from jaxinv import generative, models, training
        images = jax.random.uniform(jax.random.key(0), (64, 8, 8, 1))
        generator = models.Generator((8, 8, 1), 4, widths=(16,), rngs=nnx.Rngs(0))
        critic = models.Critic((8, 8, 1), widths=(16,), rngs=nnx.Rngs(1))
        (generator, critic), history = training.fit_adversarial(
            generator, critic, generative.minimax_loss(), images, key=jax.random.key(1), num_steps=10, batch_size=32
        )
        ```
    """
    return MinimaxLoss()


def nonsaturating_loss(penalty: Checked[Scalar | None] = None) -> NonsaturatingLoss:
    """The game whose generator minimises `-E log D(G(z))`, `D = sigmoid(critic)`, with a critic that may not be steep.

    The critic minimises `-E log D(x) - E log(1 - D(G(z))) + penalty / 2 E ||grad critic(x)||^2`, with `x` from the
    data: the penalty R1, with which the game converges near its solution.

    **Arguments:**

    - `penalty`: the weight of R1, called gamma; `None` leaves the term out. An array leaf of the loss: another value
        does not retrace.

    **Returns:** `loss(generator, critic, images, latents, *, key) -> (loss of the generator, loss of the critic)`, for
    `training.fit_adversarial`, which takes `nonsaturating_loss` itself as well.

    **Raises:** `ValueError` if the penalty is negative or not finite.

    !!! cite "Reference"
        Goodfellow et al., Generative Adversarial Nets, 2014; Mescheder, Geiger, Nowozin, Which Training Methods for
        GANs do actually Converge?, 2018 (R1)

    !!! example
        ```python
        import jax
        from flax import nnx
        from jaxinv import generative, models, training
        images = jax.random.uniform(jax.random.key(0), (64, 8, 8, 1))
        generator = models.Generator((8, 8, 1), 4, widths=(16,), rngs=nnx.Rngs(0))
        critic = models.Critic((8, 8, 1), widths=(16,), rngs=nnx.Rngs(1))
        loss = generative.nonsaturating_loss(penalty=1.0)
        (generator, critic), history = training.fit_adversarial(
            generator, critic, loss, images, key=jax.random.key(1), num_steps=10, batch_size=32
        )
        ```
    """
    return NonsaturatingLoss(penalty)


def wasserstein_loss(penalty: Checked[Scalar] = 10.0) -> WassersteinLoss:
    """The Wasserstein game with gradient penalty: `min_G max_D E D(x) - E D(G(z)) - penalty E (||grad D(x')|| - 1)^2`.

    `D` is the critic itself, and `x'` is drawn uniformly between an image of the data and a generated one. The norm is
    over all rows, columns and channels of an image. It needs several steps of the critic for one of the generator,
    `critic_steps=5`.

    **Arguments:**

    - `penalty`: an array leaf of the loss: another value does not retrace.

    **Returns:** `loss(generator, critic, images, latents, *, key) -> (loss of the generator, loss of the critic)`, for
    `training.fit_adversarial`, which takes `wasserstein_loss` itself as well.

    **Raises:** `ValueError` if the penalty is negative or not finite.

    !!! cite "Reference"
        Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, Improved Training of Wasserstein GANs, 2017

    !!! example
        ```python
        import jax
        from flax import nnx
        from jaxinv import generative, models, training
        images = jax.random.uniform(jax.random.key(0), (64, 8, 8, 1))
        generator = models.Generator((8, 8, 1), 4, widths=(16,), rngs=nnx.Rngs(0))
        critic = models.Critic((8, 8, 1), widths=(16,), rngs=nnx.Rngs(1))
        loss = generative.wasserstein_loss(penalty=10.0)
        (generator, critic), history = training.fit_adversarial(
            generator, critic, loss, images, key=jax.random.key(1), critic_steps=5, num_steps=5, batch_size=32
        )
        ```
    """
    return WassersteinLoss(penalty)


def logits(critic: Network, images: Array) -> Float[Array, " n"]:
    """The logits of a batch, one for each image."""
    values = jnp.asarray(critic(images))
    if values.shape != images.shape[:1]:
        raise ValueError(
            f"A critic must give one logit for each image, shape {images.shape[:1]}; this one gives {values.shape} for "
            f"images of shape {images.shape}. Drop axes of length 1: `critic(x)[:, 0]`."
        )
    return values


def _cross_entropy(real: Float[Array, " n"], fake: Float[Array, " n"]) -> Float[Array, ""]:
    # -log sigmoid(v) = softplus(-v), without overflow.
    return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake))


def _squared_slopes(critic: Network, images: Array) -> Float[Array, " n"]:
    # No logit depends on another image, so the gradient of the sum holds the gradient of each logit.
    gradient = jax.grad(lambda x: jnp.sum(logits(critic, x)))(images)
    return jnp.sum(gradient**2, axis=tuple(range(1, images.ndim)))


def _check_penalty(penalty: Array) -> None:
    if penalty.shape != ():
        raise ValueError(f"`penalty` must be a scalar; got shape {penalty.shape}.")
    if is_concrete(penalty) and not 0 <= float(penalty) < float("inf"):
        raise ValueError(f"`penalty` must be finite and not negative; got {float(penalty)}.")
