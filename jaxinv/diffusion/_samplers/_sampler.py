"""The interface of samplers, and the loop that runs those that step along a schedule."""

import abc
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from ..._arrays import check_count
from ..._differentiation import Unrolled
from ..._loop import iterate
from ..._method import AbstractMethod, State
from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import Abstract, IntLike, Key, ProgressMeter, PyTree
from ...requirements import Parametric
from .._processes._schedule import AbstractSchedule, check_schedule, times_to_data


class Path(eqx.Module):
    """The path of one image from noise towards data.

    - `end`: the state at `t_min`, or `E[x_0 | x_{t_min}]`.
    - `result`: the `RESULTS` code.
    - `num_steps`, `network_evaluations`: the numbers of steps and of evaluations of the score.
    - `times`, `states`: saved states on the way and their times; `None` if none were asked for.
    """

    end: Array
    result: RESULTS
    num_steps: Array
    network_evaluations: Array
    times: Array | None
    states: Array | None


class Options(NamedTuple):
    """The options of `sample` that a sampler carries out.

    - `denoise`: whether the path ends at `E[x_0 | x_{t_min}]` in place of the state at `t_min`.
    - `num_saved`: the number of states on the way that are kept.
    - `differentiate`: `Unrolled()` for derivatives in reverse mode, or `None`.
    - `progress`: a diffrax progress meter, or `None`.
    """

    denoise: bool = False
    num_saved: int = 0
    differentiate: Unrolled | None = None
    progress: ProgressMeter | None = None


class AbstractSampler(Parametric):
    """A sampler: a way to run the reverse process, from `t_max` to `t_min`."""

    @abc.abstractmethod
    def run(self, score: AbstractScore, x: Array, *, key: Key, options: Options) -> Path:
        """The path of one image that begins as the noise `x`.

        **Arguments:**

        - `score`: the score, whose process has the dtype of `x`.
        - `x`: the state at `t_max`.
        - `key`: the random key of this path.
        - `options`: what `sample` was asked for.

        **Returns:** a `Path`.
        """


