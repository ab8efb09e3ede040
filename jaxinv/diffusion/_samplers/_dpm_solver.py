"""DPM-Solver++, multistep of second order."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ..._method import advance
from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import Key
from .._processes._process import is_data, noise_to_signal, target
from .._processes._schedule import AbstractSchedule, UniformLogSNR, as_schedule
from ._sampler import AbstractStepper, as_steps


class Multistep(NamedTuple):
    """The state of a multistep method: the image with its noise, and the image and the length of the step before."""

    x: Array
    image: Array
    length: Array


class DPMSolver(AbstractStepper[Multistep]):
    """DPM-Solver++(2M): exponential integration of the probability-flow ODE, the denoiser extrapolated over two steps.

    With `l = -log(std/scale)` and `h = l_s - l_t`, a step is `x_s = (std_s/std_t) x_t - scale_s (exp(-h) - 1) D`, where
    `D = (1 + h/(2 h')) D_t - h/(2 h') D_t'` extrapolates the denoised images now and one step, of length `h'`, before.
    The method is deterministic, of second order, and takes one evaluation a step.

    Measured bias, on the mixture of 25 modes in 8 to 256 dimensions, `VP(beta_max=40)`, exact score (benchmarks,
    diffusion gate): the variance within modes is 4 to 5 % too large after 25 steps, 1 to 3 % after 50, at most
    1.3 % after 100.

    - `num_steps`: the number of steps, static.
    - `schedule`: the times of the steps.

    **Reference:** Lu, Zhou, Bao, Chen, Li, Zhu, DPM-Solver++: fast solver for guided sampling of diffusion
    probabilistic models, 2022.
    """

    num_steps: int = eqx.field(default=25, static=True, converter=as_steps)
    schedule: AbstractSchedule = eqx.field(default=UniformLogSNR(), converter=as_schedule)

    @property
    def evaluations_per_step(self) -> int:
        return 1

    def init(self, score: AbstractScore, x: Array) -> Multistep:
        del score
        # There is no step before the first one; an infinite length makes its share of the extrapolation 0.
        return Multistep(x, jnp.zeros_like(x), jnp.asarray(jnp.inf, x.dtype))

    def step(
        self, score: AbstractScore, state: Multistep, t: Array, t_next: Array, *, key: Key
    ) -> tuple[Multistep, Array, RESULTS]:
        del key
        x, before, length_before = state
        image, _ = score.predict(t, x)
        # A step to time 0 has infinite length and ends at the denoised image, without extrapolation.
        data = is_data(t_next)
        (_, std), (scale_next, std_next) = score.process.marginal(t), target(score.process, t_next)
        ratio = noise_to_signal(score.process, t)
        length = jnp.log(ratio) - jnp.log(jnp.where(data, ratio, std_next / scale_next))
        share = jnp.where(data, 0, 0.5 * length / length_before)
        extrapolated = image + share * (image - before)
        weight = jnp.where(data, 1, -jnp.expm1(-length))
        moved = (std_next / std) * x + scale_next * weight * extrapolated
        return advance(Multistep(moved, image, length), state)

    def finish(self, score: AbstractScore, state: Multistep) -> Array:
        del score
        return state.x
