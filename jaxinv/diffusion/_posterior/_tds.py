"""The twisted diffusion sampler: sequential Monte Carlo around a guidance."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import as_parameter, check_count, safe_sqrt, subkeys
from ..._score import AbstractProcess, AbstractScore
from ..._solution import RESULTS
from ..._types import Checked, IntLike, Key, PyTree, State, Stats
from ...likelihood import Likelihood
from ...requirements import Requirement, requirement, share
from .._processes._process import is_data
from ._guidance import AbstractGuidance, AbstractTwist
from ._method import AbstractPosteriorMethod
from ._moment_matching import MomentMatching

# Fewer effective particles than this share: report weight_collapse.
_COLLAPSED = 0.01
# A larger standard error of the log-evidence, of which the weights of a mode can have as much: report weight_collapse.
_UNKNOWN = 1.0
# The number of powers to try, each half of the previous one; the last flattens even log-weights of 1000.
_POWERS = 14


class TDS(AbstractPosteriorMethod[PyTree, "Cloud"]):
    """Twisted diffusion sampler: a guidance moves particles, weights correct its approximation, and it resamples them.

    With `psi_t` the twist at a state, the weight of a particle that moves from `x_t` to `x_s` is multiplied by
    `p(x_s | x_t) psi_s(x_s) / (q(x_s | x_t) psi_t(x_t))`. So the samples are those of the posterior up to
    `O(particles^-1/2)`, and to the length of the steps, for any guidance; a good one needs fewer particles. It
    resamples systematically when the share of effective particles is below `resample_below`, and at the end. The
    samples of one call are members of one cloud, and not independent of each other.

    - `proposal`: the guidance that moves the particles, with its steps and schedule: `MomentMatching()` (the default)
        or `TMPD()`, for few measurements, since they cost a vector-Jacobian product for each; `PiGDM()`; or
        `LookAhead()`, for small images, or `DPS()`, which accept any operator and any noise.
    - `twist`: the twist that weights the particles; by default `proposal.twist()`. `DPS()`, `PiGDM()` and `TMPD()`
        propose moves for the twists of each other.
    - `particles`: the number of particles, static; all are in memory at once.
    - `resample_below`: the share of effective particles, between 0 and 1, below which it resamples.
    - `temper_below`: the share of effective particles below which all weights are raised to the first power among 1/2,
        1/4 and so on that restores it. The default is 0, never. Set it for a learned score, whose error at large noise
        weighs like data: an error of a few tenths of a per cent leaves one effective particle of a thousand. Tempered,
        the cloud lies between the samples of `TDS` and those of its guidance.

    `stats` also has `effective_particles`, the smallest effective sample size of the run; `log_evidence`, an estimate
    of `log p(y)`, and `log_evidence_error`, an estimate of its standard error; and `tempered`, the number of steps at
    which weights were tempered. Each particle keeps the factors that tempering took from its weight, and the estimate
    of the evidence contains them: it estimates the evidence with tempering as without, with the larger error that it
    reports. The error is computed from the ancestors of the particles in the first cloud, which are fewer with each
    resampling: it is too large rather than too small, and infinite if they have only one. The result is
    `weight_collapse` below 1 % of effective particles, or two, and above an error of 1 (`16 particles^{-1/2}` for less
    than 256 particles).

    **References:** Wu, Trippe, Naesseth, Blei, Cunningham, Practical and asymptotically exact conditional sampling in
    diffusion models, 2023. Lee, Whiteley, Variance estimation in the particle filter, 2018.

    Measured for a Gaussian prior (benchmarks, posterior gaussian: a row of 16 pixels blurred, every fourth of them):
    Wasserstein-2 to the posterior .015 and .014 of its size, which is that of exact draws; 1.00 and .99 of its
    variance.
    """

    proposal: Checked[AbstractGuidance] = MomentMatching()
    twist: Checked[AbstractTwist | None] = None
    particles: IntLike = eqx.field(default=256, static=True)
    resample_below: Array = eqx.field(default=0.5, converter=as_parameter)
    temper_below: Array = eqx.field(default=0.0, converter=as_parameter)

    def __check_init__(self):
        if not isinstance(self.proposal, AbstractGuidance):
            raise ValueError(
                f"`proposal` must be `MomentMatching()`, `TMPD()`, `PiGDM()`, `LookAhead()` or `DPS()`; got "
                f"{self.proposal!r}."
            )
        if not (self.twist is None or isinstance(self.twist, AbstractTwist)):
            raise ValueError(f"`twist` must be None or a twist, such as `DPS().twist()`; got {self.twist!r}.")
        check_count(self.particles, "particles")

    def requirements(self) -> tuple[Requirement, ...]:
        return (
            requirement(
                "`TDS` weighs random moves: the `eta` of its proposal must be positive",
                getattr(self.proposal, "eta", None),
                lambda v: v > 0,
            ),
            share("resample_below", self.resample_below),
            share("temper_below", self.temper_below),
        )

    @property
    def num_steps(self) -> int:
        return self.proposal.num_steps

    @property
    def num_particles(self) -> int:
        return self.particles

    @property
    def evaluations_per_step(self) -> int:
        return self.particles

    @property
    def weighs_the_measurement(self) -> bool:
        return True

    def prepare(self, likelihood: Likelihood, score: AbstractScore, y: State) -> tuple[PyTree, RESULTS]:
        return self._twist().prepare(likelihood, score, y)

    def times(self, process: AbstractProcess) -> Array:
        return self.proposal.times(process)

    def init(self, problem: PyTree, *, key: Key) -> "Cloud":
        process, image = problem.process, problem.image
        draw = lambda key: process.prior_sample(image.shape, key=key, dtype=image.dtype)
        return Cloud.from_particles(jax.vmap(draw)(self._keys(key)))

    def step(
        self, problem: PyTree, cloud: "Cloud", t: Array, t_next: Array, *, key: Key
    ) -> tuple["Cloud", Array, RESULTS]:
        twist, process, count = self._twist(), problem.process, self.particles
        twist_key, resampling_key, move_key = subkeys(key, 3)
        evaluate = lambda x, key: twist.evaluate(problem, t, t_next, x, key=key)
        views = jax.vmap(evaluate)(cloud.x, self._keys(twist_key))
        cloud = cloud.weigh(views.log_twist, self.temper_below)
        resampled = effective(cloud.log_weights) < self.resample_below.astype(cloud.x.dtype) * count
        # `finish` draws from the last images, with the weights of the state before.
        resampled &= ~is_data(t_next)
        chosen = jnp.where(resampled, cloud.choose(resampling_key), jnp.arange(count, dtype=jnp.int32))
        x, views, kept, ancestors = jax.tree.map(
            lambda leaf: leaf[chosen], (cloud.x, views, cloud.kept, cloud.ancestors)
        )
        propose = lambda x, view, key: self.proposal.propose(process, t, t_next, x, view, key=key)
        x, log_ratio = jax.vmap(propose)(x, views, self._keys(move_key))
        collapsed = cloud.least < jnp.maximum(_COLLAPSED * count, min(2, count / 2))
        cloud = Cloud(
            x=x,
            log_weights=jnp.where(resampled, 0, cloud.log_weights) + log_ratio,
            log_twist=views.log_twist,
            kept=kept,
            ancestors=ancestors,
            log_evidence=cloud.log_evidence + jnp.where(resampled, log_mean(cloud.log_weights), 0),
            least=cloud.least,
            num_tempered=cloud.num_tempered,
            num_vjps=cloud.num_vjps + jnp.sum(views.num_vjps, dtype=jnp.int32),
        )
        _, error = cloud.evidence()
        collapsed |= error > max(_UNKNOWN, 16 / math.sqrt(count))
        # Report a collapse only at the end, so that the samples exist for inspection.
        return cloud, collapsed & is_data(t_next), RESULTS.weight_collapse

    def finish(self, problem: PyTree, cloud: "Cloud", *, key: Key) -> tuple[Array, Stats]:
        del problem
        chosen = cloud.choose(jax.random.fold_in(key, 0))
        order = jax.random.permutation(jax.random.fold_in(key, 1), self.particles)
        log_evidence, error = cloud.evidence()
        stats = {
            "vjps": cloud.num_vjps,
            "effective_particles": cloud.least,
            "log_evidence": log_evidence,
            "log_evidence_error": error,
            "tempered": cloud.num_tempered,
        }
        return cloud.x[chosen][order], stats

    def _twist(self) -> AbstractTwist:
        return self.proposal.twist() if self.twist is None else self.twist

    def _keys(self, key: Key) -> Key:
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(self.particles))


class Cloud(eqx.Module):
    """Particles and their weights.

    - `log_weights`: the log-weights since the last resampling, without the twist of the present state.
    - `log_twist`: the log-twist of the previous state.
    - `kept`: the logarithms of the factors that tempering took from the weights.
    - `ancestors`: the numbers of the particles of the first cloud that these descend from.
    - `log_evidence`: the estimate of the log-evidence up to the last resampling, without what was kept.
    - `least`: the smallest effective sample size so far.
    """

    x: Array
    log_weights: Array
    log_twist: Array
    kept: Array
    ancestors: Array
    log_evidence: Array
    least: Array
    num_tempered: Array
    num_vjps: Array

    @staticmethod
    def from_particles(x: Array) -> "Cloud":
        zeros, zero, count = jnp.zeros(len(x), x.dtype), jnp.zeros((), x.dtype), jnp.zeros((), jnp.int32)
        ancestors = jnp.arange(len(x), dtype=jnp.int32)
        return Cloud(x, zeros, zeros, zeros, ancestors, zero, zero + len(x), count, count)

    def weigh(self, log_twist: Array, least_share: Array) -> "Cloud":
        """The cloud weighted by the twist of its present state, and tempered below the share `least_share`."""
        full = self.log_weights + log_twist - self.log_twist
        size = effective(full)
        log_weights = tempered(full, least_share.astype(size.dtype) * len(full))
        where = lambda c: (c.log_weights, c.log_twist, c.kept, c.least, c.num_tempered)
        num_tempered = self.num_tempered + jnp.any(log_weights != full).astype(jnp.int32)
        kept = self.kept + (full - log_weights)
        return eqx.tree_at(where, self, (log_weights, log_twist, kept, jnp.minimum(self.least, size), num_tempered))

    def evidence(self) -> tuple[Array, Array]:
        """An estimate of the log-evidence, and of its standard error.

        The estimate of the relative variance is that of Lee and Whiteley, section 3, from the shares `W_e` of the
        weight that the descendants of particle `e` of the first cloud have: `V = 1 - N / (N - 1) (1 - sum_e W_e^2)` for
        `N` particles. Their factor for each multinomial resampling is left out: it would take away what systematic
        resampling does not add, and estimates of 0 were the result. The error of the logarithm is
        `(-log(1 - V))^(1/2)`, which is `V^(1/2)` if that is small, and infinite if all descend from one particle.
        """
        log_weights = self.log_weights + self.kept
        count = len(log_weights)
        shares = jnp.zeros_like(log_weights).at[self.ancestors].add(jax.nn.softmax(log_weights))
        different = 1 - jnp.sum(shares**2)
        equal = math.log1p(-1 / count) if count > 1 else 0.0
        square = jnp.where(different > 0, equal - jnp.log(jnp.where(different > 0, different, 1)), jnp.inf)
        return self.log_evidence + log_mean(log_weights), safe_sqrt(square)

    def choose(self, key: Key) -> Array:
        """The indices of the particles that a systematic resampling selects."""
        count = len(self.log_weights)
        ends = jnp.cumsum(jax.nn.softmax(self.log_weights))
        places = (jax.random.uniform(key, (), ends.dtype) + jnp.arange(count, dtype=ends.dtype)) / count
        return jnp.clip(jnp.searchsorted(ends, places), 0, count - 1)


def log_mean(log_weights: Array) -> Array:
    """The logarithm of the mean weight."""
    return jax.nn.logsumexp(log_weights) - math.log(len(log_weights))


def effective(log_weights: Array) -> Array:
    """The effective sample size, `(sum w)^2 / sum w^2`."""
    return jnp.exp(2 * jax.nn.logsumexp(log_weights) - jax.nn.logsumexp(2 * log_weights))


def tempered(log_weights: Array, least: Array) -> Array:
    """The log-weights times the first of 1, 1/2, 1/4, ... at which at least `least` particles are effective."""
    powers = 0.5 ** jnp.arange(_POWERS, dtype=log_weights.dtype)
    sizes = jax.vmap(lambda power: effective(power * log_weights))(powers)
    return log_weights * powers[jnp.argmax(jnp.append(sizes[:-1] >= least, True))]
