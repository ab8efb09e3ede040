"""The posterior of a latent by the closest law of a family: variational Bayes, at the price of an optimisation."""

import abc
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from .._arrays import check_count, check_key, subkeys
from .._checks import check_instance
from .._jit import verb
from .._loop import run
from .._method import AbstractMethod
from .._module import Module
from .._optimisers import check_optimiser, init_optimiser, step_optimiser
from .._prior import AbstractGenerativePrior
from .._solution import RESULTS, Solution
from .._types import Checked, IntLike, Key, PyTree, Scalar, State as Measurement
from ..likelihood import Likelihood, prepare, prepare_parameter
from ._algorithm import prepare_prior
from ._start import AbstractStart, FromPrior

# The first deviation of every latent variable: small, so that the first gradients have little noise.
_FIRST_STD = 0.1


class AbstractFamily(Module):
    """A family of laws of a latent, whose variables are independent: `z = mean + std * u`, `u` of deviation 1."""

    @abc.abstractmethod
    def draw(self, shape: tuple[int, ...], *, key: Key, dtype: DTypeLike) -> Array:
        """Draws of `u`.

        **Arguments:**

        - `shape`, `dtype`: those of the result.
        - `key`: a typed key.

        **Returns:** independent draws of mean 0 and variance 1.
        """

    @property
    @abc.abstractmethod
    def entropy(self) -> float:
        """The entropy of one entry of `u`, in nats."""


class MeanFieldGaussian(AbstractFamily):
    """Independent Gaussians."""

    def draw(self, shape: tuple[int, ...], *, key: Key, dtype: DTypeLike) -> Array:
        return jax.random.normal(key, shape, dtype)

    @property
    def entropy(self) -> float:
        return 0.5 * math.log(2 * math.pi * math.e)


class MeanFieldUniform(AbstractFamily):
    """Independent uniform laws, of width `sqrt(12)` times the deviation, as in the reference of the verb."""

    def draw(self, shape: tuple[int, ...], *, key: Key, dtype: DTypeLike) -> Array:
        return jax.random.uniform(key, shape, dtype, -math.sqrt(3), math.sqrt(3))

    @property
    def entropy(self) -> float:
        return 0.5 * math.log(12)


