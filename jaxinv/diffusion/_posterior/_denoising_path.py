"""From a noised state to an image in a few steps."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import Key
from ._loops import repeat
from ._method import finite_or
from ._problem import ratio

# As of `Karras`.
_EXPONENT = 7


def descend(score: AbstractScore, t: Array, x: Array, num_steps: int, *, key: Key | None) -> tuple[Array, Any]:
    """The image of the state `x` at `t`, and the code: one evaluation of the score a step, down to `t_min`, then to 0.

    Without a key by the probability-flow ODE, Euler's method in `r = std/scale`: one step is `E[x_0 | x_t]`. With a key
    by the reverse SDE, `u_s = u + (r^2 - s^2) score + sqrt(r^2 - s^2) z` in `u = x / scale`. (The smaller variance of
    `Ancestral` lacks more in few steps.)
    """
    process = score.process
    top = ratio(process, t)
    bottom = jnp.minimum(ratio(process, process.t_min), top)
    ratios = jnp.linspace(top ** (1 / _EXPONENT), bottom ** (1 / _EXPONENT), num_steps) ** _EXPONENT
    times = process.time(ratios).at[-1].set(jnp.minimum(process.t_min, t)).at[0].set(t)
    ratios = jnp.append(ratios, jnp.zeros((), ratios.dtype))
    image, _, code = repeat(_step, x / process.marginal(t)[0], (score, times, ratios, key), num_steps)
    return image, code


def _step(index: Array, u: Array, args: PyTree) -> tuple[Array, Any]:
    score, times, ratios, key = args
    t, before, after = times[index], ratios[index], ratios[index + 1]
    image, noise = score.predict(t, score.process.marginal(t)[0] * u)
    if key is None:
        return finite_or(image + after * noise, u, RESULTS.successful)
    z = jax.random.normal(jax.random.fold_in(key, index), u.shape, u.dtype)
    # The last step, to 0, ends at the mean.
    fresh = jnp.where(after > 0, jnp.sqrt(jnp.maximum(before**2 - after**2, 0)), 0)
    return finite_or(image + after**2 / before * noise + fresh * z, u, RESULTS.successful)
