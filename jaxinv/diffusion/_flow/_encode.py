"""The latent of an image under the probability-flow ODE, and back."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from ..._arrays import as_parameter, is_concrete
from ..._jit import verb
from ..._loop import all_finite
from ..._score import AbstractProcess, AbstractScore
from ..._solution import RESULTS, Solution
from ..._types import Scalar
from .._samplers._integrate import evaluations
from .._samplers._probability_flow import ProbabilityFlow
from .._scores._score import cast_process, takes_score


def check_flow(method: Any) -> None:
    """Raise unless this is a `ProbabilityFlow`."""
    if not isinstance(method, ProbabilityFlow):
        raise ValueError(f"`method` must be `diffusion.ProbabilityFlow(...)`; got {method!r}.")


def check_start(process: AbstractProcess, t_min: Any) -> None:
    """Raise for a `t_min` that is known and is not between 0 and `t_max`."""
    # NumPy is used here, since inside the user's `jax.jit` JAX makes tracers of operations even on known numbers.
    known = t_min is not None and is_concrete(t_min) and is_concrete(process.t_max)
    if known and not np.all((np.asarray(t_min) >= 0) & (np.asarray(t_min) < np.asarray(process.t_max))):
        raise ValueError(
            f"`t_min` is the other end of the integral to t_max={float(process.t_max):g}: it must be smaller, and not "
            f"negative; got {t_min}."
        )


def is_start(process: AbstractProcess, t_min: Array) -> Array:
    """Whether `t_min` is a time before the end of the process."""
    return (t_min >= 0) & (t_min < process.t_max)


@takes_score(method=check_flow)
def encode(
    score: AbstractScore,
    x: ArrayLike,
    *,
    method: ProbabilityFlow = ProbabilityFlow(),
    t_min: Scalar | None = None,
) -> Solution:
    """The latent of an image: the probability-flow ODE from the image at `t_min` to noise at `t_max`.

    The map is a bijection, and `decode` is its inverse. For a perfect network, the latents of images of the data look
    like the noise from which sampling starts.

    **Arguments:**

    - `score`: what `sample` takes.
    - `x`: one image, which is taken for a state at `t_min`.
    - `method`: a `ProbabilityFlow`, which has the tolerances of the ODE solver.
    - `t_min`: the time of the image, not negative and before `t_max`; with `None` it is that of the process.

    **Returns:** a `Solution`, whose `value` is the latent. `stats` has `num_steps` and `network_evaluations`.

    **Raises:** `ValueError` for something that is no score, another method, or a known `t_min` out of range.

    **Reference:** Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, Score-based generative modeling through stochastic
    differential equations, 2021, section 4.3.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import diffusion, oracles
        score = oracles.Gaussian(jnp.ones((4, 4, 1)), 0.1 * jnp.eye(16)).score(diffusion.VP())
        latent = diffusion.encode(score, jnp.ones((4, 4, 1))).check().value
        image = diffusion.decode(score, latent).check().value
        assert jnp.allclose(image, 1, atol=1e-3)
        ```
    """
    check_start(score.process, t_min)
    return _encode(score, x, method, t_min=t_min)


@verb(traced=("t_min",))
def _encode(score: AbstractScore, x: ArrayLike, method: ProbabilityFlow, *, t_min: Scalar | None) -> Solution:
    score, x, t_min = _prepare(score, x, t_min)
    return _flow(score, x, t_min, score.process.t_max, method, is_start(score.process, t_min))


@takes_score(method=check_flow)
def decode(
    score: AbstractScore,
    z: ArrayLike,
    *,
    method: ProbabilityFlow = ProbabilityFlow(),
    t_min: Scalar | None = None,
) -> Solution:
    """The image of a latent: the probability-flow ODE from noise at `t_max` to `t_min`, the inverse of `encode`.

    **Arguments:** those of `encode`, with the latent in place of the image:

    - `z`: one latent, of the shape of an image.

    **Returns:** a `Solution`, whose `value` is the image. `stats` has `num_steps` and `network_evaluations`.

    **Raises:** `ValueError` in the cases of `encode`.

    **Reference:** Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, Score-based generative modeling through stochastic
    differential equations, 2021, section 4.3.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import diffusion, oracles
        score = oracles.Gaussian(jnp.ones((4, 4, 1)), 0.1 * jnp.eye(16)).score(diffusion.VP())
        z = score.process.prior_sample((4, 4, 1), key=jax.random.key(0))
        image = diffusion.decode(score, z).check().value
        ```
    """
    check_start(score.process, t_min)
    return _decode(score, z, method, t_min=t_min)


@verb(traced=("t_min",))
def _decode(score: AbstractScore, z: ArrayLike, method: ProbabilityFlow, *, t_min: Scalar | None) -> Solution:
    score, z, t_min = _prepare(score, z, t_min)
    return _flow(score, z, score.process.t_max, t_min, method, is_start(score.process, t_min))


def _prepare(score: AbstractScore, x: ArrayLike, t_min: Any) -> tuple[AbstractScore, Array, Array]:
    x = as_parameter(x)
    score = cast_process(score, x.dtype)
    return score, x, score.process.t_min if t_min is None else jnp.asarray(t_min).astype(x.dtype)


def _flow(score: AbstractScore, x: Array, start: Array, stop: Array, method: ProbabilityFlow, valid: Array) -> Solution:
    integral = method.between(start, stop, score, x)
    stats = {
        "num_steps": integral.num_steps,
        "network_evaluations": evaluations(method.solver, integral.num_steps),
    }
    code = RESULTS.where(valid, integral.result, RESULTS.invalid_parameter)
    code = RESULTS.where(all_finite(x), code, RESULTS.nonfinite_measurement)
    return Solution(jnp.where(valid, integral.end, jnp.zeros_like(integral.end)), code, stats)
