"""The abstract class of the methods of `posterior_sample`, and the driver that runs one of them."""

import abc
from typing import TYPE_CHECKING, Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from ..._arrays import subkeys
from ..._loop import run
from ..._method import AbstractMethod
from ..._score import AbstractProcess, AbstractScore
from ..._solution import RESULTS, Solution
from ..._types import Abstract, Key, ProgressMeter, PyTree, State as Measurement, Stats
from ...likelihood import Likelihood

Problem = TypeVar("Problem")
State = TypeVar("State")


class AbstractPosteriorMethod(AbstractMethod[Problem, State]):
    """A sampler of the posterior `p(x | y) ~ p(y | x) p(x)` under the prior that a score has learned.

    To define one, implement `prepare`, `init` and `step`, on one image; `posterior_sample` maps it over the samples,
    keeps the last finite state of a sample that fails, and counts. `prepare` usually returns a problem of
    `diffusion.extend`, by the function there that makes it.

    - `num_steps`: the number of steps, static.

    !!! example
        ```python
        import equinox as eqx, jax, jax.numpy as jnp, jaxinv
        from jaxinv import diffusion, oracles
        from jaxinv.diffusion import extend

        class Noisy(diffusion.AbstractPosteriorMethod):  # Euler steps along the flow, and a pull towards y
            num_steps: int = eqx.field(default=50, static=True)
            pull: jax.Array = eqx.field(default=0.1, converter=jnp.asarray)

            def prepare(self, likelihood, score, y):
                return extend.any_problem(likelihood, score, y)

            def times(self, process):
                return diffusion.UniformTime().times(process, self.num_steps)

            def init(self, problem, *, key):
                image = problem.image
                return problem.process.prior_sample(image.shape, key=key, dtype=image.dtype)

            def step(self, problem, x, t, t_next, *, key):
                velocity, image = problem.score.velocity_and_image(t, x)
                slope = jax.grad(problem.negative_log_likelihood)(image)
                return extend.advance(x + (t_next - t) * velocity - self.pull * slope, x)

        prior = oracles.Gaussian(jnp.ones((4, 4, 1)), 0.1 * jnp.eye(16))
        likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((4, 4, 1), 2), jaxinv.noise.Gaussian(1.0))
        solution = diffusion.posterior_sample(
            likelihood, prior.score(diffusion.VP()), jnp.zeros((2, 2, 1)), key=jax.random.key(0), method=Noisy()
        )
        ```
    """

    if TYPE_CHECKING:
        num_steps = Abstract[int]()
    else:
        num_steps: eqx.AbstractVar[int]

    @property
    def max_steps(self) -> int:
        """The number of calls of `step`: `num_steps`, or one more for a method whose last call denoises."""
        return self.num_steps

    @property
    def evaluations_per_step(self) -> int:
        """The number of evaluations of the score in a step."""
        return 1

    @property
    def vjps_per_step(self) -> int:
        """The number of vector-Jacobian products of the score in a step."""
        return 0

    @property
    def num_particles(self) -> int | None:
        """The number of samples of one run, or `None` for a method that runs once for each sample."""
        return None

    @property
    def weighs_the_measurement(self) -> bool:
        """Whether the method claims to weigh the measurement by its noise; the verb then holds its samples to that."""
        return False

    @abc.abstractmethod
    def prepare(self, likelihood: Likelihood, score: AbstractScore, y: Measurement) -> tuple[Problem, RESULTS]:
        """Prepare the problem for this method.

        **Arguments:**

        - `likelihood`: operator and noise.
        - `score`: the score with its process, both in the dtype of the image.
        - `y`: one measurement.

        **Returns:** the problem, and `RESULTS.successful` or the code of the reason why it cannot be solved.

        **Raises:** `ValueError` for an operator or a noise that this method does not support; the message names methods
        that do.
        """

    def times(self, process: AbstractProcess) -> Array | None:
        """The times between which the method steps, `(max_steps + 1,)` and decreasing; the last may be 0, the data.

        The default is `None`: `step` then receives the number of the step in place of two times.
        """
        del process

    @abc.abstractmethod
    def init(self, problem: Problem, /, *, key: Key) -> State:
        """The state before the first step.

        **Arguments:**

        - `problem`: the problem that `prepare` returned.
        - `key`: a key for the initial noise.

        **Returns:** a pytree of arrays; an image for most methods.
        """

    @abc.abstractmethod
    def step(  # pyright: ignore[reportIncompatibleMethodOverride]  # two times stand for the index
        self, problem: Problem, state: State, t: Array, t_next: Array, /, *, key: Key
    ) -> tuple[State, Bool[Array, ""], RESULTS]:
        """One step, from time `t` to time `t_next < t`.

        **Arguments:**

        - `problem`: the problem that `prepare` returned.
        - `state`: the state of `init` or of the previous step.
        - `t`, `t_next`: two neighbours among `times`. A step to time 0, the data, returns an image without
            noise; `diffusion.extend.target(process, t_next)` is scale 1 and deviation 0 there.
        - `key`: a key for this step alone.

        **Returns:** the next state, whether to stop, and the code if so: `diffusion.extend.advance(new, old)` makes
        these three. A state that is not finite needs no code: the sample keeps the previous state and gets
        `RESULTS.nonfinite`.
        """

    def finish(self, problem: Problem, state: State, /, *, key: Key) -> tuple[Array, Stats]:
        """The sample from the last state, by default the state itself.

        **Arguments:**

        - `problem`: the problem that `prepare` returned.
        - `state`: the last finite state.
        - `key`: a key for a method that draws at the end.

        **Returns:** the image, or `(num_particles, *shape)`; and statistics, which replace the default ones of the same
        name: `num_steps`, `network_evaluations` and `vjps`.
        """
        del problem, key
        return state, {}  # pyright: ignore[reportReturnType]


def first_failure(code: RESULTS, *others: RESULTS) -> RESULTS:
    """The first of these codes that is not `successful`, or `successful`."""
    for other in others:
        code = RESULTS.where(code == RESULTS.successful, other, code)
    return code


def run_method(
    method: AbstractPosteriorMethod,
    problem: PyTree,
    times: Array | None,
    code: RESULTS,
    *,
    key: Key,
    progress: ProgressMeter | None,
) -> tuple[Array, RESULTS, dict[str, Any]]:
    """Run a method once: a sample, or a cloud of samples, with its code and its statistics."""
    init_key, step_key, finish_key = subkeys(key, 3)
    state, num_calls, code = run(
        method,
        problem,
        method.init(problem, key=init_key),
        key=step_key,
        times=times,
        result=code,
        max_steps=method.max_steps,
        exhausted=RESULTS.successful,
        progress=progress,
    )
    value, stats = method.finish(problem, state, key=finish_key)
    counted = {
        "num_steps": jnp.minimum(num_calls, method.num_steps),
        "network_evaluations": method.evaluations_per_step * num_calls,
        "vjps": method.vjps_per_step * num_calls,
    }
    kept = Solution(value, code, counted | stats).settled(True)
    return kept.value, kept.result, kept.stats