@verb(traced=("weight", "learning_rate"))
def variational_posterior(
    likelihood: Likelihood,
    prior: Checked[AbstractGenerativePrior],
    y: Measurement,
    *,
    key: Key,
    num_samples: IntLike = 100,
    family: Checked[AbstractFamily] = MeanFieldGaussian(),  # noqa: B008
    weight: Scalar = 1.0,
    optimiser: Checked[optax.GradientTransformation | None] = None,
    learning_rate: Scalar = 0.05,
    num_steps: IntLike = 1000,
    num_draws: IntLike = 8,
    restarts: IntLike = 4,
    start: Checked[AbstractStart] = FromPrior(),  # noqa: B008
) -> Solution:
    """Draw `G(z)` with `z` from the law `q` of a family that is closest to the posterior `p(z | y)`.

    It maximises the evidence lower bound, `E_q[log p(y | G(z)) - weight * energy(z)] + entropy(q)`, over means and
    deviations, by gradients through a few draws of `q` in each step. Its cost is known beforehand, `restarts *
    num_steps * num_draws` gradients, and its draws are independent, unlike those of `sample_posterior`. But `q` has one
    mode and no correlations: where latents depend on each other, its deviations are too small, those of a Gaussian with
    precision `P` being `P_ii^{-1/2}` in place of `(P^{-1})_ii^{1/2}`.

    **Arguments:**

    - `likelihood`: any differentiable operator, linear or not, and any noise.
    - `prior`: a generative prior. With `weight=1` its energy is the exact `-log p(z)`.
    - `y`: one measurement.
    - `key`: draw `i` depends on the key and `i`, not on `num_samples`.
    - `num_samples`: static.
    - `family`: `MeanFieldGaussian()` or `MeanFieldUniform()`.
    - `weight`: the weight of the energy, not negative.
    - `optimiser`: one of optax; `None` is Adam with `learning_rate`, which falls to 0 over the steps as a cosine.
    - `learning_rate`: a positive scalar.
    - `num_steps`: static; all are taken. Raise it where the `elbo` still grows with it.
    - `num_draws`: static, the draws of `q` in each step.
    - `restarts`: static. The one with the largest bound is taken: the posterior may have several modes.
    - `start`: the first means: `FromPrior()`, `FromEncoder()`, or `From(z)`.

    **Returns:** a `Solution` whose `value` is `(num_samples, *image_shape)`. Its `aux` is a dict with the `latents` of
    these, and the `mean` and the `std` of `q`. Its `stats` are the `elbo` by the draws, up to the constants of the
    energy, its standard error `elbo_error`, `num_steps`, and `restart`. The result is `nonfinite` if the bound, or an
    image, became NaN or infinite.

    **Raises:** `ValueError` as `reconstruct`.

    **Reference:** Biquard, Chabert, Genin, Latry, Oberlin, Variational Bayes image restoration with compressive
    autoencoders (VBLE), 2023, arXiv 2311.17744.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian.from_factor(jnp.zeros((4, 4, 1)), jnp.eye(16)[:, :2]).as_latent()
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((4, 4, 1)), jaxinv.noise.Gaussian(0.5))
        y = likelihood.simulate(prior.decode(jnp.ones(2)), key=jax.random.key(0))
        solution = jaxinv.generative.variational_posterior(likelihood, prior, y, key=jax.random.key(1))
        mean, spread = solution.value.mean(0), solution.value.std(0)
        ```

    On Gaussian posteriors the means and the deviations `P_ii^{-1/2}` are reached to 6 % and 3 % of a deviation (tests).
    `benchmarks/latent_posteriors.py` compares it with NUTS, under a VAE and a flow.
    """
    check_key(key)
    numbers = {"num_samples": num_samples, "num_steps": num_steps, "num_draws": num_draws, "restarts": restarts}
    for name, value in numbers.items():
        check_count(value, name)
    family = check_instance(family, AbstractFamily, "family", MeanFieldGaussian())
    start = check_instance(start, AbstractStart, "start", FromPrior())
    method = _Variational(check_optimiser(optimiser), num_steps, num_draws, num_samples)
    problem, result = method.prepare(likelihood, prior, y, family=family, weight=weight, learning_rate=learning_rate)
    start_key, fit_key, draw_key = subkeys(key, 3)
    means = start.latents(problem.likelihood, problem.prior, problem.y, restarts, key=start_key)

    def solve(index: Array, z: Array) -> tuple[Any, Array, RESULTS]:
        state = method.init(problem, z)
        return run(
            method,
            problem,
            state,
            key=jax.random.fold_in(fit_key, index),
            result=result,
            max_steps=num_steps,
            exhausted=RESULTS.successful,
        )

    states, taken, codes = jax.vmap(solve)(jnp.arange(restarts), means.astype(problem.weight.dtype))
    # All restarts are scored by the same draws.
    images, outcomes = jax.vmap(lambda state: method.finish(problem, state, key=draw_key))(states)
    bounds = jnp.where(jnp.isfinite(outcomes["elbo"]), outcomes["elbo"], -jnp.inf)
    best = jnp.argmax(bounds)
    images, outcome, taken, code = jax.tree.map(lambda leaf: leaf[best], (images, outcomes, taken, codes))
    finite = jnp.all(jnp.isfinite(images)) & jnp.isfinite(outcome["elbo"])
    code = RESULTS.where(~finite & (result == RESULTS.successful), RESULTS.nonfinite, code)
    images = jnp.where((result == RESULTS.successful) & finite, images, jnp.zeros_like(images))
    stats = {
        "elbo": outcome["elbo"],
        "elbo_error": outcome["elbo_error"],
        "num_steps": taken,
        "restart": best,
    }
    return Solution(images, code, stats, {name: outcome[name] for name in ("latents", "mean", "std")})


