"""Diffusion posterior sampling (DPS), a guidance for `posterior_sample` and `TDS`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import as_parameter
from ..._method import advance
from ..._score import AbstractProcess, AbstractScore
from ..._solution import RESULTS
from ..._types import Checked, IntLike, Key, State
from ...likelihood import Likelihood, gaussian_approximation
from ...requirements import Requirement, not_negative, share
from .._processes._process import is_data
from .._processes._schedule import AbstractSchedule, UniformTime
from .._samplers._ddim import transition
from .._samplers._sampler import check_steps
from ._guidance import AbstractGuidance, AbstractTwist, Guided, ShiftView, check_view, guided_transition
from ._problem import Problem, any_problem


class DPS(AbstractGuidance[Problem]):
    """DPS: each step of `Ancestral`, then `-zeta grad_x ||y - A E[x_0 | x_t]||^2 / ||y - A E[x_0 | x_t]||`.

    It approximates `p(y | x_t)` by `p(y | E[x_0 | x_t])`, with a step size that belongs to no posterior: it pulls its
    samples towards the measurement independently of the noise. It accepts any differentiable operator and any noise;
    for photon noise, and for levels that differ between entries, residuals are in units of the noise times its root
    mean square, by `noise.linearise`. It costs one evaluation and one vector-Jacobian product per step. Its twist is
    `p(y | E[x_0 | x_t])`.

    Its steps towards the measurement have a constant length even for a small residual: close to the measurement they
    oscillate about it, and amplify rounding.

    - `num_steps`: the number of steps, static.
    - `zeta`: the step size, not negative; `TDS` ignores it, and follows the gradient of the twist.
    - `eta`: the share of fresh noise, the same as that of `DDIM`; 1 is ancestral sampling.
    - `schedule`: the times of the steps.

    **Reference:** Chung, Kim, Mccann, Klasky, Ye, Diffusion posterior sampling for general noisy inverse problems,
    2023, Algorithm 1.

    Measured bias, on mixtures of 25 modes in 8 dimensions (benchmarks, posterior mixture): with `zeta` 1 and 100 steps
    40 % of the mass is in the wrong mode, and with four measurements the variance within modes is 2.7 times too large.

    Measured rounding, on a mixture of three modes in float64: samples computed alone and under `jax.vmap` differed by
    1e-7 to 1e-5 after 200 steps, and completely, although not in law, after the default of 1000; with `zeta` .1 by
    3e-12.

    Measured for a Gaussian prior (benchmarks, posterior gaussian: a row of 16 pixels blurred, every fourth of them):
    Wasserstein-2 to the posterior 1.24 and .60 of its size, where exact draws have .015 and .013; 1.21 and 1.01 of its
    variance.
    """

    num_steps: IntLike = eqx.field(default=1000, static=True)
    zeta: Array = eqx.field(default=1.0, converter=as_parameter)
    eta: Array = eqx.field(default=1.0, converter=as_parameter)
    schedule: Checked[AbstractSchedule] = UniformTime()

    def __check_init__(self):
        check_steps(self.num_steps, self.schedule)

    def requirements(self) -> tuple[Requirement, ...]:
        return (share("eta", self.eta), not_negative("zeta", self.zeta))

    @property
    def weighs_the_measurement(self) -> bool:
        # Its steps towards the measurement have a length that does not depend on the noise.
        return False

    def prepare(self, likelihood: Likelihood, score: AbstractScore, y: State) -> tuple[Problem, RESULTS]:
        return any_problem(likelihood, score, y)

    def step(
        self, problem: Problem, state: Guided, t: Array, t_next: Array, *, key: Key
    ) -> tuple[Guided, Array, RESULTS]:
        x = state.x

        def misfit(x: Array) -> tuple[Array, tuple[Array, Array]]:
            image, noise = problem.score.predict(t, x)
            square = residual_square(problem, image)
            return jnp.sqrt(jnp.where(square > 0, square, 1)), (image, noise)

        # grad ||r||^2 / ||r|| = 2 grad ||r||; for a residual of 0, which has no direction, the shift is 0.
        slope, (image, noise) = jax.grad(misfit, has_aux=True)(x)
        mean, std = transition(problem.process, t, t_next, image, noise, self.eta.astype(x.dtype))
        moved = mean - 2 * self.zeta.astype(x.dtype) * slope + std * jax.random.normal(key, x.shape, x.dtype)
        return advance(Guided(moved, state.num_vjps + 1), state)

    def twist(self) -> "LikelihoodTwist":
        return LikelihoodTwist()

    def propose(
        self, process: AbstractProcess, t: Array, t_next: Array, x: Array, view: ShiftView, *, key: Key
    ) -> tuple[Array, Array]:
        check_view(view, ShiftView, "DPS")
        # `TDS` weights the last image by `p(y | E[x_0 | x_t])`, so the last step has no shift.
        shift = jnp.where(is_data(t_next), 0, view.shift)
        return guided_transition(process, t, t_next, view.image, view.noise, shift, self.eta.astype(x.dtype), key=key)


class LikelihoodTwist(AbstractTwist[Problem, ShiftView]):
    """`p(y | E[x_0 | x_t])`, for any differentiable operator and any noise: the twist of `DPS`."""

    def prepare(self, likelihood: Likelihood, score: AbstractScore, y: State) -> tuple[Problem, RESULTS]:
        return any_problem(likelihood, score, y)

    def evaluate(self, problem: Problem, t: Array, t_next: Array, x: Array, *, key: Key) -> ShiftView:
        del t_next, key

        def log_twist(x: Array) -> tuple[Array, tuple[Array, Array]]:
            image, noise = problem.score.predict(t, x)
            return -problem.negative_log_likelihood(image), (image, noise)

        (value, (image, noise)), slope = jax.value_and_grad(log_twist, has_aux=True)(x)
        scale, std = problem.process.marginal(t)
        # Tweedie's formula, given the measurement.
        return ShiftView(image, noise, std**2 / scale * slope, value, jnp.int32(1))


def residual_square(problem: Problem, image: Array) -> Array:
    """`||y - A x||^2` over the measured entries, each in units of its noise times the root mean square of all noise."""
    operator = problem.likelihood.operator
    likelihood, data = gaussian_approximation(problem.likelihood, problem.y)
    measured: Any = operator.measured
    residual = jax.tree.map(
        lambda m, y, p: jnp.where(m > 0, y - p, jnp.zeros((), y.dtype)), measured, data, operator(image)
    )
    noise: Any = likelihood.noise
    whitened = noise.restrict(measured, operator.codomain).whiten(residual)
    total = jax.tree.reduce(jnp.add, jax.tree.map(lambda r: jnp.sum(jnp.abs(r) ** 2), whitened))
    _, std = noise.linearise(data)
    kept = jax.tree.map(lambda m, s: jnp.broadcast_to(m > 0, s.shape), measured, std)
    sums = jax.tree.map(lambda k, s: jnp.stack([jnp.sum(jnp.where(k, s**2, 0)), jnp.sum(k, dtype=s.dtype)]), kept, std)
    squares, count = jax.tree.reduce(jnp.add, sums)
    return total * squares / count
