"""The grammar of everything that iterates: `prepare`, `init`, `step`, `finish`."""

import abc
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from ._solution import RESULTS
from ._types import Key, PyTree, Stats
from .requirements import Parametric

Problem = TypeVar("Problem")
State = TypeVar("State")


class AbstractMethod(Parametric, Generic[Problem, State]):
    """An iterative method, as four members that mean the same in every module of the package.

    A verb checks its key, and then does no more than this:

    ```python
    problem, code = method.prepare(likelihood, y, ...)
    state = method.init(problem, key=first_key)
    state, num_steps, code = _loop.run(method, problem, state, key=step_key, result=code, max_steps=max_steps)
    value, stats = method.finish(problem, state, key=last_key)
    ```

    A method is a frozen module whose fields are its options. Everything that depends on the data (a norm, a whitened
    operator, a factor, a parameter in the dtype of the solve) belongs to the problem, and everything that changes
    from step to step to the state. A method never drives itself: `_loop.run` repeats `step`, folds the keys, freezes
    the problems of a batch that have finished, and counts. It never asks for the type of its problem, and a compiled
    program holds each network and each operator at one place, so the last evaluation is a step too.

    A module of the package specialises the signatures, never the words: it says what `prepare` takes, and a method on a
    grid of times has `t` and `t_next` for `index`.
    """

    @abc.abstractmethod
    def prepare(self, *args: Any, **kwargs: Any) -> tuple[Problem, RESULTS]:
        """Everything that happens once, before the first step.

        **Arguments:** the likelihood, the prior and the measurement, and what else the method needs to know.

        **Returns:** the problem: what no step changes, in one dtype, and finite also where it cannot be solved. And its
        code, one for each problem of a batch: `RESULTS.successful`, or the reason why it cannot be solved.

        **Raises:** `ValueError` for shapes, dtypes and options that do not fit. Values never raise: they set the code.
        """

    @abc.abstractmethod
    def init(self, problem: Problem, /, *, key: Key) -> State:
        """The state before the first step.

        **Arguments:**

        - `problem`: as `prepare` made it.
        - `key`: for a random start; a method whose start is not random gives it the default `None`.

        **Returns:** a pytree of arrays and nothing else, with the structure, shapes and dtypes of every later state.
        """

    @abc.abstractmethod
    def step(
        self, problem: Problem, state: State, index: Array, /, *, key: Key
    ) -> tuple[State, Bool[Array, ""], RESULTS]:
        """One step.

        **Arguments:**

        - `problem`: as `prepare` made it.
        - `state`: as `init` or the step before made it.
        - `index`: the number of the step, from 0 on; one scalar for all problems of a batch.
        - `key`: for this step alone; a method without randomness gives it the default `None`.

        **Returns:** the next state; whether the problem has finished; and the code that it has if so, which is ignored
        otherwise. A state that is not finite needs no code: the loop keeps the one before and sets `RESULTS.nonfinite`.
        A problem that has finished computes on as long as others of its batch do, and the results are thrown away, so
        every division and root in a step must have a finite derivative there.
        """

    @abc.abstractmethod
    def finish(self, problem: Problem, state: State, /, *, key: Key) -> tuple[PyTree[Array], Stats]:
        """The value and the statistics, from the last state.

        **Arguments:**

        - `problem`: as `prepare` made it.
        - `state`: the last finite one.
        - `key`: for a method that draws at the end; any other gives it the default `None`.

        **Returns:** the value, an image or samples, and the statistics, a dict of arrays.
        """

    def indicator(self, state: State) -> PyTree[Array]:
        """A part of the state that is finite only if the whole state is; by default the state.

        The loop asks it whether a step went well. A check of all leaves takes longer to compile.

        **Arguments:**

        - `state`: as `step` made it.

        **Returns:** a pytree of arrays.
        """
        return state


def advance(new: PyTree, old: PyTree, code: RESULTS = RESULTS.successful) -> tuple[PyTree, Array, RESULTS]:
    """What `step` returns: the next state, whether to stop, and the code.

    **Arguments:**

    - `new`: the next state.
    - `old`: the state that it was made from.
    - `code`: the code of what was solved within the step. Where it is not `RESULTS.successful`, the problem keeps
        `old`, and stops with this code.

    **Returns:** the state, a boolean scalar, and the code.
    """
    failed = code != RESULTS.successful
    return jax.tree.map(lambda n, o: jnp.where(failed, o, n), new, old), failed, code
