"""How well Markov chains have mixed."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def split_r_hat(draws: Float[Array, "chains n k"]) -> Float[Array, " k"]:
    """The potential scale reduction of the halves of the chains, for each variable; 1 for chains that agree."""
    half = draws.shape[1] // 2
    halves = jnp.concatenate([draws[:, :half], draws[:, half : 2 * half]])
    within = jnp.mean(jnp.var(halves, axis=1, ddof=1), axis=0)
    between = jnp.var(jnp.mean(halves, axis=1), axis=0, ddof=1)
    ratio = between / jnp.where(within > 0, within, 1)
    # Chains that stand still at different points are as far from agreement as can be.
    return jnp.where(within > 0, jnp.sqrt((half - 1) / half + ratio), jnp.where(between > 0, jnp.inf, 1))


def effective_sample_size(draws: Float[Array, "chains n k"]) -> Float[Array, " k"]:
    """The number of independent draws whose mean is as good, for each variable.

    By the autocorrelation of the chains around their common mean, summed over pairs of lags while these are positive,
    and made monotone.

    **Reference:** Geyer, Practical Markov chain Monte Carlo, 1992; Vehtari et al., 2021.
    """
    chains, length, _ = draws.shape
    centred = draws - jnp.mean(draws, axis=1, keepdims=True)
    spectrum = jnp.fft.rfft(centred, n=2 * length, axis=1)
    covariance = jnp.fft.irfft(spectrum * jnp.conj(spectrum), n=2 * length, axis=1)[:, :length] / length
    covariance = jnp.mean(covariance, axis=0)
    within = covariance[0] * length / (length - 1)
    between = jnp.var(jnp.mean(draws, axis=1), axis=0, ddof=1) if chains > 1 else jnp.zeros_like(within)
    total = within * (length - 1) / length + between
    moves = total > 0
    correlation = 1 - (within[None] - covariance) / jnp.where(moves, total, 1)[None]
    correlation = correlation.at[0].set(1.0)
    pairs = correlation[: length // 2 * 2].reshape(length // 2, 2, -1).sum(axis=1)
    positive = jnp.cumprod((pairs > 0).astype(draws.dtype), axis=0)
    pairs = jax.lax.cummin(pairs, axis=0) * positive
    time = jnp.maximum(2 * jnp.sum(pairs, axis=0) - 1, 1 / math.log10(chains * length))
    return jnp.where(moves, chains * length / time, 0.0)
