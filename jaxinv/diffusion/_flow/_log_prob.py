"""The likelihood of an image under a score, by the probability-flow ODE."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ..._arrays import as_parameter, check_count, check_key
from ..._jit import verb
from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import Key, Scalar
from .._samplers._probability_flow import ProbabilityFlow
from .._scores._score import cast_process, takes_score
from ._encode import check_flow, check_start, is_start


@takes_score(method=check_flow, num_probes=lambda num_probes: check_count(num_probes, "num_probes"))
def log_prob(
    score: AbstractScore,
    x: ArrayLike,
    *,
    key: Key | None = None,
    num_probes: int = 1,
    method: ProbabilityFlow = ProbabilityFlow(),
    t_min: Scalar = 1e-5,
    prior_log_prob: Callable[[Array], Array] | None = None,
) -> Float[Array, ""]:
    """The log-density of an image, `log p_T(x_T) + int div v dt` along the probability-flow ODE from `x`.

    Here `v` is the velocity of the ODE. It runs on the device, inside `jax.jit`, `jax.vmap` and `jax.grad`.

    **Arguments:**

    - `score`: what `sample` takes.
    - `x`: one image, which is taken for a state at `t_min`. Dequantise images of 8 bits by uniform noise first.
    - `key`: the random key of Hutchinson's estimate of the divergence by random signs, which is unbiased (up to the
        steps of the ODE). With `None` the divergence is exact, at the cost of as many derivatives as the image has
        entries.
    - `num_probes`: the number of probes of the estimate, static.
    - `method`: a `ProbabilityFlow`, which has the tolerances of the ODE solver.
    - `t_min`: the time at which the ODE starts, not negative and before `t_max`.
    - `prior_log_prob`: the log-density of `x_T`, a function of one image. With `None` it is that of the noise from
        which sampling starts. That is inexact by what the process leaves of the data: .13 nats for `VP()` and data
        whose coordinates are of the size of 20, and 1e-4 with `beta_max=40`.

    **Returns:** the log-density in nats, a scalar, of the density in the unit of the image; `metrics.bits_per_dim`
    converts it. It is NaN if the ODE could not be solved; `encode` gives the code.

    **Raises:** `ValueError` in the cases of `encode`.

    Accuracy: against the exact log-density of the 25 modes of the mixture test (8 dimensions, `VP(beta_max=40)`), the
    error is at most 1e-3 nats over 256 points.

    **Reference:** Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, Score-based generative modeling through stochastic
    differential equations, 2021; Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, FFJORD, 2019.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import diffusion, oracles
        prior = oracles.Gaussian(jnp.ones((2, 2, 1)), 0.1 * jnp.eye(4))
        value = diffusion.log_prob(prior.score(diffusion.VP()), jnp.ones((2, 2, 1)))
        assert jnp.allclose(value, prior.log_prob(jnp.ones((2, 2, 1))), atol=1e-2)
        ```
    """
    if key is not None:
        check_key(key)
    check_start(score.process, t_min)
    return _log_prob(score, x, key, num_probes, method, prior_log_prob, t_min=t_min)


@verb(traced=("t_min",))
def _log_prob(
    score: AbstractScore,
    x: ArrayLike,
    key: Key | None,
    num_probes: int,
    method: ProbabilityFlow,
    prior_log_prob: Callable[[Array], Array] | None,
    *,
    t_min: Scalar,
) -> Float[Array, ""]:
    x = as_parameter(x)
    score = cast_process(score, x.dtype)
    start = jnp.asarray(t_min).astype(x.dtype)
    state = (x, jnp.zeros((), x.dtype))
    vectors = probes(x, key, num_probes)
    integral = method.between(start, score.process.t_max, score, state, field=_augmented, args=vectors)
    latent, change = integral.end
    terminal = score.process.prior_log_prob if prior_log_prob is None else prior_log_prob
    value = terminal(latent) + change
    sound = (integral.result == RESULTS.successful) & is_start(score.process, start)
    return jnp.where(sound, value, jnp.nan)


def _augmented(
    t: Array, state: tuple[Array, Array], args: tuple[tuple[AbstractScore, Array], None]
) -> tuple[Array, Array]:
    (score, vectors), _ = args
    return divergence(lambda x: score.velocity(t, x), state[0], vectors)


def probes(x: Array, key: Key | None, num_probes: int) -> Array:
    """Vectors `e` for which the mean of `e^T J e` is the trace of `J`.

    Without a key they are the unit vectors, scaled so that the mean is exact. With a key they are random signs, for
    which the mean is unbiased.
    """
    if key is None:
        return (jnp.eye(x.size, dtype=x.dtype) * jnp.sqrt(jnp.asarray(x.size, x.dtype))).reshape(x.size, *x.shape)
    draw = lambda index: jax.random.rademacher(jax.random.fold_in(key, index), x.shape, x.dtype)
    return jax.vmap(draw)(jnp.arange(num_probes))


def divergence(field: Callable[[Array], Array], x: Array, vectors: Array) -> tuple[Array, Array]:
    """`field(x)` and its divergence, the mean of `e^T J e` over the probes, with one linearisation."""
    value, push = jax.linearize(field, x)
    return value, jnp.mean(jax.vmap(lambda e: jnp.sum(e * push(e)))(vectors))
