"""The likelihood of an image under a score, by the probability-flow ODE."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_count
from .._keys import check_key
from .._solution import RESULTS
from .._types import Key, Scalar
from .._verb import verb
from ..operators._base import as_parameter
from ._divergence import divergence, probes
from ._encode import check_flow
from ._model import Model, is_start, one_process, prepare


@one_process
@verb
def log_prob(
    process: Any,
    score: Any,
    x: Any,
    *,
    key: Key | None = None,
    num_probes: Any = 1,
    method: Any = None,
    t_min: Scalar = 1e-5,
    prior_log_prob: Any = None,
) -> Float[Array, ""]:
    """The log-density of an image, `log p_T(x_T) + int div v dt` along the probability-flow ODE from `x`.

    `v` is the velocity of the ODE. Runs on the device, inside `jax.jit`, `jax.vmap` and `jax.grad`.

    **Arguments:**

    - `process`, `score`: as of `sample`.
    - `x`: one image, which is taken for a state at `t_min`: in nats of the density in its own unit; see
        `metrics.bits_per_dim`, and dequantise images of 8 bits by uniform noise first.
    - `key`: of Hutchinson's estimate of the divergence by random signs, which is unbiased (up to the steps of the ODE).
        `None`: the exact divergence, at the cost of as many derivatives as the image has entries.
    - `num_probes`: of the estimate, static.
    - `method`: a `ProbabilityFlow`, for its tolerances, 1e-5 by default.
    - `t_min`: where the ODE starts: not negative, and before `t_max`.
    - `prior_log_prob`: the log-density of `x_T`, a function of one image. Default: that of the noise from which
        sampling starts, which is off by what the process leaves of the data: .13 nats for `VP()` and data whose
        coordinates are of the size of 20, 1e-4 with `beta_max=40`.

    **Returns:** a scalar. It is NaN if the ODE could not be solved: `encode` gives the code.

    **Raises:** `ValueError` as `encode`.

    Accuracy: against the exact log-density of the 25 modes of the mixture test (8 dimensions, `VP(beta_max=40)`), at
    most 1e-3 nats over 256 points.

    **Reference:** Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, Score-based generative modeling through stochastic
    differential equations, 2021; Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud, FFJORD, 2019.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import diffusion, oracles
        process, prior = diffusion.VP(), oracles.Gaussian(jnp.ones((2, 2, 1)), 0.1 * jnp.eye(4))
        value = diffusion.log_prob(process, prior.score(process), jnp.ones((2, 2, 1)))
        assert jnp.allclose(value, prior.log_prob(jnp.ones((2, 2, 1))), atol=1e-2)
        ```
    """
    if key is not None:
        check_key(key)
    check_count(num_probes, "num_probes")
    method, x = check_flow(method), as_parameter(x)
    model = prepare(process, score, x.dtype)
    start = jnp.asarray(t_min).astype(x.dtype)
    state = (x, jnp.zeros((), x.dtype))
    vectors = probes(x, key, num_probes)
    integral = method.between(start, model.process.t_max, model, state, field=_augmented, args=vectors)
    latent, change = integral.end
    terminal = model.process.prior_log_prob if prior_log_prob is None else prior_log_prob
    value = terminal(latent) + change
    sound = (integral.result == RESULTS.successful) & is_start(model.process, start)
    return jnp.where(sound, value, jnp.nan)


def _augmented(t: Array, state: tuple[Array, Array], args: tuple[tuple[Model, Array], None]) -> tuple[Array, Array]:
    (model, vectors), _ = args
    return divergence(lambda x: model.velocity(t, x), state[0], vectors)
