"""Draws from the posterior of a latent, by the No-U-Turn sampler."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._arrays import check_count, check_key, standard_promotion, subkeys
from .._jit import verb
from .._loop import run
from .._method import AbstractMethod
from .._prior import AbstractGenerativePrior
from .._solution import RESULTS, Solution
from .._types import Checked, IntLike, Key, Scalar, State as Measurement
from ..likelihood import Likelihood, prepare, prepare_parameter
from ._algorithm import prepare_prior
from ._start import AbstractStart, FromPrior

# Beyond this number of latents the mass matrix is diagonal: too few draws of the warm-up would determine a dense one.
_DENSE = 100
# A larger share of divergent transitions says that parts of the posterior were not reached.
_MOST_DIVERGENT = 0.1


@verb(traced=("weight",))
def sample_posterior(
    likelihood: Likelihood,
    prior: Checked[AbstractGenerativePrior],
    y: Measurement,
    *,
    key: Key,
    num_samples: IntLike,
    num_warmup: IntLike = 500,
    num_chains: IntLike = 4,
    weight: Scalar = 1.0,
    start: Checked[AbstractStart] = FromPrior(),  # noqa: B008
    max_doublings: IntLike = 8,
) -> Solution:
    """Draw `G(z)` with `z` from the posterior `p(z | y) ~ p(y | G(z)) exp(-weight * energy(z))`, by NUTS.

    The No-U-Turn sampler of blackjax, with its window adaptation of step size and mass matrix during the warm-up, in
    `num_chains` chains at once. Beyond the warm-up the draws have no bias; they are correlated.

    **Arguments:**

    - `likelihood`: any differentiable operator, linear or not, and any noise.
    - `prior`: a generative prior. With `weight=1` its energy is the exact `-log p(z)`.
    - `y`: one measurement.
    - `key`: draw `i` depends on the key, `i` and the numbers of chains and of warm-up steps, not on `num_samples`.
    - `num_samples`: static, the number of draws of all chains together: a multiple of `num_chains`, and at least 4 per
      chain.
    - `num_warmup`: static, the steps of each chain that adapt it and are thrown away. Raise it where `r_hat` is large.
    - `num_chains`: static.
    - `weight`: the weight of the energy, not negative.
    - `start`: the start of the chains, as in `reconstruct`: `FromPrior()`, `FromEncoder()`, or `From(z)`.
    - `max_doublings`: static; a trajectory has at most `2 ** max_doublings` steps.

    **Returns:** a `Solution` whose `value` is `(num_samples, *image_shape)`, the chains in turns. Its `aux` is a dict
    with the `latents`, `(num_samples, *latent_shape)`. Its `stats` are `r_hat` and `ess` (split-R-hat, which should be
    below 1.01, and effective sample size, of each latent variable), `num_divergences`, `num_steps` (gradient
    evaluations after the warm-up), and per chain `acceptance` and `step_size`. The result is `diverged` if more than a
    tenth of the transitions were divergent, and `nonfinite` if the density at a start is not finite; otherwise it is
    `successful`, which says nothing about the mixing of the chains: look at `r_hat`.

    **Raises:** `ValueError` for numbers that do not fit each other, and as `reconstruct`; `ImportError` without
    blackjax.

    **Reference:** Hoffman, Gelman, The No-U-Turn sampler, 2014; Vehtari et al., Rank-normalization, folding, and
    localization: an improved R-hat, 2021.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian.from_factor(jnp.zeros((4, 4, 1)), jnp.eye(16)[:, :2]).as_latent()
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((4, 4, 1)), jaxinv.noise.Gaussian(0.5))
        y = likelihood.simulate(prior.decode(jnp.ones(2)), key=jax.random.key(0))
        solution = jaxinv.generative.sample_posterior(
            likelihood, prior, y, key=jax.random.key(1), num_samples=200, num_warmup=100, num_chains=2
        )
        mean, spread = solution.value.mean(0), solution.value.std(0)
        ```
    """
    check_key(key)
    per_chain = _check_numbers(num_samples, num_warmup, num_chains, max_doublings)
    start = FromPrior() if start is None else start
    if not isinstance(start, AbstractStart):
        raise ValueError(f"`start` must be FromPrior(), FromEncoder() or From(z); got {start!r}.")
    method = _NUTS(per_chain, num_warmup, max_doublings)
    problem, result = method.prepare(likelihood, prior, y, weight=weight)
    prior, shape, real = problem.prior, tuple(problem.prior.latent_shape), problem.weight.dtype

    starts_key, chains_key = subkeys(key, 2)
    starts = start.latents(problem.likelihood, prior, problem.y, num_chains, key=starts_key)
    starts = starts.reshape(num_chains, -1).astype(jnp.result_type(float))
    draws, codes, stats = jax.vmap(
        lambda i, z: _run_chain(method, problem, z, result, key=jax.random.fold_in(chains_key, i))
    )(jnp.arange(num_chains), starts)

    latents = jnp.swapaxes(draws, 0, 1).reshape(num_samples, *shape)
    images = jax.vmap(lambda z: prior.decode(z))(latents)
    divergences = jnp.sum(stats["num_divergences"], dtype=jnp.int32)
    bad = jnp.any(codes == RESULTS.nonfinite) | ~jnp.all(jnp.isfinite(images))
    code = RESULTS.where(bad, RESULTS.nonfinite, RESULTS.successful)
    divergent = ~bad & (divergences / num_samples > _MOST_DIVERGENT)
    code = RESULTS.where(divergent, RESULTS.diverged, code)
    code = RESULTS.where(result == RESULTS.successful, code, result)
    images = jnp.where((result == RESULTS.successful) & ~bad, images, jnp.zeros_like(images))
    return Solution(
        images,
        code,
        {
            "r_hat": split_r_hat(draws).reshape(shape),
            "ess": effective_sample_size(draws).reshape(shape),
            "num_divergences": divergences,
            "num_steps": jnp.sum(stats["num_steps"], dtype=jnp.int32),
            "acceptance": stats["acceptance"].astype(real) / per_chain,
            "step_size": stats["step_size"].astype(real),
        },
        {"latents": latents},
    )


class _Density(eqx.Module):
    """The posterior density of a latent, as a vector; called with it, the logarithm.

    blackjax computes its step sizes and mass matrices in the default dtype, whatever that of the density.
    """

    likelihood: Likelihood
    prior: AbstractGenerativePrior
    y: Measurement
    weight: Array

    def __call__(self, z: Float[Array, " k"]) -> Array:
        latent = self.latent(z)
        energy = self.likelihood.negative_log_likelihood(self.prior.decode(latent), self.y)
        return -(energy + self.weight * self.prior.energy(latent)).astype(z.dtype)

    def latent(self, z: Float[Array, " k"]) -> Array:
        """The latent in the shape and dtype of the prior."""
        return z.reshape(tuple(self.prior.latent_shape)).astype(self.weight.dtype)


class _State(NamedTuple):
    """The state of one chain.

    - `chain`: that of blackjax.
    - `step_size`, `inverse_mass`: as the warm-up adapted them.
    - `draws`: `(num_draws, k)`, those so far.
    - `stats`: sums over the draws.
    """

    chain: Any
    step_size: Array
    inverse_mass: Array
    draws: Float[Array, "n k"]
    stats: dict[str, Array]


class _NUTS(AbstractMethod[_Density, _State]):
    """One chain of the No-U-Turn sampler, each step a draw; the warm-up is in `init`."""

    num_draws: int = eqx.field(static=True)
    num_warmup: int = eqx.field(static=True)
    max_doublings: int = eqx.field(static=True)

    def prepare(
        self, likelihood: Likelihood, prior: Any, y: Measurement, *, weight: Scalar
    ) -> tuple[_Density, RESULTS]:
        likelihood, y, result = prepare(likelihood, y)
        prior = prepare_prior(likelihood, prior)
        weight, result = prepare_parameter(weight, likelihood.operator, result)
        return _Density(likelihood, prior, y, weight), result

    def init(  # pyright: ignore[reportIncompatibleMethodOverride]  # each restart has a start of its own
        self, problem: _Density, z: Float[Array, " k"], *, key: Key | None = None
    ) -> _State:
        blackjax = _blackjax()
        # The library itself relies on the promotions that a user may have forbidden.
        with jax.numpy_rank_promotion("allow"), standard_promotion():
            adaptation = blackjax.window_adaptation(
                blackjax.nuts,
                problem,
                is_mass_matrix_diagonal=z.size > _DENSE,
                max_num_doublings=self.max_doublings,
            )
            (chain, parameters), _ = adaptation.run(key, z, num_steps=self.num_warmup)
        zero = jnp.zeros((), jnp.int32)
        stats = {"num_divergences": zero, "num_steps": zero, "acceptance": jnp.zeros((), z.dtype)}
        draws = jnp.zeros((self.num_draws, z.size), z.dtype)
        return _State(chain, parameters["step_size"], parameters["inverse_mass_matrix"], draws, stats)

    def step(
        self, problem: _Density, state: _State, index: Array, *, key: Key | None = None
    ) -> tuple[_State, Bool[Array, ""], RESULTS]:
        with jax.numpy_rank_promotion("allow"), standard_promotion():
            chain, info = _blackjax().nuts.build_kernel()(
                key, state.chain, problem, state.step_size, state.inverse_mass, self.max_doublings
            )
        stats = {
            "num_divergences": state.stats["num_divergences"] + info.is_divergent.astype(jnp.int32),
            "num_steps": state.stats["num_steps"] + info.num_integration_steps.astype(jnp.int32),
            "acceptance": state.stats["acceptance"] + info.acceptance_rate.astype(state.draws.dtype),
        }
        draws = state.draws.at[index].set(chain.position)
        return state._replace(chain=chain, draws=draws, stats=stats), jnp.zeros((), bool), RESULTS.successful

    def finish(
        self, problem: _Density, state: _State, *, key: Key | None = None
    ) -> tuple[Float[Array, "n k"], dict[str, Array]]:
        """The draws in the dtype of the solve, and the sums over them."""
        del key
        return state.draws.astype(problem.weight.dtype), state.stats | {"step_size": state.step_size}


def _run_chain(
    method: _NUTS, problem: _Density, z: Float[Array, " k"], result: RESULTS, *, key: Key
) -> tuple[Float[Array, "n k"], RESULTS, dict[str, Array]]:
    warmup_key, draw_key = subkeys(key, 2)
    state = method.init(problem, z, key=warmup_key)
    # A chain that stands where the density is not finite stays there for ever.
    finite = jnp.isfinite(state.chain.logdensity) & jnp.all(jnp.isfinite(state.chain.logdensity_grad))
    result = RESULTS.where((result == RESULTS.successful) & ~finite, RESULTS.nonfinite, result)
    state, _, code = run(
        method,
        problem,
        state,
        key=draw_key,
        result=result,
        max_steps=method.num_draws,
        exhausted=RESULTS.successful,
    )
    draws, stats = method.finish(problem, state)
    return draws, code, stats


def _check_numbers(num_samples: Any, num_warmup: Any, num_chains: Any, max_doublings: Any) -> int:
    numbers = {
        "num_samples": num_samples,
        "num_warmup": num_warmup,
        "num_chains": num_chains,
        "max_doublings": max_doublings,
    }
    for name, value in numbers.items():
        check_count(value, name)
    if num_samples % num_chains or num_samples < 4 * num_chains:
        raise ValueError(
            f"`num_samples` is the number of draws of all chains together, at least 4 of each: {num_samples} draws do "
            f"not come evenly from {num_chains} chains. Take {4 * num_chains * math.ceil(num_samples / num_chains / 4)}"
            ", say."
        )
    return num_samples // num_chains


def _blackjax() -> Any:
    # Nothing else needs blackjax, and it takes a while to import.
    try:
        import blackjax
    except ImportError as error:
        raise ImportError(
            "`sample_posterior` samples by blackjax, which is not installed: `pip install jaxinv[mcmc]`."
        ) from error
    return blackjax


def split_r_hat(draws: Float[Array, "chains n k"]) -> Float[Array, " k"]:
    """The potential scale reduction of the halves of the chains, for each variable; 1 for chains that agree."""
    half = draws.shape[1] // 2
    halves = jnp.concatenate([draws[:, :half], draws[:, half : 2 * half]])
    within = jnp.mean(jnp.var(halves, axis=1, ddof=1), axis=0)
    between = jnp.var(jnp.mean(halves, axis=1), axis=0, ddof=1)
    ratio = between / jnp.where(within > 0, within, 1)
    # Chains that stand still at different points are as far from agreement as can be.
    return jnp.where(within > 0, jnp.sqrt((half - 1) / half + ratio), jnp.where(between > 0, jnp.inf, 1))


def effective_sample_size(draws: Float[Array, "chains n k"]) -> Float[Array, " k"]:
    """The number of independent draws whose mean is as good, for each variable.

    By the autocorrelation of the chains around their common mean, summed over pairs of lags while these are positive,
    and made monotone.

    **Reference:** Geyer, Practical Markov chain Monte Carlo, 1992; Vehtari et al., 2021.
    """
    chains, length, _ = draws.shape
    centred = draws - jnp.mean(draws, axis=1, keepdims=True)
    spectrum = jnp.fft.rfft(centred, n=2 * length, axis=1)
    covariance = jnp.fft.irfft(spectrum * jnp.conj(spectrum), n=2 * length, axis=1)[:, :length] / length
    covariance = jnp.mean(covariance, axis=0)
    within = covariance[0] * length / (length - 1)
    between = jnp.var(jnp.mean(draws, axis=1), axis=0, ddof=1) if chains > 1 else jnp.zeros_like(within)
    total = within * (length - 1) / length + between
    moves = total > 0
    correlation = 1 - (within[None] - covariance) / jnp.where(moves, total, 1)[None]
    correlation = correlation.at[0].set(1.0)
    pairs = correlation[: length // 2 * 2].reshape(length // 2, 2, -1).sum(axis=1)
    positive = jnp.cumprod((pairs > 0).astype(draws.dtype), axis=0)
    pairs = jax.lax.cummin(pairs, axis=0) * positive
    time = jnp.maximum(2 * jnp.sum(pairs, axis=0) - 1, 1 / math.log10(chains * length))
    return jnp.where(moves, chains * length / time, 0.0)
