"""What a sampler of the reverse process is."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..._checks import check_count
from ..._differentiation import Unrolled
from ..._loop import iterate
from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import Key
from ...operators._base import is_concrete
from .._processes._schedule import AbstractSchedule, check_schedule, times_to_data


class Path(eqx.Module):
    """One path from noise towards data, and states on the way where they were asked for.

    - `end`: the state at `t_min`, or `E[x_0 | x_{t_min}]`.
    """

    end: Array
    result: Any
    num_steps: Array
    network_evaluations: Array
    times: Array | None
    states: Array | None


class Options(NamedTuple):
    """What `sample` is asked for besides a sample.

    - `denoise`: whether the path ends at `E[x_0 | x_{t_min}]`, in place of the state at `t_min`.
    """

    denoise: bool = False
    num_saved: int = 0
    differentiate: Unrolled | None = None
    progress: Any = None


class AbstractSampler(eqx.Module):
    """How the reverse process is integrated, from `t_max` to `t_min`."""

    @abc.abstractmethod
    def run(self, score: AbstractScore, x: Array, *, key: Key, options: Options) -> Path:
        """The path of one image that begins as noise `x`."""


class AbstractStepper(AbstractSampler):
    """A sampler that says its step, from one time of a schedule to the next."""

    num_steps: eqx.AbstractVar[int]
    schedule: eqx.AbstractVar[AbstractSchedule]

    @property
    @abc.abstractmethod
    def evaluations_per_step(self) -> int:
        """How often a step evaluates the score."""

    @property
    def calls_per_step(self) -> int:
        """How often `step` is called for a step. All calls but the last return `x` as it is, and change the memory.

        So a method with several evaluations a step has the network at one place of its program: one for each call.
        """
        return 1

    @abc.abstractmethod
    def start(self, x: Array) -> Any:
        """The memory of the method at first."""

    @abc.abstractmethod
    def step(self, score: AbstractScore, t: Array, t_next: Array, x: Array, memory: Any, key: Key) -> tuple[Array, Any]:
        """The state and the memory at `t_next < t`, from those at `t`; the key is that of the step.

        A step to `t_next = 0`, the last one where the end is to be denoised, leads to `E[x_0 | x_t = x]`. It is one
        call, with one evaluation, at the place of the others. See `_process.target`.
        """

    def run(self, score: AbstractScore, x: Array, *, key: Key, options: Options) -> Path:
        process, schedule, calls = score.process, self.schedule, self.calls_per_step
        times = schedule.times(process, self.num_steps)
        if options.denoise:
            times = times_to_data(schedule, process, self.num_steps)
        ends = saved_steps(options.num_saved, self.num_steps)
        states = None if ends is None else jnp.broadcast_to(x, (len(ends), *x.shape))
        state, taken, result = iterate(
            _step,
            (x, self.start(x), states),
            (self, score, times, None if ends is None else jnp.asarray(ends), key),
            max_steps=self.num_steps * calls + options.denoise,
            exhausted=RESULTS.successful,
            differentiate=options.differentiate,
            progress=options.progress,
        )
        end, _, states = state
        num_steps = jnp.minimum((taken + calls - 1) // calls, self.num_steps)
        saved = None
        if ends is not None:
            # A lane that stopped early stays where it is.
            completed = jnp.where(result == RESULTS.successful, taken, taken - 1) // calls
            missed = (jnp.asarray(ends) > completed).reshape((-1,) + (1,) * x.ndim)
            saved, states = times[ends], jnp.where(missed, end[None], states)
        # The call that denoises takes one evaluation.
        stepping = jnp.minimum(taken, self.num_steps * calls)
        evaluations = stepping * self.evaluations_per_step // calls + (taken - stepping)
        return Path(end, result, num_steps, evaluations, saved, states)


class AbstractMemorylessStepper(AbstractStepper):
    """A stepper whose steps know the state alone."""

    @abc.abstractmethod
    def move(self, score: AbstractScore, t: Array, t_next: Array, x: Array, key: Key) -> Array:
        """The state at `t_next < t`, from the state at `t`; as `step`, where `t_next` is 0."""

    def start(self, x: Array) -> None:
        return None

    def step(self, score: AbstractScore, t: Array, t_next: Array, x: Array, memory: Any, key: Key) -> tuple[Array, Any]:
        return self.move(score, t, t_next, x, key), memory


def _step(index: Array, state: PyTree, args: PyTree) -> tuple[PyTree, Array, Any]:
    (x, memory, states), (method, score, times, ends, key) = state, args
    index = index // method.calls_per_step
    x, memory = method.step(score, times[index], times[index + 1], x, memory, jax.random.fold_in(key, index))
    if states is not None:
        # Overwritten by each step until the one that is to be kept.
        states = states.at[jnp.searchsorted(ends, index + 1)].set(x)
    return (x, memory, states), jnp.zeros((), bool), RESULTS.successful


def saved_steps(num_saved: Any, num_steps: int) -> np.ndarray | None:
    """The numbers of the steps after which a state is kept, evenly spaced, the last among them."""
    if isinstance(num_saved, bool) or not isinstance(num_saved, int) or not 0 <= num_saved <= num_steps:
        raise ValueError(
            f"`num_saved` must be a static integer between 0 and the number of steps, {num_steps}; got {num_saved!r}."
        )
    return None if num_saved == 0 else np.arange(1, num_saved + 1) * num_steps // num_saved


def check_steps(num_steps: Any, schedule: Any) -> None:
    """What every method demands of its number of steps and its schedule."""
    check_count(num_steps, "num_steps")
    check_schedule(schedule)


def check_share(value: Any, name: str) -> None:
    """Raise for what is known not to lie in [0, 1]."""
    # By numpy: within a trace a comparison of known numbers is not known.
    if is_concrete(value) and not np.all((np.asarray(value) >= 0) & (np.asarray(value) <= 1)):
        raise ValueError(f"`{name}` must lie between 0 and 1; got {value}.")


def check_not_negative(value: Any, name: str) -> None:
    """Raise for what is known to be negative or not finite."""
    if is_concrete(value) and not np.all((np.asarray(value) >= 0) & np.isfinite(value)):
        raise ValueError(f"`{name}` must be finite and not negative; got {value}.")


def check_positive(value: Any, name: str) -> None:
    """Raise for what is known not to be positive, or not finite."""
    if is_concrete(value) and not np.all((np.asarray(value) > 0) & np.isfinite(value)):
        raise ValueError(f"`{name}` must be finite and positive; got {value}.")
