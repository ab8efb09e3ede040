"""DPM-Solver++, multistep of second order."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ..._score import AbstractScore
from ..._types import Key
from .._processes._process import is_data, noise_to_signal, target
from .._processes._schedule import UniformLogSNR
from ._sampler import AbstractStepper, check_steps


class DPMSolver(AbstractStepper):
    """DPM-Solver++(2M): exponential integration of the probability-flow ODE, the denoiser extrapolated over two steps.

    With `l = -log(std/scale)`, `h = l_s - l_t`: `x_s = (std_s/std_t) x_t - scale_s (exp(-h) - 1) D`, where
    `D = (1 + h/(2 h')) D_t - h/(2 h') D_t'` from the denoiser now and a step of length `h'` ago. Deterministic, of
    second order, one evaluation a step.

    Measured bias, on the mixture of 25 modes in 8 to 256 dimensions, `VP(beta_max=40)`, exact score (benchmarks,
    diffusion gate): the variance within modes is 4 to 5 % too large after 25 steps, 1 to 3 % after 50, at most 1.3
    % after 100.

    - `num_steps`: static.
    - `schedule`: when it steps.

    **Reference:** Lu, Zhou, Bao, Chen, Li, Zhu, DPM-Solver++: fast solver for guided sampling of diffusion
    probabilistic models, 2022.
    """

    num_steps: Any = eqx.field(default=25, static=True)
    schedule: Any = UniformLogSNR()

    def __check_init__(self):
        check_steps(self.num_steps, self.schedule)

    @property
    def evaluations_per_step(self) -> int:
        return 1

    def start(self, x: Array) -> Any:
        # No step before the first: its length counts as infinite, so that nothing is extrapolated.
        return jnp.zeros_like(x), jnp.asarray(jnp.inf, x.dtype)

    def step(self, score: AbstractScore, t: Array, t_next: Array, x: Array, memory: Any, key: Key) -> tuple[Array, Any]:
        del key
        image, _ = score.predict(t, x)
        before, length_before = memory
        # A step to time 0 is of infinite length, and ends at the denoised image: nothing is extrapolated.
        data = is_data(t_next)
        (_, std), (scale_next, std_next) = score.process.marginal(t), target(score.process, t_next)
        ratio = noise_to_signal(score.process, t)
        length = jnp.log(ratio) - jnp.log(jnp.where(data, ratio, std_next / scale_next))
        share = jnp.where(data, 0, 0.5 * length / length_before)
        extrapolated = image + share * (image - before)
        weight = jnp.where(data, 1, -jnp.expm1(-length))
        return (std_next / std) * x + scale_next * weight * extrapolated, (image, length)
