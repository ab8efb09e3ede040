"""Where a latent reconstruction starts."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._prior import AbstractGenerativePrior
from .._types import Key, State
from ..classical import tikhonov
from ..likelihood import Likelihood
from ..operators import AbstractLinearOperator


class AbstractStart(eqx.Module):
    """The latents that the restarts of a reconstruction begin with."""

    @abc.abstractmethod
    def latents(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, restarts: int, *, key: Key
    ) -> Array:
        """`(restarts, *latent_shape)`; the one of restart `i` depends on the key and `i`, not on `restarts`."""


class FromPrior(AbstractStart):
    """Start every restart from a draw of the prior."""

    def latents(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, restarts: int, *, key: Key
    ) -> Array:
        del likelihood, y
        return jax.vmap(lambda i: prior.sample_latent(key=jax.random.fold_in(key, i)))(jnp.arange(restarts))


class FromEncoder(AbstractStart):
    """Start from the latent of a linear reconstruction; further restarts from draws of the prior.

    What is encoded is the Tikhonov reconstruction with weight 1, so the operator must be linear and the prior must have
    an encoder.
    """

    def latents(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, restarts: int, *, key: Key
    ) -> Array:
        if not isinstance(likelihood.operator, AbstractLinearOperator):
            raise ValueError(
                f"`FromEncoder()` starts from a linear reconstruction and needs a linear operator; got "
                f"{type(likelihood.operator).__name__}. Take `FromPrior()`, or `From(prior.encode(image))`."
            )
        image = tikhonov(likelihood, y, weight=1.0, max_steps=50, rtol=1e-3).value
        encoded = prior.encode(image.real)
        draws = FromPrior().latents(likelihood, prior, y, restarts, key=key)
        return draws.at[0].set(encoded.astype(draws.dtype))


class From(AbstractStart):
    """Start from given latents.

    - `z`: `latent_shape` for one start, from which all restarts begin, or `(restarts, *latent_shape)`.
    """

    z: Array = eqx.field(converter=jnp.asarray)

    def latents(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, restarts: int, *, key: Key
    ) -> Array:
        del likelihood, y, key
        shape: Any = prior.latent_shape
        if self.z.shape == tuple(shape):
            return jnp.broadcast_to(self.z[None], (restarts, *shape))
        if self.z.shape != (restarts, *shape):
            raise ValueError(
                f"`From(z)`: z has shape {self.z.shape}; the prior takes latents of shape {tuple(shape)}, and with "
                f"restarts={restarts} it may also be {(restarts, *shape)}."
            )
        return self.z