class _Bound(eqx.Module):
    """The evidence lower bound; its variables are means and logarithms of deviations."""

    likelihood: Likelihood
    prior: AbstractGenerativePrior
    y: Measurement
    family: AbstractFamily
    weight: Array
    learning_rate: Array

    def draw(self, key: Key) -> Array:
        """A draw of `u`."""
        return self.family.draw(tuple(self.prior.latent_shape), key=key, dtype=self.weight.dtype)

    def latents(self, variables: tuple[Array, Array], draws: Array) -> Array:
        """The latents of some draws."""
        mean, log_std = variables
        return mean[None] + jnp.exp(log_std)[None] * draws

    def bounds(self, variables: tuple[Array, Array], draws: Array) -> Float[Array, " n"]:
        """The bound by each of some draws."""

        def density(z: Array) -> Array:
            nll = self.likelihood.negative_log_likelihood(self.prior.decode(z), self.y)
            return -(nll + self.weight * self.prior.energy(z))

        entropy = jnp.sum(variables[1]) + self.family.entropy * variables[1].size
        return jax.vmap(density)(self.latents(variables, draws)) + entropy


class _State(NamedTuple):
    """Means and logarithms of deviations, and the memory of the optimiser."""

    variables: tuple[Array, Array]
    memory: PyTree[Array]


class _Variational(AbstractMethod[_Bound, _State]):
    """Ascent of the evidence lower bound."""

    optimiser: Checked[optax.GradientTransformation | None] = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)
    num_draws: int = eqx.field(static=True)
    num_samples: int = eqx.field(static=True)

    def prepare(
        self,
        likelihood: Likelihood,
        prior: Any,
        y: Measurement,
        *,
        family: AbstractFamily,
        weight: Scalar,
        learning_rate: Scalar,
    ) -> tuple[_Bound, RESULTS]:
        likelihood, y, result = prepare(likelihood, y)
        prior = prepare_prior(likelihood, prior)
        weight, result = prepare_parameter(weight, likelihood.operator, result)
        rate, result = prepare_parameter(learning_rate, likelihood.operator, result, True, "learning_rate")
        return _Bound(likelihood, prior, y, family, weight, rate), result

    def init(  # pyright: ignore[reportIncompatibleMethodOverride]  # each restart has a start of its own
        self, problem: _Bound, z: Array, *, key: Key | None = None
    ) -> _State:
        del key
        variables = (z, jnp.full_like(z, math.log(_FIRST_STD)))
        return _State(variables, init_optimiser(self._optimiser(problem), variables))

    def step(
        self, problem: _Bound, state: _State, index: Array, *, key: Key | None = None
    ) -> tuple[_State, Bool[Array, ""], RESULTS]:
        assert key is not None
        draws = jax.vmap(lambda i: problem.draw(jax.random.fold_in(key, i)))(jnp.arange(self.num_draws))
        loss = lambda variables: -jnp.mean(problem.bounds(variables, draws))
        value, gradient = jax.value_and_grad(loss)(state.variables)
        variables, memory, _ = step_optimiser(
            self._optimiser(problem), loss, value, gradient, state.memory, state.variables
        )
        return _State(variables, memory), jnp.zeros((), bool), RESULTS.successful

    def finish(
        self, problem: _Bound, state: _State, *, key: Key | None = None
    ) -> tuple[Float[Array, "n ..."], dict[str, Array]]:
        """The images of draws of `q`; the draws, `q` itself and its bound."""
        assert key is not None
        mean, log_std = state.variables
        draws = jax.vmap(lambda i: problem.draw(jax.random.fold_in(key, i)))(jnp.arange(self.num_samples))
        latents = problem.latents(state.variables, draws)
        images = jax.vmap(lambda z: problem.prior.decode(z))(latents)
        bounds = problem.bounds(state.variables, draws)
        error = jnp.std(bounds) / math.sqrt(self.num_samples)
        found = {"elbo": jnp.mean(bounds), "elbo_error": error, "latents": latents}
        return images, found | {"mean": mean, "std": jnp.exp(log_std)}

    def _optimiser(self, problem: _Bound) -> optax.GradientTransformation:
        if self.optimiser is not None:
            return self.optimiser
        rate = lambda count: problem.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * count / self.num_steps))
        return optax.adam(rate)
