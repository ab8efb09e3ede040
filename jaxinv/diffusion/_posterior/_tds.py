"""The twisted diffusion sampler: sequential Monte Carlo around a guidance."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..._checks import check_count
from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import Key, State
from ...likelihood import Likelihood
from ...operators._base import as_parameter, is_concrete
from .._processes._process import is_data
from .._samplers._sampler import check_share
from ._guidance import AbstractGuidance
from ._loops import run
from ._method import AbstractPosteriorMethod, Draws, counts
from ._moment_matching import MomentMatching

# Of the particles; with fewer that count the rest are copies.
_COLLAPSED = 0.01
# The least of them leaves weights of e^1000 even.
_POWERS = 14


class TDS(AbstractPosteriorMethod):
    """Twisted diffusion sampler: particles moved by a guidance, weighted by what it neglects, and resampled.

    With `psi_t` the twist of the guidance at a state, a particle that moves from `x_t` to `x_s` has its weight
    multiplied by `p(x_s | x_t) psi_s(x_s) / (q(x_s | x_t) psi_t(x_t))`. So the samples are those of the posterior up to
    `O(particles^-1/2)`, and to the length of the steps, whatever the guidance; a good one needs fewer particles. Below
    `resample_below` of effective particles they are resampled, systematically, and at the end. Samples of one call are
    members of one cloud: not independent of each other.

    Measured for a Gaussian prior (benchmarks, posterior gaussian: a row of 16 pixels blurred, every fourth of them):
    Wasserstein-2 to the posterior .015 and .013 of its size, which is that of exact draws; 1.00 and 1.00 of its
    variance.

    - `guidance`: `MomentMatching()` (default) or `TMPD()`, with a vector-Jacobian product for each measurement, so for
        few of them; `PiGDM()`, or `DPS()`, which takes any operator and any noise. Its steps and its schedule are used.
    - `particles`: static; all at once in memory.
    - `resample_below`: the share of effective particles, between 0 and 1.
    - `temper_below`: where the share of effective particles falls below this, all weights are raised to the power, 1/2,
        1/4 and so on, at which it does not. Default: 0, never. What a learned score errs at large noise weighs like
        data: an error of a few tenths of a per cent leaves one particle of a thousand. Tempered, the cloud lies between
        the samples of `TDS` and those of its guidance, and `log_evidence` no longer estimates the evidence.

    `stats` has also `effective_particles`, the least effective sample size on the way, and `log_evidence`, an estimate
    of `log p(y)`. Below 1 % of the particles, or two, the result is `weight_collapse`.

    **Reference:** Wu, Trippe, Naesseth, Blei, Cunningham, Practical and asymptotically exact conditional sampling in
    diffusion models, 2023.
    """

    guidance: Any = MomentMatching()
    particles: Any = eqx.field(default=256, static=True)
    resample_below: Array = eqx.field(default=0.5, converter=as_parameter)
    temper_below: Array = eqx.field(default=0.0, converter=as_parameter)

    def __check_init__(self):
        if not isinstance(self.guidance, AbstractGuidance):
            raise ValueError(
                f"`guidance` must be `MomentMatching()`, `TMPD()`, `PiGDM()` or `DPS()`; got {self.guidance!r}."
            )
        check_count(self.particles, "particles")
        eta = getattr(self.guidance, "eta", None)
        if eta is not None and is_concrete(eta) and not np.all(np.asarray(eta) > 0):
            raise ValueError(f"`TDS` weighs random moves: the `eta` of its guidance must be positive; got {eta}.")
        check_share(self.resample_below, "resample_below")
        check_share(self.temper_below, "temper_below")

    def enter(self, score: AbstractScore, likelihood: Likelihood, y: State) -> tuple[PyTree, Any]:
        return self.guidance.enter_twisted(score, likelihood, y)

    def draw(self, problem: PyTree, num_samples: int, *, key: Key, result: Any, progress: Any) -> Draws:
        if num_samples > self.particles:
            raise ValueError(
                f"`num_samples` is {num_samples}, of a cloud of {self.particles} particles: take "
                f"`TDS(particles={2 ** math.ceil(math.log2(num_samples))})`, or map over keys."
            )
        guidance, process, image = self.guidance, problem.process, problem.image
        times = guidance.times(process)
        keys = [jax.random.fold_in(key, i) for i in (0, 1, 3)]
        x = self._each(lambda key: process.prior_sample(image.shape, key=key, dtype=image.dtype), keys[0])
        cloud = Cloud.start(x)
        args = (self, problem, times, keys[1])
        cloud, num_steps, result = run(_step, cloud, args, guidance.num_steps, result, progress)
        chosen = cloud.choose(jax.random.fold_in(keys[2], 0))
        order = jax.random.permutation(jax.random.fold_in(keys[2], 1), self.particles)[:num_samples]
        collapsed = cloud.least < jnp.maximum(_COLLAPSED * self.particles, min(2, self.particles / 2))
        result = RESULTS.where((result == RESULTS.successful) & collapsed, RESULTS.weight_collapse, result)
        stats = counts(num_steps, self.particles * num_steps, cloud.num_vjps)
        stats |= {"effective_particles": cloud.least, "log_evidence": cloud.log_evidence + cloud.log_mean()}
        return Draws(cloud.x[chosen][order], result, stats)

    def _keys(self, key: Key) -> Key:
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(self.particles))

    def _each(self, function: Any, key: Key, *args: Any) -> Any:
        return jax.vmap(lambda key, *args: function(*args, key=key))(self._keys(key), *args)


class Cloud(eqx.Module):
    """Particles and their weights.

    - `log_weights`: since the last resampling, up to the twist of the state that they are at.
    - `log_twist`: that of the state before.
    - `log_evidence`: of all that came before the last resampling.
    - `least`: the least effective sample size so far.
    """

    x: Array
    log_weights: Array
    log_twist: Array
    log_evidence: Array
    least: Array
    num_vjps: Array

    @staticmethod
    def start(x: Array) -> "Cloud":
        zeros, zero = jnp.zeros(len(x), x.dtype), jnp.zeros((), x.dtype)
        return Cloud(x, zeros, zeros, zero, zero + len(x), jnp.zeros((), jnp.int32))

    def weigh(self, log_twist: Array, least_share: Array) -> "Cloud":
        """With the twist of the state that the particles are at; tempered, if fewer than this share are effective."""
        log_weights = self.log_weights + log_twist - self.log_twist
        size = effective(log_weights)
        log_weights = tempered(log_weights, least_share.astype(size.dtype) * len(log_weights))
        where = lambda c: (c.log_weights, c.log_twist, c.least)
        return eqx.tree_at(where, self, (log_weights, log_twist, jnp.minimum(self.least, size)))

    def log_mean(self) -> Array:
        """The logarithm of the mean weight."""
        return jax.nn.logsumexp(self.log_weights) - math.log(len(self.log_weights))

    def choose(self, key: Key) -> Array:
        """The particles that a systematic resampling takes, as often as it takes them."""
        count = len(self.log_weights)
        ends = jnp.cumsum(jax.nn.softmax(self.log_weights))
        places = (jax.random.uniform(key, (), ends.dtype) + jnp.arange(count, dtype=ends.dtype)) / count
        return jnp.clip(jnp.searchsorted(ends, places), 0, count - 1)


def effective(log_weights: Array) -> Array:
    """`(sum w)^2 / sum w^2`."""
    return jnp.exp(2 * jax.nn.logsumexp(log_weights) - jax.nn.logsumexp(2 * log_weights))


def tempered(log_weights: Array, least: Array) -> Array:
    """The weights to the largest power of 1, 1/2, 1/4, ... at which at least so many are effective."""
    powers = 0.5 ** jnp.arange(_POWERS, dtype=log_weights.dtype)
    sizes = jax.vmap(lambda power: effective(power * log_weights))(powers)
    return log_weights * powers[jnp.argmax(jnp.append(sizes[:-1] >= least, True))]


def _step(index: Array, cloud: Cloud, args: PyTree) -> Cloud:
    method, problem, times, key = args
    guidance, key = method.guidance, jax.random.fold_in(key, index)
    t, t_next = times[index], times[index + 1]
    looking, choosing, moving = (jax.random.fold_in(key, i) for i in range(3))
    look = lambda x, key: guidance.look(problem, t, t_next, x, key)
    views = jax.vmap(look)(cloud.x, method._keys(looking))
    cloud = cloud.weigh(views.log_twist, method.temper_below)
    count = len(cloud.log_weights)
    poor = effective(cloud.log_weights) < method.resample_below.astype(cloud.x.dtype) * count
    # The images are chosen from at the end, where their weights are those of the state before.
    poor &= ~is_data(t_next)
    chosen = jnp.where(poor, cloud.choose(choosing), jnp.arange(count))
    x, views = jax.tree.map(lambda leaf: leaf[chosen], (cloud.x, views))
    move = lambda x, view, key: guidance.move(problem, t, t_next, x, view, key)
    x, log_ratio = jax.vmap(move)(x, views, method._keys(moving))
    return Cloud(
        x,
        jnp.where(poor, 0, cloud.log_weights) + log_ratio,
        views.log_twist,
        cloud.log_evidence + jnp.where(poor, cloud.log_mean(), 0),
        cloud.least,
        cloud.num_vjps + jnp.sum(views.num_vjps, dtype=jnp.int32),
    )
