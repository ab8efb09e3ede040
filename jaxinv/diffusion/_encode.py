"""The latent of an image under the probability-flow ODE, and back."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from .._solution import RESULTS, Solution
from .._types import Scalar
from .._verb import verb
from ..operators._base import as_parameter
from ._model import Model, is_start, one_process, prepare
from ._probability_flow import ProbabilityFlow
from ._reverse_sde import evaluations


@one_process
@verb
def encode(process: Any, score: Any, x: Any, *, method: Any = None, t_min: Scalar | None = None) -> Solution:
    """The latent of an image: the probability-flow ODE from the image at `t_min` to noise at `t_max`.

    The map is a bijection; `decode` is its inverse. A network that were perfect would give an image of the data a
    latent that looks like the noise sampling starts from.

    **Arguments:**

    - `process`, `score`: as of `sample`.
    - `x`: one image, which is taken for a state at `t_min`.
    - `method`: a `ProbabilityFlow`, for its tolerances.
    - `t_min`: where the image is put: not negative, and before `t_max`. Default: that of the process.

    **Returns:** a `Solution`; `value` is the latent. `stats`: `num_steps`, `network_evaluations`.

    **Raises:** `ValueError` for another method, and as `sample`.

    **Reference:** Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, Score-based generative modeling through stochastic
    differential equations, 2021, section 4.3.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import diffusion, oracles
        process = diffusion.VP()
        score = oracles.Gaussian(jnp.ones((4, 4, 1)), 0.1 * jnp.eye(16)).score(process)
        latent = diffusion.encode(process, score, jnp.ones((4, 4, 1))).check().value
        image = diffusion.decode(process, score, latent).check().value
        assert jnp.allclose(image, 1, atol=1e-3)
        ```
    """
    model, x, t_min = _enter(process, score, x, t_min)
    return _flow(model, x, t_min, model.process.t_max, method, is_start(model.process, t_min))


@one_process
@verb
def decode(process: Any, score: Any, z: Any, *, method: Any = None, t_min: Scalar | None = None) -> Solution:
    """The image of a latent: the probability-flow ODE from noise at `t_max` to `t_min`, the inverse of `encode`.

    **Arguments:** as `encode`, with the latent `z` in place of the image.

    **Returns:** a `Solution`; `value` is the image. `stats` as of `encode`.

    **Raises:** as `encode`.

    **Reference:** Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, Score-based generative modeling through stochastic
    differential equations, 2021, section 4.3.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import diffusion, oracles
        process = diffusion.VP()
        score = oracles.Gaussian(jnp.ones((4, 4, 1)), 0.1 * jnp.eye(16)).score(process)
        z = process.prior_sample((4, 4, 1), key=jax.random.key(0))
        image = diffusion.decode(process, score, z).check().value
        ```
    """
    model, z, t_min = _enter(process, score, z, t_min)
    return _flow(model, z, model.process.t_max, t_min, method, is_start(model.process, t_min))


def _enter(process: Any, score: Any, x: Any, t_min: Any) -> tuple[Model, Array, Array]:
    x = as_parameter(x)
    model = prepare(process, score, x.dtype)
    return model, x, model.process.t_min if t_min is None else jnp.asarray(t_min).astype(x.dtype)


def _flow(model: Model, x: Array, start: Array, stop: Array, method: Any, valid: Array) -> Solution:
    method = check_flow(method)
    integral = method.between(start, stop, model, x)
    stats = {
        "num_steps": integral.num_steps,
        "network_evaluations": evaluations(method.solver, integral.num_steps),
    }
    code = RESULTS.where(valid, integral.result, RESULTS.invalid_parameter)
    return Solution(jnp.where(valid, integral.end, jnp.zeros_like(integral.end)), code, stats)


def check_flow(method: Any) -> ProbabilityFlow:
    """The method, which must be a `ProbabilityFlow`."""
    method = ProbabilityFlow() if method is None else method
    if not isinstance(method, ProbabilityFlow):
        raise ValueError(f"`method` must be `diffusion.ProbabilityFlow(...)`; got {method!r}.")
    return method
