"""Normalising flows: the prior and its loss."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import check_key, check_one, check_shape
from .._networks import LinenNetwork, PyTreeNetwork, as_network, weights_dtype
from .._prior import AbstractGenerativePrior
from .._types import ArrayLike, Key, Network, PyTree

_LOG_TWO_PI = math.log(2 * math.pi)


class FlowPrior(AbstractGenerativePrior):
    """The prior of a normalising flow: `x = G(z)` with `z` standard normal, energy `1/2 ||z||^2`.

    Every image has exactly one latent, so a reconstruction is not restricted to a range. The energy is that of the
    latent. The density of the image itself, `log_prob`, includes the volume term, so that its maximum is another image.

    **Arguments:**

    - `flow`: `models.Flow`, or any Flax or equinox network or object with the same batched calls,
        `forward(x) -> (z, log_det)` and `inverse(z) -> x`.
    - `image_shape`: needed only where the flow has no `image_shape`.

    **Raises:** `ValueError` if the shapes do not fit; its methods, for anything but one latent or one image.

    !!! cite "Reference"
        Dinh, Sohl-Dickstein, Bengio, Density estimation using Real NVP, 2017; Asim, Daniels, Leong, Ahmed, Hand,
        Invertible generative models for inverse problems, 2020

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        flow = jaxinv.models.Flow((8, 8, 1), rngs=nnx.Rngs(0))
        prior = jaxinv.generative.FlowPrior(flow)
        x = prior.decode(prior.sample_latent(key=jax.random.key(0)))  # (8, 8, 1)
        density = prior.log_prob(x)
        ```
    """

    model: PyTree
    latent_shape: tuple[int, ...] = eqx.field(static=True)
    image_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, flow: Network, *, image_shape: tuple[int, ...] | None = None):
        if image_shape is None:
            image_shape = getattr(flow, "image_shape", None)
            if image_shape is None:
                raise ValueError(
                    f"The flow {type(flow).__name__} does not say its `image_shape`; give `FlowPrior(flow, "
                    "image_shape=(h, w, c))`."
                )
        self.image_shape = check_shape(image_shape, "image_shape")
        self.model = as_network(flow)
        self.latent_shape = _latent_shape(self.model, self.image_shape)

    def decode(self, z: ArrayLike) -> Array:
        """The image of `z`."""
        z = check_one(z, self.latent_shape, "a latent", "FlowPrior")
        return _method(self.model, "inverse")(z[None])[0]

    def energy(self, z: ArrayLike) -> Float[Array, ""]:
        """`1/2 ||z||^2`."""
        z = check_one(z, self.latent_shape, "a latent", "FlowPrior")
        return 0.5 * jnp.sum(z**2)

    def sample_latent(self, *, key: Key) -> Array:
        """A standard normal latent, in the dtype of the weights."""
        check_key(key)
        return jax.random.normal(key, self.latent_shape, weights_dtype(self.model))

    def encode(self, x: ArrayLike) -> Array:
        """The latent of `x`. A flow on `[0, 1]` first moves pixels that are outside to the inside."""
        x = check_one(x, self.image_shape, "an image", "FlowPrior")
        return _method(self.model, "forward")(x[None])[0][0]

    def log_prob(self, x: ArrayLike) -> Float[Array, ""]:
        """`log p(x)`, in nats, with all constants; a flow on `[0, 1]` has minus infinity outside."""
        x = check_one(x, self.image_shape, "an image", "FlowPrior")
        return _log_prob(self.model, x[None])[0]


def flow_loss(model: Network, batch: Array, *, key: Key) -> Float[Array, ""]:
    """The negative log-likelihood of dequantised 8-bit images, in nats per image, the mean over the batch.

    Images `k / 255` in `[0, 1]` become `(k + u) / 256`, with `u` uniform in `[0, 1)`, drawn anew at every call: on 256
    discrete values a density would grow without bound. `metrics.bits_per_dim(loss, image_shape)` gives the bits per
    dimension, an upper bound of those of the discrete images. Data that are not 8-bit images in `[0, 1]` need no
    dequantisation: their loss is the mean of `-FlowPrior(model).log_prob`.

    **Arguments:**

    - `model`: a flow, with `forward(x) -> (z, log_det)`.
    - `batch`: images `(n, h, w, c)`, 8-bit values divided by 255.
    - `key`: for the dequantisation.

    !!! cite "Reference"
        Theis, van den Oord, Bethge, A Note on the Evaluation of Generative Models, 2016; Dinh, Sohl-Dickstein, Bengio,
        Density estimation using Real NVP, 2017

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        model = jaxinv.models.Flow((8, 8, 1), trunk=jaxinv.models.Dense((32,)), rngs=nnx.Rngs(0))
        images = jax.random.randint(jax.random.key(0), (64, 8, 8, 1), 0, 256) / 255
        model, history = jaxinv.training.fit(
            model, jaxinv.generative.flow_loss, images, key=jax.random.key(1), num_steps=20, batch_size=32
        )
        bits = jaxinv.metrics.bits_per_dim(history["loss"][-1], model.image_shape)
        ```
    """
    noise = jax.random.uniform(key, batch.shape, batch.dtype)
    return -jnp.mean(_log_prob(model, (255 * batch + noise) / 256))


def _log_prob(model: Network, x: Float[Array, "n ..."]) -> Float[Array, " n"]:
    z, log_det = _method(model, "forward")(x)
    z = z.reshape(z.shape[0], -1)
    return log_det - 0.5 * jnp.sum(z**2, axis=1) - 0.5 * z.shape[1] * _LOG_TWO_PI


def _method(network: Network, name: str) -> Callable[[Array], Any]:
    if isinstance(network, LinenNetwork):
        return lambda x: network.module.apply(network.variables, x, method=name)
    return getattr(network.bind() if isinstance(network, PyTreeNetwork) else network, name)


def _latent_shape(model: PyTree, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    batch = jax.ShapeDtypeStruct((1, *image_shape), weights_dtype(model))
    out = eqx.filter_eval_shape(lambda network, x: _method(network, "forward")(x), model, batch)
    z, log_det = out if isinstance(out, tuple | list) and len(out) == 2 else (None, None)
    if getattr(log_det, "shape", None) != (1,) or not isinstance(z, jax.ShapeDtypeStruct) or z.shape[:1] != (1,):
        raise ValueError(
            f"`forward` must map images {batch.shape} to (z, log_det), of shapes (1, ...) and (1,); it gives {out}. "
            "Networks always take and return a batch axis."
        )
    if math.prod(z.shape) != math.prod(image_shape):
        raise ValueError(
            f"A flow maps one to one; this one maps images of shape {image_shape} to latents of {z.shape[1:]}."
        )
    image = eqx.filter_eval_shape(lambda network, z: _method(network, "inverse")(z), model, z)
    if getattr(image, "shape", None) != batch.shape:
        raise ValueError(f"`inverse` must map latents {z.shape} to images {batch.shape}; it gives {image}.")
    return z.shape[1:]
