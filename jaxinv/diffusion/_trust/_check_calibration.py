"""Simulation-based calibration of a posterior method under a diffusion prior."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import check_count, check_key, subkeys
from ..._jit import verb
from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import Checked, IntLike, Key, Scalar, State
from ...likelihood import Likelihood
from ...metrics import Calibration, calibration_ranks, coverage
from .._posterior._method import AbstractPosteriorMethod
from .._posterior._posterior_sample import check_likelihood, posterior_sample
from .._samplers._dpm_solver import DPMSolver
from .._samplers._sample import sample
from .._samplers._sampler import AbstractSampler
from .._scores._score import takes_score
from ._at_noise import check_set


@takes_score(likelihood=check_likelihood)
@verb
def check_calibration(
    likelihood: Likelihood,
    score: AbstractScore,
    *,
    key: Key,
    method: Checked[AbstractPosteriorMethod[Any, Any] | None] = None,
    num_problems: IntLike = 100,
    num_samples: IntLike = 31,
    images: State | None = None,
    sampler: AbstractSampler = DPMSolver(50),  # noqa: B008
    quantities: Checked[Mapping[str, Callable[[Array, State], Array]] | None] = None,
    level: Scalar = 0.9,
    batch_size: IntLike = 10,
) -> Calibration:
    """Check by simulation whether a posterior method is calibrated under a prior: ranks and coverage, with a verdict.

    For each of many problems an image is drawn from the prior, a measurement is simulated, and the posterior is
    sampled. For an exact method the image is then one more sample of its own posterior: its ranks among the samples are
    uniform, and a central interval covers it with the probability of the interval. That holds for every prior and every
    likelihood, and needs no exact posterior; it detects errors that a check of one problem cannot, such as wrong
    weights of modes. A method may fail for some problems and pass on average.

    With `images` that the prior was not trained on, in place of its own draws, the prior is checked too: a failure that
    occurs only then is due to the prior.

    **Arguments:**

    - `likelihood`: operator and noise.
    - `score`: the score of the prior, as for `posterior_sample`.
    - `key`: a typed key; problem `i` depends on the key, `i` and the settings, not on `num_problems`.
    - `method`: the posterior method; by default that of `posterior_sample`.
    - `num_problems`: static; scores grow with its root, and a hundred find a deviation that is 15 % too small.
    - `num_samples`: the samples of each problem, static; `num_samples + 1` should have divisors, for histograms.
    - `images`: images in place of draws of the prior, at least `num_problems`, `(n, *shape)`.
    - `sampler`: the sampler of the draws of the prior; its bias counts as one of the method.
    - `quantities`: functions `(x, y) -> scalar` by name, whose ranks are taken. By default the `mean` of an image, its
      `energy` `||x||^2`, the `misfit` `-log p(y | x)`, which finds a posterior that ignores `y`, and two random
      `direction`s.
    - `level`: the probability of the intervals of the coverage, a Python number.
    - `batch_size`: how many problems are solved at once, static; lower it where memory is scarce.

    **Returns:** a `metrics.Calibration`, whose `print` is a table with a verdict, and whose `passed` is a boolean. A
    problem whose solution is not `successful` does not count; `num_failed` says how many.

    **Raises:** as `posterior_sample`, and `ValueError` for fewer `images` than problems.

    **Reference:** Talts, Betancourt, Simpson, Vehtari, Gelman, Validating Bayesian Inference Algorithms with
    Simulation-Based Calibration, 2018; Modrák et al., Simulation-Based Calibration Checking for Bayesian Computation:
    The Choice of Test Quantities Shapes Sensitivity, 2023.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        from jaxinv import diffusion, oracles
        score = oracles.Gaussian(jnp.ones((4, 4, 1)), 0.1 * jnp.eye(16)).score(diffusion.VP())
        likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((4, 4, 1), 2), jaxinv.noise.Gaussian(0.1))
        check = diffusion.check_calibration(
            likelihood, score, key=jax.random.key(0), method=diffusion.PiGDM(20), num_problems=20
        )
        print(check)
        ```
    """
    check_key(key)
    check_count(num_problems, "num_problems")
    check_count(num_samples, "num_samples")
    check_count(batch_size, "batch_size")
    domain: Any = likelihood.operator.domain
    if images is not None:
        images = check_set(images, domain, "images", "check_calibration", 1).astype(domain.dtype)
        if len(images) < num_problems:
            raise ValueError(
                f"`images` holds {len(images)} images, fewer than `num_problems={num_problems}`: each problem takes "
                "another one."
            )
        images = images[:num_problems]
    directions_key, problems_key = subkeys(key, 2)
    directions = jax.random.normal(directions_key, (2, *domain.shape), domain.dtype)
    functions = _default(likelihood, directions) if quantities is None else dict(quantities)

    def problem(inputs: tuple[Array, Array | None]) -> tuple[dict[str, Array], Array]:
        index, image = inputs
        draw_key, noise_key, sample_key = subkeys(jax.random.fold_in(problems_key, index), 3)
        good = jnp.ones((), bool)
        if image is None:
            drawn = sample(score, domain, key=draw_key, method=sampler)
            image, good = drawn.value, drawn.result == RESULTS.successful
        y = likelihood.simulate(image, key=noise_key)
        solution = posterior_sample(likelihood, score, y, key=sample_key, method=method, num_samples=num_samples)
        good &= solution.result == RESULTS.successful
        rank = lambda quantity: calibration_ranks(solution.value, image, lambda x: quantity(x, y))
        ranks = {name: jnp.where(good, rank(quantity), -1) for name, quantity in functions.items()}
        return ranks, jnp.where(good, coverage(solution.value, image, level=level), jnp.nan)

    indices = jnp.arange(num_problems)
    ranks, covered = jax.lax.map(problem, (indices, images), batch_size=min(batch_size, num_problems))
    return Calibration(ranks, covered, num_samples, float(level))


def _default(likelihood: Likelihood, directions: Array) -> dict[str, Callable[[Array, State], Array]]:
    along = lambda direction: lambda x, y: jnp.sum(x * direction)
    return {
        "mean": lambda x, y: jnp.mean(x),
        "energy": lambda x, y: jnp.sum(x**2),
        "misfit": likelihood.negative_log_likelihood,
        "direction 1": along(directions[0]),
        "direction 2": along(directions[1]),
    }
