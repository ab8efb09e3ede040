"""The verb that samples the posterior under a diffusion prior, and its default method."""

import math
from typing import Any

import diffrax
import jax
import jax.numpy as jnp

from ..._arrays import check_count, check_key
from ..._jit import verb
from ..._score import AbstractScore
from ..._solution import RESULTS, Solution
from ..._types import Checked, IntLike, Key, State
from ...likelihood import Likelihood
from ...operators import AbstractLinearOperator
from .._scores._score import cast_process, takes_score
from ._dps import DPS
from ._method import AbstractPosteriorMethod, run_method
from ._moment_matching import MomentMatching
from ._tds import TDS

_FROM_MILD_TO_GRAVE = (
    "max_steps_reached",
    "weight_collapse",
    "breakdown",
    "diverged",
    "nonfinite",
    "invalid_parameter",
    "nonfinite_measurement",
)
# Up to this number of measurements, `TDS` can afford a vector-Jacobian product for each of them.
MAX_TWISTED_MEASUREMENTS = 16
# The default share below which weights are tempered. An exact score does not reach it: on mixtures of 25 modes at least
# a sixth of the particles is effective.
_TEMPERED = 0.05


def default_method(likelihood: Likelihood) -> AbstractPosteriorMethod[Any, Any]:
    """`TDS` for few measurements, which may leave many modes, otherwise `MomentMatching`; `DPS` if not linear."""
    if not isinstance(likelihood.operator, AbstractLinearOperator):
        return DPS()
    codomain: Any = likelihood.operator.codomain
    real = lambda leaf: math.prod(leaf.shape) * (2 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else 1)
    measurements = sum(real(leaf) for leaf in jax.tree.leaves(codomain))
    return TDS(particles=1024, temper_below=_TEMPERED) if measurements <= MAX_TWISTED_MEASUREMENTS else MomentMatching()


def check_likelihood(likelihood: Any) -> None:
    """Raise unless `likelihood` is a `Likelihood` on one real array."""
    if not isinstance(likelihood, Likelihood):
        raise ValueError(
            f"`likelihood` must be a `jaxinv.Likelihood(operator, noise)`; got {type(likelihood).__name__}. The "
            "measurement `y` is the last positional argument."
        )
    domain: Any = likelihood.operator.domain
    if isinstance(domain, tuple) or jnp.issubdtype(domain.dtype, jnp.complexfloating):
        raise ValueError(
            f"Scores are of real images; the operator takes {domain}. A real image enters a complex operator by "
            "`operator @ operators.Real(shape)`."
        )


@takes_score(likelihood=check_likelihood)
@verb
def posterior_sample(
    likelihood: Likelihood,
    score: AbstractScore,
    y: State,
    *,
    key: Key,
    method: Checked[AbstractPosteriorMethod[Any, Any] | None] = None,
    num_samples: IntLike = 1,
    progress: diffrax.AbstractProgressMeter[Any] | None = None,
) -> Solution:
    """Sample the posterior `p(x | y) ~ p(y | x) p(x)` under the prior that a score has learned.

    **Arguments:**

    - `likelihood`: operator and noise, on images of the shape of the score's.
    - `score`: the score of the prior, as for `sample`.
    - `y`: one measurement.
    - `key`: a typed key; sample `i` depends on the key, `i`, the problem and the method, never on `num_samples`.
    - `method`: the sampling method; by default `TDS(particles=1024)` for up to 16 measurements, otherwise
        `MomentMatching()`, and `DPS()` for operators that are not linear. See "Which method for my problem" in the
        README.
    - `num_samples`: the number of samples, static; for a particle method at most its number of particles.
    - `progress`: a diffrax progress meter.

    **Returns:** a `Solution`; the value is always `(num_samples, *shape)`. The result is the gravest code of the
    samples: `nonfinite` if a score became NaN or infinite (that sample is its last finite state), `weight_collapse` if
    a particle method lost its effective particles; `aux` has the `results` of the samples. `stats` has `num_steps`,
    `network_evaluations` and `vjps`, the vector-Jacobian products of the score, for each sample or for a whole cloud.

    **Raises:** `ValueError` if the method does not support this operator or this noise, for sizes that are not positive
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
    particles = method.num_particles
    if particles is not None and num_samples > particles:
        raise ValueError(
            f"`num_samples` is {num_samples}, of a cloud of {particles} particles: take "
            f"`{type(method).__name__}(particles={2 ** math.ceil(math.log2(num_samples))})`, or map over keys."
        )
    problem, code = method.prepare(likelihood, score, y)
    times = method.times(score.process)
    run = lambda key: run_method(method, problem, times, code, key=key, progress=progress)
    # Sample i depends on the key and i, never on the number of samples.
    draw = lambda index: run(jax.random.fold_in(key, index))
    if particles is None and num_samples == 1:
        # A loop over one sample compiles faster without `vmap`, which traces it twice more.
        values, results, stats = jax.tree.map(lambda leaf: leaf[None], draw(0))
    elif particles is None:
        values, results, stats = jax.vmap(draw)(jnp.arange(num_samples))
    else:
        values, results, stats = run(key)
        values = values[:num_samples]
    values = jnp.where(code == RESULTS.successful, values, jnp.zeros_like(values))
    return Solution(values, combine_results(results), stats, {"results": results})


def combine_results(results: RESULTS) -> RESULTS:
    """The gravest of the codes of a set of samples."""
    code = RESULTS.successful
    for name in _FROM_MILD_TO_GRAVE:
        item = getattr(RESULTS, name)
        code = RESULTS.where(jnp.any(results == item), item, code)
    return code
