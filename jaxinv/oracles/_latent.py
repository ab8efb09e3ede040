"""A Gaussian as a generative prior, against which the methods of `generative` are tested exactly."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import HIGHEST, as_array, check_key
from .._prior import AbstractGenerativePrior
from .._types import ArrayLike, Key
from ..requirements import Requirement, finite


class GaussianLatent(AbstractGenerativePrior):
    """`x = mean + factor z` with `z` standard normal, made by `oracles.Gaussian.as_latent()`.

    - `mean`: the mean image, of any shape, with `d` entries.
    - `factor`: the factor of the covariance, `(d, r)`; a latent has `r` entries.
    """

    mean: Array
    factor: Array
    latent_shape: tuple[int, ...] = eqx.field(static=True)
    image_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, mean: Array, factor: Array):
        self.mean = mean
        self.factor = factor
        self.latent_shape = (factor.shape[1],)
        self.image_shape = mean.shape

    def requirements(self) -> tuple[Requirement, ...]:
        return (finite("mean", self.mean), finite("factor", self.factor))

    def decode(self, z: ArrayLike) -> Array:
        z = _check(z, self.latent_shape, "a latent")
        return self.mean + jnp.matmul(self.factor, z, precision=HIGHEST).reshape(self.image_shape)

    def energy(self, z: ArrayLike) -> Array:
        return 0.5 * jnp.sum(_check(z, self.latent_shape, "a latent") ** 2)

    def sample_latent(self, *, key: Key) -> Array:
        check_key(key)
        return jax.random.normal(key, self.latent_shape, self.factor.dtype)

    def encode(self, x: ArrayLike) -> Array:
        """The latent of smallest norm among those whose image is nearest to `x`."""
        return jnp.linalg.lstsq(self.factor, (_check(x, self.image_shape, "an image") - self.mean).ravel())[0]


def _check(x: Any, shape: tuple[int, ...], what: str) -> Array:
    x = as_array(x)
    if x.shape != shape or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"The latent of this Gaussian expects {what} of shape {shape} and a floating dtype; got {x.shape} and "
            f"{x.dtype}. It takes one at a time: map over a batch with `jax.vmap`."
        )
    return x
