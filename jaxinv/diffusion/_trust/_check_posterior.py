"""A check of posterior samples that needs neither the truth nor a reference sampler."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Bool, Float

from ..._arrays import check_key, subkeys
from ..._jit import verb
from ..._module import Module
from ..._report import is_readable, number, table
from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import IntLike, Key, Scalar, State
from ...likelihood import Likelihood, prepare
from ...metrics import SteinTest, stein_test
from .._posterior._posterior_sample import check_likelihood
from .._scores._score import cast_process, takes_score
from ._at_noise import (
    SIGNIFICANCE,
    check_draws,
    check_set,
    effective_size,
    in_units,
    noised,
    posterior_scores,
    spread_of,
    time_of,
)

# Simulated measurements for each sample; together they are the reference law of the misfit.
_REPLICATES = 8
# A smaller share of different samples says that a particle method has lost its particles.
_FEW = 0.1


class PosteriorCheck(Module):
    """The result of `check_posterior`. `print` shows it as a table, and `plotting.posterior_check` draws it.

    - `stein`: the kernel Stein discrepancy of the samples, its p-value and its floor, a `metrics.SteinTest`.
    - `spread`, `spread_error`: `-E[(x - E x) . s(x)] / d`, which is 1 for the posterior and smaller for samples that
      are too narrow, and its standard error.
    - `spread_p_value`: the two-sided p-value of that.
    - `misfit`: `-log p(y | x)` at each sample, `(n,)`.
    - `replicated_misfit`: that of measurements simulated from the samples, `(n, 8)`.
    - `misfit_p_value`: the two-sided p-value of the mean misfit among the simulated ones.
    - `effective`: the number of different samples.
    - `num_samples`, `significance`: static.
    """

    stein: SteinTest
    spread: Float[Array, ""]
    spread_error: Float[Array, ""]
    spread_p_value: Float[Array, ""]
    misfit: Float[Array, " n"]
    replicated_misfit: Float[Array, "n replicates"]
    misfit_p_value: Float[Array, ""]
    effective: Float[Array, ""]
    num_samples: int = eqx.field(static=True)
    significance: float = eqx.field(default=SIGNIFICANCE, static=True)

    @property
    def p_values(self) -> dict[str, Float[Array, "..."]]:
        """The three p-values by name."""
        return {
            "kernel Stein discrepancy": self.stein.p_value,
            "spread": self.spread_p_value,
            "misfit of y": self.misfit_p_value,
        }

    @property
    def passed(self) -> Bool[Array, "..."]:
        """Whether no p-value is below a third of `significance`, and the samples are different ones."""
        smallest = jnp.min(jnp.stack(list(self.p_values.values())), axis=0)
        return (smallest >= self.significance / 3) & (self.effective >= _FEW * self.num_samples)

    @property
    def verdict(self) -> str:
        """The verdict in words; outside of `jax.jit` and of one check."""
        if bool(self.passed):
            return "nothing speaks against these samples."
        wrong, level = [], self.significance / 3
        if not bool(jnp.isfinite(self.stein.p_value + self.spread + self.misfit_p_value)):
            return "not to be trusted: a sample, a score or the measurement is not finite."
        if self.effective < _FEW * self.num_samples:
            wrong.append(f"only {float(self.effective):.0f} of {self.num_samples} samples are different")
        if self.spread_p_value < level:
            wrong.append(f"they spread too {'little' if self.spread < 1 else 'much, or miss where the posterior is'}")
        if self.stein.p_value < level:
            wrong.append("they are not distributed as the score says")
        if self.misfit_p_value < level:
            more = jnp.mean(self.misfit) > jnp.mean(self.replicated_misfit)
            wrong.append(f"they fit y {'worse' if more else 'better'} than its noise allows")
        return "not to be trusted: " + "; ".join(wrong) + "."

    def __repr__(self) -> str:
        if not is_readable(self.spread) or jnp.ndim(self.spread):
            return super().__repr__()
        level = self.significance / 3
        mark = lambda p: f"{number(p)}{'' if p >= level else ' (!)'}"
        few = "" if self.effective >= _FEW * self.num_samples else "(!)"
        expected = f"{number(self.replicated_misfit.mean())} +- {number(self.replicated_misfit.std())}"
        rows = [
            ("kernel Stein discrepancy", number(self.stein.discrepancy), f"< {number(self.stein.floor)}", self.stein),
            ("spread", number(self.spread), f"1 +- {number(self.spread_error)}", self.spread_p_value),
            ("misfit of y, -log p(y | x)", number(jnp.mean(self.misfit)), expected, self.misfit_p_value),
        ]
        lines = [(a, b, c, mark(getattr(p, "p_value", p))) for a, b, c, p in rows]
        lines.append(("different samples", number(self.effective), str(self.num_samples), few))
        title = f"check of {self.num_samples} posterior samples; a p-value below {level:.4f} fails"
        return table(title, ("", "found", "expected", "p-value"), lines, self.verdict)


@takes_score(likelihood=check_likelihood)
@verb(traced=("noise",))
def check_posterior(
    likelihood: Likelihood,
    score: AbstractScore,
    samples: State,
    y: State,
    *,
    key: Key,
    noise: Scalar | None = None,
    num_draws: IntLike = 1000,
) -> PosteriorCheck:
    """Check samples of `p(x | y)` against the score of the prior and the likelihood, without knowing the truth.

    Four questions, each with an answer that holds for exact samples:

    - Are they distributed as the score of the posterior says? The kernel Stein discrepancy of `stein_test`, in units of
      each entry's deviation, against what independent exact draws have.
    - Do they spread as much as the posterior does? Stein's identity `-E[(x - E x) . s(x)] = d`, which counts each
      direction by its own scale, and finds samples that are too narrow or too wide also in many dimensions.
    - Do they explain `y`? The mean of `-log p(y | x)` among that of measurements simulated from the samples. Under the
      prior and a `y` that it could have made, few problems in a hundred are outside; so this also finds a prior that
      does not fit the measured object.
    - Are they different samples, or copies of a few particles?

    A learned score is that of noised images. So the samples are noised too, and compared with the score of the noised
    posterior: exact for linear operators, Gaussian noise and a Gaussian prior, and otherwise in the limit of little
    noise (to second order for Gaussian noise, and to first order for photon noise).

    It cannot detect wrong weights of modes that lie far apart (use `check_calibration`), nor a wrong prior whose
    posterior the samples follow (use `check_prior`). The samples must be independent: thin a chain first.

    **Arguments:**

    - `likelihood`: operator and noise.
    - `score`: the score of the prior, as for `posterior_sample`.
    - `samples`: posterior samples of one problem, `(n, *shape)`, at least eight; some hundreds for power.
    - `y`: the measurement.
    - `key`: a typed key for the noise.
    - `noise`: the deviation of that noise relative to the image, `std / scale` of the process; by default that of
      `t_min`. Raise it for a network that is inaccurate at low noise levels, to at most half of the noise of `y`.
    - `num_draws`: the number of draws of the null law of the kernel Stein discrepancy, static; at least 300.

    **Returns:** a `PosteriorCheck`, whose `print` is a table with a verdict, and whose `passed` is a boolean. It takes
    one evaluation of the score for each sample, and with Gaussian noise up to fifty vector-Jacobian products,
      usually about ten.

    **Raises:** `ValueError` for samples of another shape than the domain, or fewer than eight.

    **Reference:** Liu, Lee, Jordan, A Kernelized Stein Discrepancy for Goodness-of-fit Tests, 2016; Gelman, Meng,
    Stern, Posterior predictive assessment of model fitness via realized discrepancies, 1996.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        from jaxinv import diffusion, oracles
        prior = oracles.Gaussian(jnp.ones((4, 4, 1)), 0.1 * jnp.eye(16))
        score = prior.score(diffusion.VP())
        likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((4, 4, 1), 2), jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(prior.sample(1, key=jax.random.key(0))[0], key=jax.random.key(1))
        exact = prior.posterior(likelihood, y)
        samples = exact.sample(200, key=jax.random.key(2))
        print(diffusion.check_posterior(likelihood, score, samples, y, key=jax.random.key(3)))
        narrow = 0.5 * samples + 0.5 * exact.mean[None]
        print(diffusion.check_posterior(likelihood, score, narrow, y, key=jax.random.key(3)))
        ```

    Measured, on a mixture of two modes in 4 dimensions with one measurement, 100 samples each (tests): of 100 problems
    at least 93 pass with exact draws, under a tenth with 60 % of the variance or with a shift of .3, and none with
    copies of one draw.
    """
    check_key(key)
    check_draws(num_draws, SIGNIFICANCE / 3)
    domain: Any = likelihood.operator.domain
    samples = check_set(samples, domain, "samples", "check_posterior").astype(domain.dtype)
    score = cast_process(score, domain.dtype)
    likelihood, y, code = prepare(likelihood, y)
    noise_key, sign_key, replicate_key = subkeys(key, 3)
    t = time_of(score.process, noise, domain.dtype)
    states = noised(score.process, t, samples, key=noise_key)
    scores = posterior_scores(likelihood, score, t, states, y)
    spread, error = spread_of(states, scores)
    stein = stein_test(*in_units(states, scores), key=sign_key, num_draws=num_draws)

    def misfits(x: Array, key: Key) -> tuple[Array, Array]:
        misfit = lambda y: likelihood.negative_log_likelihood(x, y)
        simulated = jax.vmap(lambda key: misfit(likelihood.simulate(x, key=key)))(jax.random.split(key, _REPLICATES))
        return misfit(y), simulated

    misfit, replicated = jax.vmap(misfits)(samples, jax.random.split(replicate_key, len(samples)))
    # The mean of exact samples varies less, over problems, than one of them: the p-value is almost an upper bound.
    below = jnp.mean(replicated <= jnp.mean(misfit))
    at_least = 1 / replicated.size
    misfit_p = 2 * jnp.clip(jnp.minimum(below, 1 - below), at_least / 2, 0.5)
    spread_p = 2 * ndtr(-jnp.abs(spread - 1) / error)
    good = code == RESULTS.successful
    mark = lambda value: jnp.where(good & jnp.isfinite(jnp.sum(misfit)), value, jnp.nan)
    return PosteriorCheck(
        jax.tree.map(mark, stein),
        mark(spread),
        mark(error),
        mark(spread_p),
        misfit,
        replicated,
        mark(misfit_p),
        effective_size(samples),
        len(samples),
    )
