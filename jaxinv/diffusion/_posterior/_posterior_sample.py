"""The verb that samples the posterior under a diffusion prior, and its default method."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import check_count, check_key
from ..._jit import verb
from ..._score import AbstractScore
from ..._solution import RESULTS, Solution
from ..._types import Checked, IntLike, Key, ProgressMeter, State
from ...likelihood import Likelihood, misfit, prepare
from ...operators import AbstractLinearOperator
from .._scores._score import cast_process, takes_score
from ._dps import DPS
from ._look_ahead import LookAhead
from ._method import AbstractPosteriorMethod, run_method
from ._moment_matching import MomentMatching
from ._tds import TDS

_FROM_MILD_TO_GRAVE = (
    "implausible",
    "max_steps_reached",
    "weight_collapse",
    "breakdown",
    "diverged",
    "nonfinite",
    "invalid_parameter",
    "nonfinite_measurement",
)
# `TDS` takes a few vector-Jacobian products for each measurement and particle in each step, or one for each pixel. It
# can afford them for few measurements, and for more of them where images are so small that the products are cheap.
FEW_MEASUREMENTS, MAX_TWISTED_MEASUREMENTS, SMALL_IMAGE = 16, 48, 128
# A larger image is that of a large network, whose products are dear: the fewest particles that hold the samples.
LEAST_PARTICLES, MOST_PARTICLES = 256, 1024
# `LookAhead` takes a product for each pixel.
TINY_IMAGE = 16
# For samples of the posterior, the square of the whitened residual is chi-square distributed, on average over
# measurements. Its mean over samples is implausible beyond this multiple of its mean and of its deviation, which one
# problem in ten thousand exceeds.
_FACTOR, _DEVIATIONS = 3.0, 8.0
# The default share below which weights are tempered. An exact score does not reach it: on mixtures of 25 modes at least
# a sixth of the particles is effective.
_TEMPERED = 0.05


def default_method(likelihood: Likelihood, num_samples: int = 1) -> AbstractPosteriorMethod[Any, Any]:
    """`TDS` where its products are affordable, otherwise `MomentMatching`, or `DPS` if the operator is not linear."""
    domain: Any = likelihood.operator.domain
    small = math.prod(domain.shape) <= SMALL_IMAGE
    if not likelihood.is_linear_gaussian and math.prod(domain.shape) <= TINY_IMAGE:
        return TDS(LookAhead(), particles=MOST_PARTICLES, temper_below=_TEMPERED)
    if not isinstance(likelihood.operator, AbstractLinearOperator):
        return DPS()
    codomain: Any = likelihood.operator.codomain
    real = lambda leaf: math.prod(leaf.shape) * (2 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else 1)
    measurements = sum(real(leaf) for leaf in jax.tree.leaves(codomain))
    if measurements <= FEW_MEASUREMENTS or (measurements <= MAX_TWISTED_MEASUREMENTS and small):
        enough = 2 ** math.ceil(math.log2(num_samples))
        particles = MOST_PARTICLES if small else min(max(enough, LEAST_PARTICLES), MOST_PARTICLES)
        return TDS(particles=particles, temper_below=_TEMPERED)
    return MomentMatching()


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
    progress: ProgressMeter | None = None,
) -> Solution:
    """Sample the posterior `p(x | y) ~ p(y | x) p(x)` under the prior that a score has learned.

    **Arguments:**

    - `likelihood`: operator and noise, on images of the shape of the score's.
    - `score`: the score of the prior, as for `sample`.
    - `y`: one measurement.
    - `key`: a typed key; sample `i` depends on the key, `i`, the problem and the method, never on `num_samples`.
    - `method`: the sampling method; by default `TDS` for up to 16 measurements, and for up to 48 of images of up to 128
        pixels, otherwise `MomentMatching()`. `TDS` has 1024 particles, for images of more than 128 pixels only 256, or
        the power of two that holds `num_samples`. For operators that are not linear it is
        `TDS(LookAhead(), particles=1024)` for images of up to 16 pixels, as for photon noise, and otherwise `DPS()`.
        See "Which method for my problem" in the README.
    - `num_samples`: the number of samples, static; for a particle method at most its number of particles.
    - `progress`: a diffrax progress meter.

    **Returns:** a `Solution`; the value is always `(num_samples, *shape)`. The result is the gravest code of the
    samples: `nonfinite` if a score became NaN or infinite (that sample is its last finite state), `weight_collapse` if
    a particle method lost its effective particles, and `implausible` if the samples of `TDS`, `MomentMatching`, `TMPD`
    or `PiGDM`, or of the default whatever it is, do not explain the measurement as its noise would; `aux`
    has the `results` of the samples. `stats` has `num_steps`, `network_evaluations` and `vjps`, the vector-Jacobian
    products of the score, for each sample or for a whole cloud, and for those methods `discrepancy`, the mean over the
    samples of `||S^{-1/2} (y - A x)||^2 / m`, which is about 1 for `m` measurements of noise with the covariance `S`:
    it is implausible beyond a factor of 3 and eight standard deviations of its law.

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
    chosen_here = method is None
    method = default_method(likelihood, num_samples) if method is None else method
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
    combined = combine_results(results)
    # A method that the user did not choose is held to the measurement too.
    if method.weighs_the_measurement or chosen_here:
        ratio, plausible = explained(likelihood, y, values)
        stats = stats | {"discrepancy": ratio}
        combined = RESULTS.where(plausible | (combined != RESULTS.successful), combined, RESULTS.implausible)
    return Solution(values, combined, stats, {"results": results})


def explained(likelihood: Likelihood, y: State, samples: Array) -> tuple[Array, Array]:
    """The mean over samples of the squared whitened residual over its number, and whether it is plausible."""
    likelihood, y, _ = prepare(likelihood, y)
    squares, counts = jax.vmap(lambda x: misfit(likelihood, y, x))(samples)
    square, count = jnp.mean(squares), counts[0]
    margin = _DEVIATIONS * jnp.sqrt(2 * count)
    plausible = (square <= _FACTOR * count + margin) & (square >= count / _FACTOR - margin)
    # Without noise, or without a measurement, nothing can be said; what is not finite has a code of its own.
    known = (count > 0) & jnp.isfinite(square)
    return jnp.where(known, square / jnp.maximum(count, 1), 0), plausible | ~known


def combine_results(results: RESULTS) -> RESULTS:
    """The gravest of the codes of a set of samples."""
    code = RESULTS.successful
    for name in _FROM_MILD_TO_GRAVE:
        item = getattr(RESULTS, name)
        code = RESULTS.where(jnp.any(results == item), item, code)
    return code
