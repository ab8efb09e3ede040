"""Draws from the posterior of a latent, by the No-U-Turn sampler."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._checks import check_count
from .._keys import check_key
from .._loop import iterate
from .._solution import RESULTS, Solution
from .._types import Key, Scalar, State
from .._verb import verb
from ..likelihood import Likelihood, prepare, prepare_parameter
from ._chains import effective_sample_size, split_r_hat
from ._reconstruct import enter_prior
from ._start import AbstractStart, FromPrior

# Beyond so many latents the adapted mass matrix is diagonal: a dense one would be estimated from too few draws.
_DENSE = 100
# Of the transitions; more of them, and the sampler has not seen the posterior.
_MOST_DIVERGENT = 0.1


@verb
def sample_posterior(
    likelihood: Likelihood,
    prior: Any,
    y: State,
    *,
    key: Key,
    num_samples: Any,
    num_warmup: Any = 500,
    num_chains: Any = 4,
    weight: Scalar = 1.0,
    start: Any = None,
    max_doublings: Any = 8,
) -> Solution:
    """Draws of `G(z)` with `z` from the posterior `p(z | y) ~ p(y | G(z)) exp(-weight * energy(z))`, by NUTS.

    The No-U-Turn sampler of blackjax, with its window adaptation of step size and mass matrix during the warm-up, in
    `num_chains` chains at once. Exact but for the correlation of the draws: no bias beyond the warm-up.

    **Arguments:**

    - `likelihood`: any differentiable operator, linear or not, and any noise.
    - `prior`: a generative prior. With `weight=1` its energy is the exact `-log p(z)`.
    - `y`: one measurement.
    - `key`: draw `i` depends on the key, `i` and the numbers of chains and of warm-up steps, not on `num_samples`.
    - `num_samples`: static, over all chains, whose number divides it, and at least 4 per chain.
    - `num_warmup`: static, steps of each chain that adapt it and are thrown away.
    - `num_chains`: static.
    - `weight`: of the energy, not negative.
    - `start`: of the chains, as in `reconstruct`: `FromPrior()` (the default), `FromEncoder()`, or `From(z)`.
    - `max_doublings`: static; a trajectory has at most `2 ** max_doublings` steps.

    **Returns:** a `Solution`; `value`: `(num_samples, *image_shape)`, the chains in turns. `aux`: a dict with
    `latents`, `(num_samples, *latent_shape)`. `stats`: `r_hat` and `ess` (split-R-hat, which should be below 1.01, and
    effective sample size, of each latent variable), `num_divergences`, `num_steps` (gradient evaluations after the
    warm-up), and per chain `acceptance` and `step_size`. The result is `diverged` if more than a tenth of the
    transitions were divergent, `nonfinite` if the density at a start is not finite; else it is `successful`, which does
    not speak for the mixing of the chains: look at `r_hat`.

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
    likelihood, y, result = prepare(likelihood, y)
    prior = enter_prior(likelihood, prior)
    weight, result = prepare_parameter(weight, likelihood.operator, result)
    real, shape = weight.dtype, tuple(prior.latent_shape)
    # blackjax computes its step sizes and mass matrices in the default dtype, whatever that of the density.
    default = jnp.result_type(float)

    def log_density(z: Array) -> Array:
        latent = z.reshape(shape).astype(real)
        energy = likelihood.negative_log_likelihood(prior.decode(latent), y) + weight * prior.energy(latent)
        return -energy.astype(default)

    starts_key, chains_key = (jax.random.fold_in(key, i) for i in range(2))
    starts = start.latents(likelihood, prior, y, num_chains, key=starts_key).reshape(num_chains, -1).astype(default)
    run = lambda i, z: _chain(
        log_density, jax.random.fold_in(chains_key, i), z, per_chain, num_warmup, max_doublings, result
    )
    draws, codes, stats = jax.vmap(run)(jnp.arange(num_chains), starts)

    draws = draws.astype(real)
    latents = jnp.swapaxes(draws, 0, 1).reshape(num_samples, *shape)
    images = jax.vmap(lambda z: prior.decode(z))(latents)
    divergences = jnp.sum(stats["num_divergences"], dtype=jnp.int32)
    bad = jnp.any(codes == RESULTS.nonfinite) | ~jnp.all(jnp.isfinite(images))
    code = RESULTS.where(bad, RESULTS.nonfinite, RESULTS.successful)
    divergent = ~bad & (divergences > _MOST_DIVERGENT * num_samples)
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


def _chain(log_density, key, z, length, num_warmup, max_doublings, result):
    blackjax = _blackjax()
    # The library itself relies on the rank promotion that a user may have forbidden.
    with jax.numpy_rank_promotion("allow"):
        adaptation = blackjax.window_adaptation(
            blackjax.nuts,
            log_density,
            is_mass_matrix_diagonal=z.size > _DENSE,
            max_num_doublings=max_doublings,
        )
        (state, parameters), _ = adaptation.run(jax.random.fold_in(key, 0), z, num_steps=num_warmup)
    kernel = blackjax.nuts.build_kernel()

    def step(index, state, args):
        key, step_size, inverse_mass = args
        chain, draws, stats = state
        with jax.numpy_rank_promotion("allow"):
            chain, info = kernel(
                jax.random.fold_in(key, index), chain, log_density, step_size, inverse_mass, max_doublings
            )
        stats = {
            "num_divergences": stats["num_divergences"] + info.is_divergent.astype(jnp.int32),
            "num_steps": stats["num_steps"] + info.num_integration_steps.astype(jnp.int32),
            "acceptance": stats["acceptance"] + info.acceptance_rate.astype(z.dtype),
        }
        return (chain, draws.at[index].set(chain.position), stats), jnp.zeros((), bool), RESULTS.successful

    none = jnp.zeros((), jnp.int32)
    stats = {"num_divergences": none, "num_steps": none, "acceptance": jnp.zeros((), z.dtype)}
    args = (jax.random.fold_in(key, 1), parameters["step_size"], parameters["inverse_mass_matrix"])
    initial = (state, jnp.zeros((length, z.size), z.dtype), stats)
    # A density that is not finite where the chain stands leaves it there for ever.
    stuck = ~(jnp.isfinite(state.logdensity) & jnp.all(jnp.isfinite(state.logdensity_grad)))
    usable = RESULTS.where((result == RESULTS.successful) & stuck, RESULTS.nonfinite, result)
    (_, draws, stats), _, code = iterate(
        step, initial, args, result=usable, max_steps=length, exhausted=RESULTS.successful
    )
    return draws, code, stats | {"step_size": parameters["step_size"]}


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
    # Only here: nothing else needs it, and it takes a while to import.
    try:
        import blackjax
    except ImportError as error:
        raise ImportError(
            "`sample_posterior` samples by blackjax, which is not installed: `pip install jaxinv[mcmc]`."
        ) from error
    return blackjax
