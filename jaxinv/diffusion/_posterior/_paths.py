"""Short paths: from a noised state to an image in a few steps, and the times of the straight path of flow matching."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._loop import iterate
from ..._score import AbstractProcess, AbstractScore
from ..._solution import RESULTS
from ..._types import Key, PyTree
from .._processes._process import noise_to_signal

# The exponent of the times, the same as that of `Karras`.
_EXPONENT = 7


def denoise_from(score: AbstractScore, t: Array, x: Array, num_steps: int, *, key: Key | None) -> tuple[Array, RESULTS]:
    """The image of the state `x` at `t`, and the code, by steps of one evaluation each down to `t_min`, and then to 0.

    Without a key it follows the probability-flow ODE by Euler's method in `r = std/scale`, so that one step gives
    `E[x_0 | x_t]`. With a key it follows the reverse SDE, `u_s = u + (r^2 - s^2) score + sqrt(r^2 - s^2) z` in
    `u = x / scale`. (The smaller variance of `Ancestral` has a larger deficit in few steps.)
    """
    process = score.process
    top = noise_to_signal(process, t)
    bottom = jnp.minimum(noise_to_signal(process, process.t_min), top)
    ratios = jnp.linspace(top ** (1 / _EXPONENT), bottom ** (1 / _EXPONENT), num_steps) ** _EXPONENT
    times = process.time(ratios).at[-1].set(jnp.minimum(process.t_min, t)).at[0].set(t)
    ratios = jnp.append(ratios, jnp.zeros((), ratios.dtype))
    image, _, code = iterate(
        _denoise,
        x / process.marginal(t)[0],
        (score, times, ratios, key),
        max_steps=num_steps,
        exhausted=RESULTS.successful,
    )
    return image, code


def _denoise(index: Array, u: Array, args: PyTree) -> tuple[Array, Array, RESULTS]:
    score, times, ratios, key = args
    t, before, after = times[index], ratios[index], ratios[index + 1]
    image, noise = score.predict(t, score.process.marginal(t)[0] * u)
    going_on = jnp.zeros((), bool)
    if key is None:
        return image + after * noise, going_on, RESULTS.successful
    z = jax.random.normal(jax.random.fold_in(key, index), u.shape, u.dtype)
    # The last step, to 0, ends at the mean.
    fresh = jnp.where(after > 0, jnp.sqrt(jnp.maximum(before**2 - after**2, 0)), 0)
    return image + after**2 / before * noise + fresh * z, going_on, RESULTS.successful


def straight_times(process: AbstractProcess, start: Array, num_steps: int) -> Array:
    """Times of equal steps along `x_t / (scale + std) = (1 - tau) x_0 + tau n`, and 0 as the last one.

    They begin at `tau = start`, and the last step leads from `t_min` to the data. This is the path of `FlowMatching()`,
    whose time is `tau`, so methods for flow matching work for any process.
    """
    top = jnp.minimum(start, _tau(process, process.t_max))
    taus = jnp.linspace(top, _tau(process, process.t_min), num_steps)
    # Rounding may move a time beyond an end of the process.
    times = jnp.clip(process.time(taus / (1 - taus)), process.t_min, process.t_max)
    return jnp.append(times, jnp.zeros((), times.dtype))


def _tau(process: AbstractProcess, t: Array) -> Array:
    r = noise_to_signal(process, t)
    return r / (1 + r)
