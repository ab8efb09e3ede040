"""Exact denoisers and scores of a Gaussian mixture under a noising process, made by methods of `GaussianMixture`."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_array
from .._score import AbstractGradientScore
from .._types import Scalar, State
from ._components import Components
from ._low_rank import LowRank
from ._noised import marginal, remaining


class GaussianMixtureScore(AbstractGradientScore):
    """`grad log p_t(x) = -sum_k p(k | x) (scale^2 C_k + std^2 I)^{-1} (x - scale m_k)` on one image.

    Here `x_t = scale x_0 + std n`. It costs `O(k d (1 + r))` with covariances of `r` directions.
    """

    components: Components
    process: Any

    def __call__(self, t: Scalar, x: State) -> Array:
        return _score(self.components, *_at_time(self, t, x))

    def predict(self, t: Scalar, x: State) -> tuple[Array, Array]:
        """`(E[x_0 | x_t = x], E[n | x_t = x])`, each without the cancellation of computing one from the other."""
        scale, std, x = _at_time(self, t, x)
        return _denoise(self.components, scale, std, x), -std * _score(self.components, scale, std, x)

    def denoiser(self, t: Scalar, x: State) -> Array:
        return _denoise(self.components, *_at_time(self, t, x))


class GaussianMixtureDenoiser(eqx.Module):
    """`E[x_0 | x_t = x] = sum_k p(k | x) (m_k + scale C_k (scale^2 C_k + std^2 I)^{-1} (x - scale m_k))` on one image.

    Here `x_t = scale x_0 + std n`. It costs `O(k d (1 + r))` with covariances of `r` directions.
    """

    prior: Any
    components: Components
    process: Any

    def __call__(self, t: Scalar, x: State) -> Array:
        return _denoise(self.components, *_at_time(self, t, x))

    def conditional(self, t: Scalar, x: State) -> Any:
        """The law of `x_0` given `x_t = x`, again an `oracles.GaussianMixture`, in the same basis."""
        return self.prior.like(*_conditional(self.components, *_at_time(self, t, x)))

    def covariance(self, t: Scalar, x: State) -> Array:
        """`Cov[x_0 | x_t = x]`, `(d, d)`: `std^2 / scale` times the derivative of the denoiser."""
        return self.conditional(t, x).covariance

    def covariance_product(self, t: Scalar, x: State, v: State) -> Array:
        """`Cov[x_0 | x_t = x] v`, of the shape of `v`, without the matrix.

        For many products at one `x`, use those of `conditional(t, x)`.
        """
        return self.conditional(t, x).covariance_product(v)


@eqx.filter_jit
def _score(components: Components, scale: Array, std: Array, x: Array) -> Array:
    def gain(variances):
        total = scale**2 * variances + std**2
        return jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)

    components, flat = components.astype(x.dtype), x.ravel()
    return -components.combine(components.view(scale, std, flat), gain, scale, flat).reshape(x.shape)


@eqx.filter_jit
def _denoise(components: Components, scale: Array, std: Array, x: Array) -> Array:
    components, flat = components.astype(x.dtype), x.ravel()
    view = components.view(scale, std, flat)
    moved = components.combine(view, lambda v: shrinkage(v, scale, std), scale, flat)
    return (components.mean_of(view.shares) + moved).reshape(x.shape)


@eqx.filter_jit
def _conditional(components: Components, scale: Array, std: Array, x: Array) -> tuple[Array, Array, LowRank]:
    components, flat = components.astype(x.dtype), x.ravel()
    means, law = components.means, components.covariances
    gains = law.map(lambda v: shrinkage(v, scale, std))
    means = means + gains.product(flat[None] - scale * means)
    log_shares = components.view(scale, std, flat).log_shares
    return log_shares, means.reshape(-1, *x.shape), law.map(lambda v: remaining(v, scale, std))


def shrinkage(variances: Array, scale: Array, std: Array) -> Array:
    """The factor from `x_t - E[x_t]` to `E[x_0 | x_t] - E[x_0]`, by direction; without noise it is `1 / scale`."""
    total = scale**2 * variances + std**2
    safe = jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, scale * variances / safe, 1 / jnp.where(total > 0, 1, scale))


def _at_time(oracle: Any, t: Scalar, x: State) -> tuple[Array, Array, Array]:
    x, shape = as_array(x), oracle.components.shape
    if x.shape != shape:
        raise ValueError(
            f"The prior is on images of shape {shape}; got an image of shape {x.shape}. Map over a batch with "
            "`jax.vmap`."
        )
    return *marginal(oracle.process, t, x.dtype), x
