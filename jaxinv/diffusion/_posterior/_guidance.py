"""Guidances, which move a sample towards the measurement, and twists, which weight the particles of `TDS`."""

import abc
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._score import AbstractProcess, AbstractScore
from ..._solution import RESULTS
from ..._types import Abstract, Key, PyTree, State, Stats
from ...likelihood import Likelihood
from ...requirements import Parametric
from .._processes._schedule import AbstractSchedule
from .._samplers._ddim import transition
from ._method import AbstractPosteriorMethod, Problem

View = TypeVar("View", bound="AbstractTwistView")


class Guided(NamedTuple):
    """The state of a guided sample.

    - `x`: the image with its noise.
    - `num_vjps`: the number of vector-Jacobian products so far.
    """

    x: Array
    num_vjps: Array


class AbstractTwistView(eqx.Module):
    """The evaluation of a twist at the state of one particle.

    - `log_twist`: the logarithm of the approximation of `p(y | x_t)`.
    - `num_vjps`: the number of vector-Jacobian products of the evaluation.
    """

    if TYPE_CHECKING:
        log_twist = Abstract[Array]()
        num_vjps = Abstract[Array]()
    else:
        log_twist: eqx.AbstractVar[Array]
        num_vjps: eqx.AbstractVar[Array]


class AbstractTwist(Parametric, Generic[Problem, View]):
    """An approximation of `p(y | x_t)`, from which `TDS` computes the weights of its particles."""

    @abc.abstractmethod
    def prepare(self, likelihood: Likelihood, score: AbstractScore, y: State) -> tuple[Problem, RESULTS]:
        """Prepare the problem for this twist.

        **Arguments, Raises:** as for `AbstractPosteriorMethod.prepare`.

        **Returns:** the problem, and its code.
        """

    @abc.abstractmethod
    def evaluate(self, problem: Problem, t: Array, t_next: Array, x: Array, *, key: Key) -> View:
        """The twist at one state, by one evaluation of the score.

        **Arguments:**

        - `problem`: the problem that `prepare` returned.
        - `t`, `t_next`: the time of the state, and that of the next one.
        - `x`: the state.
        - `key`: a key for a twist that draws an image for the proposal.

        **Returns:** a pytree of arrays only, which can be copied with its particle: the logarithm of the twist, and the
        results that the proposal uses.
        """


class AbstractGuidance(AbstractPosteriorMethod[Problem, Guided]):
    """A method that approximates `p(y | x_t)` and uses the transition given `y` that follows from it.

    It is a sampler, with `step`, and the proposal of the particles of `TDS`, with `propose`.

    - `schedule`: the times of the steps.
    """

    if TYPE_CHECKING:
        schedule = Abstract[AbstractSchedule]()
    else:
        schedule: eqx.AbstractVar[AbstractSchedule]

    @property
    def weighs_the_measurement(self) -> bool:
        return True

    @abc.abstractmethod
    def twist(self) -> AbstractTwist:
        """The default twist of `TDS` for the moves of this guidance.

        **Returns:** a twist, with the options of this guidance.
        """

    @abc.abstractmethod
    def propose(
        self, process: AbstractProcess, t: Array, t_next: Array, x: Array, view: PyTree[Array], *, key: Key
    ) -> tuple[Array, Array]:
        """Move a particle.

        **Arguments:**

        - `process`: the noising process.
        - `t`, `t_next`, `x`: the times and the state at which the twist was evaluated.
        - `view`: the evaluation of the twist there, as `AbstractTwist.evaluate` returned it: a `ShiftView`, or the
            `AbstractTwistView` of your own twist.
        - `key`: a key for this move alone.

        **Returns:** the state at `t_next`, and the logarithm of the ratio of its density under the transition of the
        prior to that under this one. At `t_next = 0` the state is the final image, and the logarithm is 0.
        """

    def times(self, process: AbstractProcess) -> Array:
        # The last step ends at time 0, with the image itself.
        return self.schedule.times(process, self.num_steps).at[-1].set(0)

    def init(self, problem: Problem, *, key: Key) -> Guided:
        image: Any = problem.image  # pyright: ignore[reportAttributeAccessIssue]
        process: Any = problem.process  # pyright: ignore[reportAttributeAccessIssue]
        return Guided(process.prior_sample(image.shape, key=key, dtype=image.dtype), jnp.zeros((), jnp.int32))

    def finish(self, problem: Problem, state: Guided, *, key: Key) -> tuple[Array, Stats]:
        del problem, key
        return state.x, {"vjps": state.num_vjps}


def check_view(view: Any, kind: type, name: str) -> None:
    """Raise unless a twist made what the proposal `name` moves particles by."""
    if not isinstance(view, kind):
        raise ValueError(
            f"`{name}` cannot propose moves for this twist, which evaluates to {type(view).__name__}; it needs "
            f"{kind.__name__}. Leave `twist` out, or take the twist of `{name}()`."
        )


class ShiftView(AbstractTwistView):
    """The evaluation of a twist with the shift of the image that follows from it.

    - `image`, `noise`: the predictions of the score.
    - `shift`: the shift of the image, `std^2 / scale` times the gradient of `log_twist`.
    - `log_twist`: the logarithm of the approximation of `p(y | x_t)`.
    - `num_vjps`: the number of vector-Jacobian products of the evaluation.
    """

    image: Array
    noise: Array
    shift: Array
    log_twist: Array
    num_vjps: Array


def guided_transition(
    process: AbstractProcess,
    t: Array,
    t_next: Array,
    image: Array,
    noise: Array,
    shift: Array,
    eta: Array,
    *,
    key: Key,
) -> tuple[Array, Array]:
    """The step of `DDIM` with a shifted image, and the log-ratio to the step with the image itself.

    **Arguments:**

    - `process`: the noising process.
    - `t`, `t_next`: the times of the step; `t_next` may be 0, the data.
    - `image`, `noise`: the predictions of the score at time `t`, `(E[x_0 | x_t], E[n | x_t])`.
    - `shift`: what the guidance adds to the image; the noise changes so that the state stays the same.
    - `eta`: the share of fresh noise, from 0 (deterministic) to 1 (ancestral).
    - `key`: a key for the fresh noise.

    **Returns:** the state at `t_next`, and `log p(state) - log q(state)`, where `p` is the step without the shift and
    `q` is the one that was drawn from.
    """
    scale, std = process.marginal(t)
    mean, fresh = transition(process, t, t_next, image + shift, noise - scale / std * shift, eta)
    free, _ = transition(process, t, t_next, image, noise, eta)
    return shifted_draw(mean, mean - free, fresh, key=key)


def shifted_draw(mean: Array, shift: Array, std: Array, *, key: Key) -> tuple[Array, Array]:
    """A draw from `N(mean, std^2 I)`, and `log N(x; mean - shift, std^2 I) - log N(x; mean, std^2 I)` at it."""
    z = jax.random.normal(key, mean.shape, mean.dtype)
    units = jnp.where(std > 0, shift / jnp.where(std > 0, std, 1), 0)
    return mean + std * z, -jnp.sum(units * z) - 0.5 * jnp.sum(units**2)
