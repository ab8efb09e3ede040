"""Samples of the posterior under a diffusion prior."""

from typing import Any

import jax.numpy as jnp

from ..._checks import check_count
from ..._keys import check_key
from ..._score import AbstractScore
from ..._solution import RESULTS, Solution
from ..._types import Key, State
from ..._verb import verb
from ...likelihood import Likelihood
from .._scores._score import cast_process, takes_score
from ._default import default_method
from ._method import AbstractPosteriorMethod
from ._problem import check_likelihood, worst


@takes_score(likelihood=check_likelihood)
@verb
def posterior_sample(
    likelihood: Likelihood,
    score: AbstractScore,
    y: State,
    *,
    key: Key,
    method: Any = None,
    num_samples: Any = 1,
    progress: Any = None,
) -> Solution:
    """Samples of the posterior `p(x | y) ~ p(y | x) p(x)`, where the prior is what a score has learned.

    **Arguments:**

    - `likelihood`: operator and noise, on images of the shape that the score takes.
    - `score`: what `sample` takes.
    - `y`: one measurement.
    - `key`: sample `i` depends on the key, `i`, the problem and the method, never on `num_samples`.
    - `method`: how; by default `TDS(particles=1024)` for up to 16 measurements, else `MomentMatching()`, and `DPS()`
        for operators that are not linear. See "Which method for my problem" in the README.
    - `num_samples`: static; for a particle method at most its particles.
    - `progress`: a diffrax progress meter.

    **Returns:** a `Solution`; the value is `(num_samples, *shape)`, always. The result is that of the worst sample:
    `nonfinite` where a score became NaN or infinite (that sample is its last finite state), `weight_collapse` where a
    particle method lost its particles; `aux` has the `results` of the samples. `stats`: `num_steps`,
    `network_evaluations` and `vjps`, vector-Jacobian products of the score, of each sample, or of a whole cloud.

    **Raises:** `ValueError` where the method cannot take this operator or this noise, for sizes that are not positive
    integers, more samples than particles, and for anything but one typed key.

    **Reference:** Daras et al., A survey on diffusion models for inverse problems, 2024.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        from jaxinv import diffusion, oracles
        prior = oracles.Gaussian(jnp.ones((4, 4, 1)), 0.1 * jnp.eye(16))
        likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((4, 4, 1), 2), jaxinv.noise.Gaussian(0.1))
        solution = diffusion.posterior_sample(
            likelihood, prior.score(diffusion.VP()), jnp.zeros((2, 2, 1)), key=jax.random.key(0), num_samples=4
        )
        images = solution.check().value  # (4, 4, 4, 1)
        ```
    """
    check_key(key)
    check_count(num_samples, "num_samples")
    domain: Any = likelihood.operator.domain
    score = cast_process(score, domain.dtype)
    method = default_method(likelihood) if method is None else method
    if not isinstance(method, AbstractPosteriorMethod):
        raise ValueError(
            "`method` must be a posterior method of `jaxinv.diffusion`, such as `TDS()`, `MomentMatching()`, `TMPD()`, "
            f"`PiGDM()` or `DPS()`; got {method!r}."
        )
    problem, result = method.enter(score, likelihood, y)
    draws = method.draw(problem, num_samples, key=key, result=result, progress=progress)
    values = jnp.where(result == RESULTS.successful, draws.values, jnp.zeros_like(draws.values))
    return Solution(values, worst(draws.results), draws.stats, {"results": draws.results})
