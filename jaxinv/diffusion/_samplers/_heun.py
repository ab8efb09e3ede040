"""The second-order sampler of EDM."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import as_parameter, safe_sqrt
from ..._method import advance
from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import Key
from ...requirements import Requirement, not_negative
from .._processes._process import is_data, noise_to_signal, target
from .._processes._schedule import AbstractSchedule, Karras, as_schedule
from ._sampler import AbstractStepper, as_steps


class TwoStage(NamedTuple):
    """The state of `Heun`.

    - `x`: the image with its noise.
    - `known`: whether the first slope of the step is known.
    - `ahead`, `slope`: the state to which that slope leads, and the slope.
    """

    x: Array
    known: Array
    ahead: Array
    slope: Array


class Heun(AbstractStepper[TwoStage]):
    """Heun's method for the probability-flow ODE in `r = std/scale`, `d(x/scale)/dr = E[n|x]`, with fresh noise.

    Before a step, fresh noise raises the level from `r` to `r (1 + churn / num_steps)`; with `churn = 0` the sampler is
    deterministic. It takes two evaluations a step.

    Measured bias, on the mixture of 25 modes in 8 to 256 dimensions, `VP(beta_max=40)`, exact score (benchmarks,
    diffusion gate): with `churn = 0`, the variance within modes is 6 % too large after 50 steps, 2 % after 100.

    - `num_steps`: the number of steps, static.
    - `churn`: the amount of fresh noise, not negative; beyond `num_steps (sqrt(2) - 1)` more has no effect.
    - `schedule`: the times of the steps.

    **Reference:** Karras, Aittala, Aila, Laine, Elucidating the design space of diffusion-based generative models,
    2022, Algorithm 2.
    """

    num_steps: int = eqx.field(default=50, static=True, converter=as_steps)
    churn: Array = eqx.field(default=0.0, converter=as_parameter)
    schedule: AbstractSchedule = eqx.field(default=Karras(), converter=as_schedule)

    def requirements(self) -> tuple[Requirement, ...]:
        return (not_negative("churn", self.churn),)

    @property
    def evaluations_per_step(self) -> int:
        return 2

    @property
    def calls_per_step(self) -> int:
        return 2

    def init(self, score: AbstractScore, x: Array) -> TwoStage:
        del score
        return TwoStage(x, jnp.zeros((), bool), x, x)

    def step(
        self, score: AbstractScore, state: TwoStage, t: Array, t_next: Array, *, key: Key
    ) -> tuple[TwoStage, Array, RESULTS]:
        data, (x, known, ahead, before) = is_data(t_next), state
        growth = 1 + jnp.minimum(self.churn.astype(x.dtype) / self.num_steps, jnp.sqrt(2) - 1).astype(x.dtype)
        growth = jnp.where(data, jnp.ones_like(growth), growth)
        ratio, most = (noise_to_signal(score.process, s) for s in (t, score.process.t_max))
        scale_next, std_next = target(score.process, t_next)
        # By the growth, which is exactly 1 without churn; a difference of two levels might be a rounding error, whose
        # root is large.
        growth = jnp.clip(growth, 1, jnp.maximum(most / ratio, 1))
        raised, added = ratio * growth, growth**2 - 1
        t_raised = jnp.where(growth > 1, score.process.time(raised), t)
        scale, scale_raised = (score.process.marginal(s)[0] for s in (t, t_raised))
        # In the coordinates x / scale, where the process only adds noise.
        fresh = safe_sqrt(added) * jax.random.normal(key, x.shape, x.dtype)
        u = x / scale + ratio * fresh
        image, slope = score.predict(
            jnp.where(known, t_next, t_raised), jnp.where(known, scale_next * ahead, scale_raised * u)
        )
        length = std_next / scale_next - raised
        moved = scale_next * (u + 0.5 * length * (before + slope))
        # A step to time 0 ends at the image of the first evaluation.
        x = jnp.where(data, image, jnp.where(known, moved, x))
        return advance(TwoStage(x, ~known, u + length * slope, slope), state)

    def finish(self, score: AbstractScore, state: TwoStage) -> Array:
        del score
        return state.x
