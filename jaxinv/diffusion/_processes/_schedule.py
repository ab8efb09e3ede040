"""Schedules: the times at which a sampler steps."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._arrays import as_leaf
from ..._types import Checked, Scalar
from ...requirements import Parametric, Requirement, positive
from ._process import AbstractProcess, noise_to_signal


class AbstractSchedule(Parametric):
    """A choice of the times at which a sampler steps, from `t_max` down to `t_min`."""

    @abc.abstractmethod
    def times(self, process: AbstractProcess, num_steps: int) -> Float[Array, " steps"]:
        """`num_steps + 1` times, decreasing."""


class UniformTime(AbstractSchedule):
    """Steps of equal length in time."""

    def times(self, process: AbstractProcess, num_steps: int) -> Float[Array, " steps"]:
        return jnp.linspace(process.t_max, process.t_min, num_steps + 1)


class UniformLogSNR(AbstractSchedule):
    """Steps of equal length in the logarithm of `std / scale`.

    **Reference:** Lu, Zhou, Bao, Chen, Li, Zhu, DPM-Solver, 2022.
    """

    def times(self, process: AbstractProcess, num_steps: int) -> Float[Array, " steps"]:
        high, low = (jnp.log(noise_to_signal(process, t)) for t in (process.t_max, process.t_min))
        return _pinned(process, jnp.exp(jnp.linspace(high, low, num_steps + 1)))


class UniformFlow(AbstractSchedule):
    """Steps of equal length in `std / (scale + std)`, which is the time of `FlowMatching`.

    They are long where the noise is much larger than data of unit variance, and nothing is decided yet.

    **Reference:** Lipman, Chen, Ben-Hamu, Nickel, Le, Flow matching for generative modeling, 2023.
    """

    def times(self, process: AbstractProcess, num_steps: int) -> Float[Array, " steps"]:
        ends = (noise_to_signal(process, t) for t in (process.t_max, process.t_min))
        first, last = (end / (1 + end) for end in ends)
        shares = jnp.linspace(first, last, num_steps + 1)
        return _pinned(process, shares / (1 - shares))


class Karras(AbstractSchedule):
    """Steps of equal length in `(std / scale)^(1/rho)`, which are denser near the data.

    - `rho`: a positive number. It is 7 in the paper; with 1 the steps are uniform in `std / scale`.

    **Reference:** Karras, Aittala, Aila, Laine, Elucidating the design space of diffusion-based generative models,
    2022.
    """

    rho: Scalar = eqx.field(default=7.0, converter=as_leaf)

    def requirements(self) -> tuple[Requirement, ...]:
        return (positive("rho", self.rho, "`rho` must be positive and finite"),)

    def times(self, process: AbstractProcess, num_steps: int) -> Float[Array, " steps"]:
        ends = [noise_to_signal(process, t) for t in (process.t_max, process.t_min)]
        rho = jnp.asarray(self.rho, ends[0].dtype)
        first, last = (end ** (1 / rho) for end in ends)
        return _pinned(process, jnp.linspace(first, last, num_steps + 1) ** rho)


def _pinned(process: AbstractProcess, ratios: Array) -> Array:
    # The ends are set exactly: a time that rounds past one of them would be outside the process.
    return process.time(ratios).at[0].set(process.t_max).at[-1].set(process.t_min)


def times_to_data(schedule: AbstractSchedule, process: AbstractProcess, num_steps: int) -> Float[Array, " steps"]:
    """The times of `num_steps` steps, and of one more to time 0, which denoises the state at `t_min`."""
    times = schedule.times(process, num_steps)
    return jnp.append(times, jnp.zeros((), times.dtype))


def as_schedule(schedule: Checked[AbstractSchedule]) -> AbstractSchedule:
    """A schedule, checked: the converter of a field `schedule`."""
    check_schedule(schedule)
    return schedule


def check_schedule(schedule: object) -> None:
    """Raise unless this is a schedule."""
    if not isinstance(schedule, AbstractSchedule):
        raise ValueError(
            "`schedule` must be `UniformTime()`, `UniformLogSNR()`, `UniformFlow()` or `Karras()` of "
            f"`jaxinv.diffusion`; got {schedule!r}."
        )
