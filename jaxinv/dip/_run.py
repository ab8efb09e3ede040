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
from ._method import AbstractMethod, Evaluation, Input, Problem
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
    """Everything that does."""

    variables: PyTree[Array]
    optimiser: PyTree
    memory: PyTree[Array]
    watch: Watch


def begin(run: Run) -> State:
    """The state before the first step."""
    variables = run.method.variables(run.prior.weights, run.given.z0)
    watch = run.watcher.start(run.problem.likelihood.operator.domain, run.num_steps)
    return State(variables, run.make_optimiser().init(variables), run.method.memory(run.problem), watch)


def advance(
    run: Run,
    state: State,
    num_done: Array | int,
    *,
    max_steps: int,
    differentiate: Any = None,
    progress: diffrax.AbstractProgressMeter | None = None,
) -> tuple[State, Array, Any]:
    """At most `max_steps` steps after the first `num_done`, and none beyond the run's own number.

    **Returns:** the state, the number of steps taken now, and the code: `max_steps_reached` where nothing stopped it.
    """

    def step(index: Array, state: State, run: Run) -> tuple[State, Array, Any]:
        index = index + num_done
        state, stop, diverged = _step(index, state, run)
        ended = index + 1 >= run.num_steps
        code = RESULTS.where(stop, RESULTS.successful, RESULTS.max_steps_reached)
        return state, stop | diverged | ended, RESULTS.where(diverged, RESULTS.diverged, code)

    return iterate(
        step, state, run, result=run.result, max_steps=max_steps, differentiate=differentiate, progress=progress
    )


def _step(index: Array, state: State, run: Run) -> tuple[State, Array, Array]:
    key = jax.random.fold_in(run.key, index)
    loss = lambda v: run.method.loss(run.problem, v, state.memory, run.given, key=key)
    (value, found), gradient = jax.value_and_grad(loss, has_aux=True)(state.variables)
    # The gradient of a real function of complex weights points downhill as its conjugate.
    gradient = jax.tree.map(jnp.conj, gradient)
    # Optimisers that search along a line want the value and the function too.
    updates, memory = optax.with_extra_args_support(run.make_optimiser()).update(
        gradient, state.optimiser, state.variables, value=value, grad=gradient, value_fn=lambda v: loss(v)[0]
    )
    variables: Any = optax.apply_updates(state.variables, updates)
    watch, stop, diverged = run.watcher.observe(state.watch, found, index)
    moved = State(variables, memory, run.method.update(run.problem, state.memory, found.image, index), watch)
    return moved, stop, diverged


def finish(run: Run, state: State, num_done: Array, code: Any) -> Solution:
    """The solution at the end of a run."""
    problem, watcher = run.problem, run.watcher
    # The image after the last step is still to be seen, by a run that nothing has stopped.
    key = jax.random.fold_in(run.key, num_done)
    last = run.method.image(problem, state.variables, run.given, key=key)
    objective = problem.fit(last) + problem.penalty(last)
    seen, stop, diverged = watcher.observe(state.watch, Evaluation(last, objective), num_done)
    ran = code == RESULTS.max_steps_reached
    keep = ran & all_finite((last, seen))
    watch = jax.tree.map(lambda new, old: jnp.where(keep, new, old), seen, state.watch)
    code = RESULTS.where(keep & (stop | watcher.rule.settles), RESULTS.successful, code)
    code = RESULTS.where(keep & diverged, RESULTS.diverged, code)
    code = RESULTS.where(ran & ~keep, RESULTS.nonfinite, code)

    failed = (code == RESULTS.nonfinite) | (code == RESULTS.diverged)
    kept = jax.tree.map(lambda low, best: jnp.where(failed, low, best), watch.lowest, watch.best)
    value = jnp.where(run.result == RESULTS.successful, kept.image, jnp.zeros_like(kept.image))
    objective = problem.fit(value) + problem.penalty(value)
    stats = {"num_steps": num_done, "objective": objective, "step": kept.step, "history": watcher.summarise(watch)}
    aux = {
        "network": run.prior.merge(run.method.weights(state.variables)),
        "input": run.method.input(state.variables, run.given.z0),
        "last": jnp.where(jnp.isfinite(last), last, jnp.zeros_like(last)),
    }
    return Solution(value, code, stats, aux)
