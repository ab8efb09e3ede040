"""The starts of a latent reconstruction."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._prior import AbstractGenerativePrior
from .._solution import RESULTS, or_nan
from .._types import Key, State
from ..classical import tikhonov
from ..likelihood import Likelihood
from ..operators import AbstractLinearOperator
from ..requirements import Parametric, Requirement, finite


class AbstractStart(Parametric):
    """The latents that the restarts of a reconstruction, or the chains of a sampler, begin with.

    A start of your own implements `latents`.
    """

    @abc.abstractmethod
    def latents(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, restarts: int, *, key: Key
    ) -> Array:
        """The first latents.

        **Arguments:**

        - `likelihood`, `prior`, `y`: as prepared for the solve: in its dtype, and finite.
        - `restarts`: how many latents there are to be.
        - `key`: a typed key.

        **Returns:** an array `(restarts, *latent_shape)`. The latent of restart `i` depends on the key and `i`, not on
        `restarts`.

        **Raises:** `ValueError` where there is no such start for the problem.
        """


class FromPrior(AbstractStart):
    """Start every restart from a draw of the prior."""

    def latents(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, restarts: int, *, key: Key
    ) -> Array:
        del likelihood, y
        return jax.vmap(lambda i: prior.sample_latent(key=jax.random.fold_in(key, i)))(jnp.arange(restarts))


class FromEncoder(AbstractStart):
    """Start from the latent of a linear reconstruction; further restarts from draws of the prior.

    The encoder takes the Tikhonov reconstruction with weight 1, so the operator must be linear and the prior must have
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
        solution = tikhonov(likelihood, y, weight=1.0, max_steps=50, rtol=1e-3)
        encoded = prior.encode(or_nan(solution, RESULTS.max_steps_reached).real)
        draws = FromPrior().latents(likelihood, prior, y, restarts, key=key)
        return draws.at[0].set(encoded.astype(draws.dtype))


class From(AbstractStart):
    """Start from given latents.

    - `z`: an array of `latent_shape`, from which all restarts begin, or of `(restarts, *latent_shape)`.
    """

    z: Array = eqx.field(converter=jnp.asarray)

    def requirements(self) -> tuple[Requirement, ...]:
        return (finite("z", self.z),)

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