class AbstractStepper(AbstractSampler, AbstractMethod[AbstractScore, State]):
    """A sampler that is defined by its step from one time of a schedule to the next.

    Its problem is the score itself. The state of most samplers is the image with its noise; one that remembers more
    returns a pytree from `init`, and says in `finish` which part of it is the image.
    """

    if TYPE_CHECKING:
        num_steps = Abstract[int]()
        schedule = Abstract[AbstractSchedule]()
    else:
        num_steps: eqx.AbstractVar[int]
        schedule: eqx.AbstractVar[AbstractSchedule]

    @property
    @abc.abstractmethod
    def evaluations_per_step(self) -> int:
        """The number of evaluations of the score in a step."""

    @property
    def calls_per_step(self) -> int:
        """The number of calls of `step` that make up one step; all but the last leave the image unchanged.

        A method that evaluates the score several times in a step evaluates it once in each call, and passes on what it
        found in its state. So the compiled program holds the network once.
        """
        return 1

    def prepare(self, score: AbstractScore) -> tuple[AbstractScore, RESULTS]:
        """The problem, which is the score itself, and its code.

        **Arguments:**

        - `score`: the score, whose process has the dtype of the image.

        **Returns:** the score, and `RESULTS.successful`.
        """
        return score, RESULTS.successful

    def init(self, score: AbstractScore, x: Array) -> State:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The state before the first step.

        **Arguments:**

        - `score`: the score.
        - `x`: the noise at `t_max`.

        **Returns:** a pytree of arrays, by default `x`.
        """
        del score
        return x  # pyright: ignore[reportReturnType]

    @abc.abstractmethod
    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, score: AbstractScore, state: State, t: Array, t_next: Array, /, *, key: Key
    ) -> tuple[State, Bool[Array, ""], RESULTS]:
        """One step, or one call of it, from time `t` to time `t_next < t`.

        A step to `t_next = 0` is the last one, if the end is to be denoised; its image is `E[x_0 | x_t = x]`. Such a
        step is one call with one evaluation, by the same code as the others; `diffusion.extend.target` gives scale and
        deviation there.

        **Arguments:**

        - `score`: the score.
        - `state`: as `init` or the call before made it.
        - `t`, `t_next`: the times at the beginning and at the end of the step.
        - `key`: the random key of the step, the same in all of its calls.

        **Returns:** the next state, whether to stop, and the code of that; `diffusion.extend.advance(new, old)` makes
        these three.
        """

    def finish(self, score: AbstractScore, state: State) -> Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The image in a state, by default the state itself.

        **Arguments:**

        - `score`: the score.
        - `state`: any state, also one on the way.

        **Returns:** the image with its noise.
        """
        del score
        return state  # pyright: ignore[reportReturnType]

    def run(self, score: AbstractScore, x: Array, *, key: Key, options: Options) -> Path:
        process, schedule, calls = score.process, self.schedule, self.calls_per_step
        times = schedule.times(process, self.num_steps)
        if options.denoise:
            times = times_to_data(schedule, process, self.num_steps)
        ends = saved_steps(options.num_saved, self.num_steps)
        states = None if ends is None else jnp.broadcast_to(x, (len(ends), *x.shape))
        score, code = self.prepare(score)
        (state, states), num_calls, code = iterate(
            _step,
            (self.init(score, x), states),
            (self, score, times, None if ends is None else jnp.asarray(ends), key),
            result=code,
            max_steps=self.num_steps * calls + options.denoise,
            exhausted=RESULTS.successful,
            differentiate=options.differentiate,
            progress=options.progress,
        )
        end = self.finish(score, state)
        num_steps = jnp.minimum((num_calls + calls - 1) // calls, self.num_steps)
        saved = None
        if ends is not None:
            # A lane that stopped early stays where it is.
            completed = jnp.where(code == RESULTS.successful, num_calls, num_calls - 1) // calls
            missed = (jnp.asarray(ends, completed.dtype) > completed).reshape((-1,) + (1,) * x.ndim)
            saved, states = times[ends], jnp.where(missed, end[None], states)
        # The call that denoises evaluates the score once.
        stepping = jnp.minimum(num_calls, self.num_steps * calls)
        evaluations = stepping * self.evaluations_per_step // calls + (num_calls - stepping)
        return Path(end, code, num_steps, evaluations, saved, states)


def _step(index: Array, carry: PyTree, args: PyTree) -> tuple[PyTree, Array, RESULTS]:
    (state, states), (method, score, times, ends, key) = carry, args
    index = index // method.calls_per_step
    key = jax.random.fold_in(key, index)
    state, finished, code = method.step(score, state, times[index], times[index + 1], key=key)
    if states is not None:
        # Each step overwrites the next entry, up to the step whose state is kept there.
        states = states.at[jnp.searchsorted(ends, index + 1)].set(method.finish(score, state))
    return (state, states), finished, code


def saved_steps(num_saved: Any, num_steps: int) -> np.ndarray | None:
    """The numbers of the steps after which a state is kept: evenly spaced, with the last step among them."""
    if isinstance(num_saved, bool) or not isinstance(num_saved, int) or not 0 <= num_saved <= num_steps:
        raise ValueError(
            f"`num_saved` must be a static integer between 0 and the number of steps, {num_steps}; got {num_saved!r}."
        )
    return None if num_saved == 0 else np.arange(1, num_saved + 1) * num_steps // num_saved


def as_steps(num_steps: IntLike) -> int:
    """A static number of steps, checked: the converter of a field `num_steps`."""
    return check_count(num_steps, "num_steps")


def check_steps(num_steps: Any, schedule: Any, name: str = "num_steps") -> None:
    """Raise unless the number of steps of a method is a static integer and its schedule is a schedule."""
    check_count(num_steps, name)
    check_schedule(schedule)
