"""Scores of priors and posteriors at a little noise, where a learned score is one, for the checks of samples."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._arrays import as_array, check_count
from ..._conjugate_gradients import conjugate_gradients
from ..._score import AbstractProcess, AbstractScore
from ..._solution import RESULTS
from ..._types import Key, Scalar, State
from ...likelihood import Likelihood, whiten
from ...noise import AbstractGaussianNoise

# The number of images for which the network is evaluated at once; it needs no more memory than a sampler does.
_TOGETHER = 64
# The probability with which a check refuses what is exact.
SIGNIFICANCE = 0.01
_RTOL, _MOST_PRODUCTS = 1e-3, 50


def time_of(process: AbstractProcess, noise: Scalar | None, dtype: Any) -> Array:
    """The time at which `std / scale` is `noise`, within the times of the process; `t_min` without one."""
    if noise is None:
        return jnp.asarray(process.t_min).astype(dtype)
    # A network was trained between these times only.
    return jnp.clip(process.time(jnp.asarray(noise, dtype)), process.t_min, process.t_max).astype(dtype)


def noised(process: AbstractProcess, t: Array, x: Array, *, key: Key) -> Array:
    """Images with the noise of a time."""
    scale, std = process.marginal(t)
    return scale.astype(x.dtype) * x + std.astype(x.dtype) * jax.random.normal(key, x.shape, x.dtype)


def prior_scores(score: AbstractScore, t: Array, x: Array) -> Array:
    """`grad log p_t` at each of some states, `(n, *shape)`."""
    return jax.lax.map(lambda one: score(t, one), x, batch_size=min(_TOGETHER, len(x)))


def posterior_scores(likelihood: Likelihood, score: AbstractScore, t: Array, x: Array, y: State) -> Array:
    """`grad log p_t(x_t | y)` at each of some states, of a prepared likelihood.

    The likelihood of a state is `E[p(y | x_0) | x_t]`. For Gaussian noise this is `N(A E[x_0 | x_t]; B C B* + I)` in
    units of the noise, with the derivative `B` of the operator and the covariance `C` of `x_0` given `x_t`. It is exact
    for linear operators and a Gaussian prior, and in the limit of little noise. For photon noise it is
    `p(y | E[x_0 | x_t])`, which is exact in that limit.
    """
    noise = likelihood.noise
    if isinstance(noise, AbstractGaussianNoise):

        def one(state: Array) -> Array:
            image, pullback, predicted = jax.vjp(lambda x: score.predict(t, x), state, has_aux=True)
            scale, std = (value.astype(state.dtype) for value in score.process.marginal(t))
            operator, _ = whiten(Likelihood(likelihood.operator.linearise(image), noise), y, "check_posterior")
            residual = operator.whiten(jax.tree.map(jnp.subtract, y, likelihood.operator(image)))

            def product(v: State, args: Any) -> State:
                del args
                through = std**2 / scale * pullback(operator.adjoint(v))[0]
                return jax.tree.map(jnp.add, v, operator(through))

            solved = conjugate_gradients(
                product, residual, None, rtol=_RTOL, max_steps=_MOST_PRODUCTS, exhausted=RESULTS.successful
            )
            return pullback(operator.adjoint(solved.x))[0] - predicted / std
    else:

        def one(state: Array) -> Array:
            def of(x: Array) -> tuple[Array, Array]:
                image, predicted = score.predict(t, x)
                return -likelihood.negative_log_likelihood(image, y), predicted

            gradient, predicted = jax.grad(of, has_aux=True)(state)
            return gradient - predicted / score.process.marginal(t)[1].astype(state.dtype)

    return jax.lax.map(one, x, batch_size=min(_TOGETHER, len(x)))


def spread_of(x: Array, scores: Array) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """`-E[(x - E x) . s(x)] / d`, which is 1 for samples of the density whose score is `s`, and its standard error.

    By Stein's identity; it is smaller for samples that spread too little, in the directions in which the density is
    narrow too, since each direction counts by its own scale.
    """
    n = len(x)
    centred = x - jnp.mean(x, axis=0, keepdims=True)
    values = -jnp.sum((centred * scores).reshape(n, -1), axis=1) / x[0].size * (n / (n - 1))
    return jnp.mean(values), jnp.std(values, ddof=1) / jnp.sqrt(n)


def in_units(x: Array, scores: Array) -> tuple[Array, Array]:
    """Samples and scores in units of each entry's deviation, in which no entry outweighs the others."""
    unit = jnp.std(x, axis=0, keepdims=True)
    unit = jax.lax.stop_gradient(jnp.where(unit > 0, unit, 1))
    return x / unit, scores * unit


def effective_size(samples: Array) -> Float[Array, ""]:
    """`n^2 / sum_i c_i`, with `c_i` samples equal to sample `i`: of resampled particles, how many are different."""
    n = len(samples)
    flat = samples.reshape(n, -1)
    # Equal samples have equal projections, and others almost never.
    directions = jax.random.normal(jax.random.key(0), (flat.shape[1],), flat.dtype)
    values = jnp.sort(jnp.sum(flat * directions[None], axis=1))
    copies = jnp.searchsorted(values, values, side="right") - jnp.searchsorted(values, values, side="left")
    return n**2 / jnp.sum(copies).astype(samples.dtype)


def check_draws(num_draws: Any, threshold: float) -> None:
    """Raise if so few draws of a null law have no p-value below a threshold."""
    least = math.ceil(1 / threshold)
    if check_count(num_draws, "num_draws") < least:
        raise ValueError(
            f"`num_draws` must be at least {least}, since the smallest p-value is `1 / (num_draws + 1)`, and this "
            f"check fails for one below {threshold:.4f}; got {num_draws}."
        )


def check_set(samples: Any, like: Any, name: str, verb: str, least: int = 8) -> Array:
    """Samples `(n, *shape)` of real images, at least a few, in the dtype of the domain."""
    samples = as_array(samples)
    shape = like if isinstance(like, tuple) else tuple(like.shape)
    if samples.ndim != 1 + len(shape) or samples.shape[1:] != shape or len(samples) < least:
        raise ValueError(
            f"`{verb}` takes `{name}` of shape (n, *{shape}), at least {least} of one problem; got shape "
            f"{samples.shape}. Map over problems with `jax.vmap`."
        )
    if not jnp.issubdtype(samples.dtype, jnp.floating):
        raise ValueError(f"`{verb}` takes `{name}` of a real floating dtype; got {samples.dtype}.")
    return samples
