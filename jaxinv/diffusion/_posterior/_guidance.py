"""What guides a sample towards the measurement: alone, or as the proposal of sequential Monte Carlo."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._score import AbstractScore
from ..._types import Key, State
from ...likelihood import Likelihood
from .._processes._process import AbstractProcess
from .._processes._schedule import AbstractSchedule
from .._samplers._ddim import transition
from ._loops import run
from ._method import AbstractIndependent, Draws, counts


class AbstractGuidance(AbstractIndependent):
    """A method that approximates `p(y | x_t)`, and moves a state by the transition given `y` that follows from it."""

    num_steps: eqx.AbstractVar[int]
    schedule: eqx.AbstractVar[AbstractSchedule]

    @abc.abstractmethod
    def enter_twisted(self, score: AbstractScore, likelihood: Likelihood, y: State) -> tuple[PyTree, Any]:
        """As `enter`, of a problem in which `log_twist` is asked for."""

    @abc.abstractmethod
    def look(self, problem: PyTree, t: Array, t_next: Array, x: Array, key: Key) -> Any:
        """What is found at the state `x`, by one evaluation of the score: arrays only, which particles can copy.

        It has a `log_twist`, of an approximation of `p(y | x_t)`, and `num_vjps`, the vector-Jacobian products taken.
        """

    @abc.abstractmethod
    def move(self, problem: PyTree, t: Array, t_next: Array, x: Array, view: Any, key: Key) -> tuple[Array, Array]:
        """The state at `t_next < t`, and the log of its density under the prior's transition over that of this one.

        At `t_next = 0` it is the image that the method makes of the last state, and the logarithm 0.
        """

    def times(self, process: AbstractProcess) -> Array:
        """Those of the schedule, but that the last step is to the image itself, at time 0."""
        return self.schedule.times(process, self.num_steps).at[-1].set(0)

    def one(self, problem: PyTree, *, key: Key, result: Any, progress: Any) -> Draws:
        process = problem.process
        image = problem.image
        x = process.prior_sample(image.shape, key=jax.random.fold_in(key, 0), dtype=image.dtype)
        args = (self, problem, self.times(process), jax.random.fold_in(key, 2))
        state = (x, jnp.zeros((), jnp.int32))
        (x, num_vjps), num_steps, result = run(_step, state, args, self.num_steps, result, progress)
        return Draws(x, result, counts(num_steps, num_steps, num_vjps))


def _step(index: Array, state: PyTree, args: PyTree) -> PyTree:
    (x, num_vjps), (method, problem, times, key) = state, args
    looking, moving = (jax.random.fold_in(jax.random.fold_in(key, index), i) for i in range(2))
    t, t_next = times[index], times[index + 1]
    view = method.look(problem, t, t_next, x, looking)
    x, _ = method.move(problem, t, t_next, x, view, moving)
    return x, num_vjps + view.num_vjps


class Shift(eqx.Module):
    """Denoised image and noise, and how the measurement shifts the image."""

    image: Array
    noise: Array
    shift: Array
    log_twist: Array
    num_vjps: Array


def guided_move(
    process: AbstractProcess, t: Array, t_next: Array, x: Array, view: Shift, eta: Array, key: Key
) -> tuple[Array, Array]:
    """The step of `DDIM` with a shifted image, and the log-ratio to the step with the image."""
    scale, std = process.marginal(t)
    mean, fresh = transition(process, t, t_next, view.image + view.shift, view.noise - scale / std * view.shift, eta)
    free, _ = transition(process, t, t_next, view.image, view.noise, eta)
    return shifted(mean, mean - free, fresh, key)


def shifted(mean: Array, shift: Array, std: Array, key: Key) -> tuple[Array, Array]:
    """A draw from `N(mean, std^2 I)`, and `log N(x; mean - shift, std^2 I) - log N(x; mean, std^2 I)` at it."""
    z = jax.random.normal(key, mean.shape, mean.dtype)
    units = jnp.where(std > 0, shift / jnp.where(std > 0, std, 1), 0)
    return mean + std * z, -jnp.sum(units * z) - 0.5 * jnp.sum(units**2)
