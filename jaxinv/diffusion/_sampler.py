"""What a sampler of the reverse process is."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .._checks import check_count
from .._differentiation import Unrolled
from .._loop import iterate
from .._solution import RESULTS
from .._types import Key
from ._model import Model
from ._schedule import AbstractSchedule, check_schedule


class Path(eqx.Module):
    """One path from noise towards data: its end at `t_min`, and states on the way where they were asked for."""

    end: Array
    result: Any
    num_steps: Array
    network_evaluations: Array
    times: Array | None
    states: Array | None


class Options(NamedTuple):
    """What `sample` is asked for besides a sample."""

    num_saved: int = 0
    differentiate: Unrolled | None = None
    progress: Any = None


class AbstractSampler(eqx.Module):
    """How the reverse process is integrated, from `t_max` to `t_min`."""

    @abc.abstractmethod
    def run(self, model: Model, x: Array, *, key: Key, options: Options) -> Path:
        """The path of one image that begins as noise `x`."""


class AbstractStepper(AbstractSampler):
    """A sampler that says its step, from one time of a schedule to the next."""

    num_steps: eqx.AbstractVar[int]
    schedule: eqx.AbstractVar[AbstractSchedule]

    @property
    @abc.abstractmethod
    def evaluations_per_step(self) -> int:
        """How often a step evaluates the score."""

    @abc.abstractmethod
    def start(self, x: Array) -> Any:
        """The memory of the method at first."""

    @abc.abstractmethod
    def step(self, model: Model, t: Array, t_next: Array, x: Array, memory: Any, key: Key) -> tuple[Array, Any]:
        """The state and the memory at `t_next < t`, from those at `t`."""

    def run(self, model: Model, x: Array, *, key: Key, options: Options) -> Path:
        times = self.schedule.times(model.process, self.num_steps)
        ends = saved_steps(options.num_saved, self.num_steps)
        states = None if ends is None else jnp.broadcast_to(x, (len(ends), *x.shape))
        state, num_steps, result = iterate(
            _step,
            (x, self.start(x), states),
            (self, model, times, None if ends is None else jnp.asarray(ends), key),
            max_steps=self.num_steps,
            exhausted=RESULTS.successful,
            differentiate=options.differentiate,
            progress=options.progress,
        )
        end, _, states = state
        saved = None
        if ends is not None:
            # A lane that stopped early stays where it is.
            completed = jnp.where(result == RESULTS.successful, num_steps, num_steps - 1)
            missed = (jnp.asarray(ends) > completed).reshape((-1,) + (1,) * x.ndim)
            saved, states = times[ends], jnp.where(missed, end[None], states)
        return Path(end, result, num_steps, num_steps * self.evaluations_per_step, saved, states)


class AbstractMemorylessStepper(AbstractStepper):
    """A stepper whose steps know the state alone."""

    @abc.abstractmethod
    def move(self, model: Model, t: Array, t_next: Array, x: Array, key: Key) -> Array:
        """The state at `t_next < t`, from the state at `t`."""

    def start(self, x: Array) -> None:
        return None

    def step(self, model: Model, t: Array, t_next: Array, x: Array, memory: Any, key: Key) -> tuple[Array, Any]:
        return self.move(model, t, t_next, x, key), memory


def _step(index: Array, state: PyTree, args: PyTree) -> tuple[PyTree, Array, Any]:
    (x, memory, states), (method, model, times, ends, key) = state, args
    x, memory = method.step(model, times[index], times[index + 1], x, memory, jax.random.fold_in(key, index))
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
