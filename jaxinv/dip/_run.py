"""The steps of a deep image prior, and what is made of their end."""

from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .._loop import all_finite, iterate
from .._solution import RESULTS, Solution
from .._types import Key
from ._method import AbstractMethod, Input, Problem
from ._network import Prior
from ._watch import Watch, Watcher


class Run(eqx.Module):
    """Everything that does not change from step to step.

    - `result`: `RESULTS.successful` for a problem that can be solved.
    """

    problem: Problem
    prior: Prior
    method: AbstractMethod
    watcher: Watcher
    given: Input
    learning_rate: Array
    key: Key
    result: Any
    optimiser: Any = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)

    def make_optimiser(self) -> Any:
        """The user's own, or Adam of a learning rate: built inside the trace, so that another rate does not retrace."""
        return optax.adam(self.learning_rate) if self.optimiser is None else self.optimiser


class State(NamedTuple):
    """Everything that does.

    - `ended`: whether the steps are over, and the variables stay as they are.
    - `code`: how they ended; `max_steps_reached` until something else is known.
    - `num_done`: how many they were.
    - `last`: the image of the variables, from when the steps are over.
    """

    variables: PyTree[Array]
    optimiser: PyTree
    memory: PyTree[Array]
    watch: Watch
    ended: Array
    code: Any
    num_done: Array
    last: Array


def begin(run: Run) -> State:
    """The state before the first step. A problem that cannot be solved has ended."""
    variables = run.method.variables(run.prior.weights, run.given.z0)
    domain = run.problem.likelihood.operator.domain
    solvable = run.result == RESULTS.successful
    return State(
        variables=variables,
        optimiser=run.make_optimiser().init(variables),
        memory=run.method.memory(run.problem),
        watch=run.watcher.start(domain, run.num_steps),
        ended=~solvable,
        code=RESULTS.where(solvable, RESULTS.max_steps_reached, run.result),
        num_done=jnp.int32(0),
        last=jnp.zeros(domain.shape, domain.dtype),
    )


def advance(
    run: Run,
    state: State,
    num_done: Array | int,
    *,
    max_steps: int,
    differentiate: Any = None,
    progress: diffrax.AbstractProgressMeter | None = None,
) -> State:
    """At most `max_steps` steps after the first `num_done`, and none beyond the run's own number.

    When the steps are over the loop goes round once more, with variables that stay as they are: so the image after the
    last step is made where all images are made, and the network stands once in the program.
    """

    def step(index: Array, state: State, run: Run) -> tuple[State, Array, Any]:
        moved = _step(index + num_done, state, run)
        # A run that has more steps to take goes on with the next call.
        return moved, state.ended | (~moved.ended & (index + 1 >= max_steps)), RESULTS.successful

    state, _, _ = iterate(step, state, run, max_steps=max_steps + 1, differentiate=differentiate, progress=progress)
    return state


def _step(index: Array, state: State, run: Run) -> State:
    """One step, or, where the steps are over, a look at the image of the last variables."""
    key = jax.random.fold_in(run.key, index)
    z = run.given.draw(state.ended, key=key)
    loss = lambda v: run.method.loss(run.problem, v, state.memory, z, key=key)
    (value, found), gradient = jax.value_and_grad(loss, has_aux=True)(state.variables)
    # The gradient of a real function of complex weights points downhill as its conjugate.
    gradient = jax.tree.map(jnp.conj, gradient)
    # Optimisers that search along a line want the value and the function too.
    updates, optimiser = optax.with_extra_args_support(run.make_optimiser()).update(
        gradient, state.optimiser, state.variables, value=value, grad=gradient, value_fn=lambda v: loss(v)[0]
    )
    variables: Any = optax.apply_updates(state.variables, updates)
    moved = (variables, optimiser, run.method.update(run.problem, state.memory, found.image, index))
    watch, stop, diverged = run.watcher.observe(state.watch, found, index)

    # The image after the last step is still to be seen, by a run that nothing has stopped.
    seen = state.code == RESULTS.max_steps_reached
    finite = all_finite((found.image, watch)) & (state.ended | all_finite(moved))
    select = lambda which, new, old: jax.tree.map(lambda n, o: jnp.where(which, n, o), new, old)
    variables, optimiser, memory = select(~state.ended & finite, moved, state[:3])
    code = RESULTS.where(stop | (state.ended & run.watcher.rule.settles), RESULTS.successful, RESULTS.max_steps_reached)
    code = RESULTS.where(diverged, RESULTS.diverged, code)
    code = RESULTS.where(finite, code, RESULTS.nonfinite)
    return State(
        variables=variables,
        optimiser=optimiser,
        memory=memory,
        watch=select(seen & finite, watch, state.watch),
        ended=state.ended | stop | diverged | ~finite | (index + 1 >= run.num_steps),
        code=RESULTS.where(seen, code, state.code),
        num_done=state.num_done + ~state.ended,
        last=jnp.where(state.ended & jnp.isfinite(found.image), found.image, jnp.zeros_like(found.image)),
    )


def finish(run: Run, state: State) -> Solution:
    """The solution at the end of a run."""
    problem, watch, code = run.problem, state.watch, state.code
    failed = (code == RESULTS.nonfinite) | (code == RESULTS.diverged)
    kept = jax.tree.map(lambda low, best: jnp.where(failed, low, best), watch.lowest, watch.best)
    value = jnp.where(run.result == RESULTS.successful, kept.image, jnp.zeros_like(kept.image))
    objective = problem.fit(value) + problem.penalty(value)
    history = run.watcher.summarise(watch)
    stats = {"num_steps": state.num_done, "objective": objective, "step": kept.step, "history": history}
    aux = {
        "network": run.prior.merge(run.method.weights(state.variables)),
        "input": run.method.input(state.variables, run.given.z0),
        "last": state.last,
    }
    return Solution(value, code, stats, aux)
