"""Integration by diffrax, where a lane that fails keeps its last finite state."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._loop import all_finite
from ..._score import AbstractProcess
from ..._solution import RESULTS, from_diffrax
from ..._types import Checked, PyTree
from ...requirements import valid

# The shortest adaptive step, as a share of the interval: a solver that wants a shorter one has met a nonfinite value.
_SHORTEST = 1e-7
# The length of the step that denoises, which leads beyond the times of the process, as a share of the interval.
_BEYOND = 1e-3


class Last(eqx.Module):
    """The step that denoises, as it is described to a vector field.

    - `now`: whether the present step is that step. In all of its stages the field is then
        `rate * (E[x_0 | x_t = x] - x)`, so any Runge-Kutta method ends at `E[x_0 | x_t = x]`, and the program holds the
        network at one place only.
    - `x`: the state at the beginning of the step, at the last time of the process.
    - `rate`: one over the length of the step.
    """

    now: Array
    x: Array
    rate: Array


class Guarded(diffrax.AbstractWrappedSolver):
    """A solver around another one, which stops at a step that is not finite, and which may denoise the end.

    At a step that is not finite it keeps the state before the step. An adaptive step is first tried again with shorter
    lengths, until these are below `shortest`.

    - `sound`: whether there is anything to solve; otherwise the first step is the last one.
    - `stop`: the time at which the process ends, in the variable of the solver.
    - `direction`: 1, or -1 if the variable of the solver is minus the time of the vector field.
    - `image`: a function that makes the denoised image from the end and the velocity there, for a solver whose last
        stage of a step evaluates that velocity.
    - `before`: a time before `stop`, if a step beyond `stop` denoises. The wrapped solver takes this step as one from
        `before` to `stop`, which are times of the process and of its noise. A lane of a batch that has ended repeats
        such a step.
    """

    # diffrax declares this and three members below as class variables, and its own wrappers override them like this.
    solver: diffrax.AbstractSolver  # pyright: ignore[reportIncompatibleVariableOverride]
    shortest: Array
    sound: Array
    # The kind of loop over the stages of a Runge-Kutta method; the adjoints of diffrax set it on the solver.
    scan_kind: str | None = None
    stop: Array | None = None
    direction: Array | None = None
    image: Callable | None = eqx.field(default=None, static=True)
    before: Array | None = None

    @property
    def term_structure(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.solver.term_structure

    @property
    def interpolation_cls(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.solver.interpolation_cls

    @property
    def term_compatible_contr_kwargs(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.solver.term_compatible_contr_kwargs

    def order(self, terms: Any) -> Any:
        return self.solver.order(terms)

    def strong_order(self, terms: Any) -> Any:
        return self.solver.strong_order(terms)

    def error_order(self, terms: Any) -> Any:
        return self.solver.error_order(terms)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        return self.solver.init(terms, t0, t1, y0, args)

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        return self.solver.func(terms, t0, y0, args)

    def step(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any) -> Any:
        solver = self.solver
        if getattr(solver, "scan_kind", "none of its own") is None:
            solver = eqx.tree_at(lambda s: s.scan_kind, solver, self.scan_kind, is_leaf=lambda leaf: leaf is None)
        last = jnp.zeros((), bool)
        stop: Any = self.stop
        if self.before is not None:
            (own, _), last = args, t0 >= stop
            t0, t1 = jnp.where(last, self.before, t0), jnp.where(last, stop, t1)
            args = (own, Last(last, y0, self.direction / (stop - self.before)))
            made_jump = made_jump | last
        y1, error, dense, solver_state, result = solver.step(terms, t0, t1, y0, args, solver_state, made_jump)
        if self.image is not None:
            # The state of such a solver is its last stage.
            _, velocity = solver_state
            y1 = jnp.where(t1 >= stop, self.image(y1, velocity, args), y1)
        finite = all_finite(y1)
        give_up = (~finite & ((t1 - t0 <= self.shortest) | last)) | ~self.sound
        finite &= self.sound
        y1 = jax.tree.map(lambda new, old: jnp.where(finite, new, old), y1, y0)
        choose = lambda e: jnp.where(finite, e, jnp.where(give_up, jnp.zeros_like(e), jnp.full_like(e, jnp.inf)))
        error = jax.tree.map(choose, error)
        failed: Any = diffrax.RESULTS.nonlinear_divergence
        return y1, error, dense, solver_state, diffrax.RESULTS.where(give_up, failed, result)


class Grid(diffrax.AbstractStepSizeController):
    """Steps to given times, unchecked: `diffrax.StepTo` raises for a whole batch, and a TPU cannot raise."""

    times: Array

    def wrap(self, direction: Any) -> "Grid":
        return Grid(self.times * direction)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, dt0: Any, args: Any, func: Any, error_order: Any) -> Any:
        return self.times[1], jnp.asarray(2)

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: Any,
        y1_candidate: Any,
        args: Any,
        y_error: Any,
        error_order: Any,
        controller_state: Any,
    ) -> Any:
        after = self.times[controller_state]
        return True, t1, after, False, controller_state + 1, diffrax.RESULTS.successful


class Beyond(diffrax.AbstractStepSizeController):
    """Steps of another controller up to the time `stop`, and one more, to the time `end`."""

    controller: diffrax.AbstractStepSizeController
    stop: Array
    end: Array

    def wrap(self, direction: Any) -> "Beyond":
        return Beyond(self.controller.wrap(direction), self.stop * direction, self.end * direction)

    def init(
        self, terms: Any, t0: Any, t1: Any, y0: Any, dt0: Any, args: Any, func: Any, error_order: Any
    ) -> tuple[Any, Any]:
        first, state = self.controller.init(terms, t0, self.stop, y0, dt0, args, func, error_order)
        return jnp.minimum(first, self.stop), state

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: Any,
        y1_candidate: Any,
        args: Any,
        y_error: Any,
        error_order: Any,
        controller_state: Any,
    ) -> Any:
        keep, before, after, *rest = self.controller.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state
        )
        # A step that would end just before the stop ends there, so no step is as short as a rounding error.
        near = after >= self.stop - _SHORTEST * (self.stop - before)
        after = jnp.where(before >= self.stop, self.end, jnp.where(near, self.stop, after))
        return keep, before, after, *rest


class Integral(eqx.Module):
    """The end of an integration, its code, and states on the way.

    - `num_steps`: the number of steps, without the one that denoises.
    - `num_calls`: the number of steps, with the one that denoises.
    """

    end: PyTree[Array]
    result: Any
    num_steps: Array
    num_calls: Array
    states: PyTree[Array] | None


def integrate(
    terms: Any,
    y: PyTree[Array],
    args: PyTree,
    *,
    solver: diffrax.AbstractSolver,
    start: Array,
    stop: Array,
    times: Array | None = None,
    controller: diffrax.AbstractStepSizeController | None = None,
    saved: Array | None = None,
    max_steps: int,
    adjoint: diffrax.AbstractAdjoint,
    scan_kind: str | None = None,
    progress: Any = None,
    denoise: bool = False,
    image: Callable | None = None,
) -> Integral:
    """Solve a differential equation from `start` to `stop`, forwards or backwards in time.

    - `terms`: the terms of diffrax, whose vector fields are given `(args, last)`; `last` is `None`, or a `Last` if the
        end is to be denoised.
    - `times`: the times of fixed steps, monotonic, from `start` to `stop`; with `None`, `controller` chooses the steps.
    - `saved`: the times at which the state is kept.
    - `scan_kind`: the kind of loop over the stages of a Runge-Kutta method, for an adjoint that does not set it.
    - `denoise`: whether the end is `E[x_0 | x_t]` for the state at `stop`. It is computed by one step beyond `stop`, or
        by `image(x, velocity, args)` from what the last step has evaluated.
    """
    # A lane with numbers out of their range gets other times, and a code in the end; diffrax would raise for the whole
    # batch.
    begins = all_finite(y)
    y = jax.tree.map(lambda leaf: jnp.where(begins, leaf, jnp.zeros_like(leaf)), y)
    sound = jnp.isfinite(start) & jnp.isfinite(stop) & valid(args)
    start, stop = jnp.where(sound, start, 0), jnp.where(sound, stop, 1)
    if times is not None:
        sound &= jnp.all(jnp.where(start < stop, 1, -1) * jnp.diff(times) > 0)
        times = jnp.where(sound, times, jnp.linspace(start, stop, len(times)))
    if saved is not None:
        # Times that do not increase make diffrax raise for the whole batch, too.
        saved = jnp.where(sound, saved, jnp.linspace(start, stop, len(saved) + 1)[1:])
    shortest = _SHORTEST * jnp.abs(stop - start) if times is None else jnp.inf
    # diffrax counts time in the direction of integration, so a step is never negative to the solver.
    direction = jnp.where(start < stop, 1, -1).astype(start.dtype)
    last, before, end, beyond = None, None, stop, denoise and image is None
    if beyond:
        length = _BEYOND * (stop - start)
        last, before, end = (
            Last(jnp.zeros((), bool), y, jnp.ones_like(stop)),
            (stop - length) * direction,
            stop + length,
        )
    shortest = jnp.asarray(shortest, start.dtype)
    solver = Guarded(
        solver, shortest, sound & begins, scan_kind, stop * direction, direction, image if denoise else None, before
    )
    steps: Any = controller
    if times is not None:
        steps = Grid(jnp.append(times, end) if beyond else times)
    elif beyond:
        steps = Beyond(steps, stop, end)
    saves = diffrax.SubSaveAt(t1=True)
    saves = saves if saved is None else [saves, diffrax.SubSaveAt(ts=saved)]
    solution = diffrax.diffeqsolve(
        terms,
        solver,
        start,
        end,
        None,
        y,
        (args, last),
        saveat=diffrax.SaveAt(subs=saves),
        stepsize_controller=steps,
        adjoint=adjoint,
        max_steps=max_steps + beyond,
        throw=False,
        progress_meter=diffrax.NoProgressMeter() if progress is None else progress,
    )
    kept: Any = solution.ys
    reached: Any = solution.ts
    ends, states = (kept, None) if saved is None else kept
    reached = reached[0] if saved is None else reached[0][0]
    end = jax.tree.map(lambda leaf: leaf[0], ends)
    if states is not None:
        # A lane that stopped early stays where it is.
        states = jax.tree.map(lambda s, e: jnp.where(jnp.isfinite(s), s, e[None]), states, end)
    stopped = solution.result == diffrax.RESULTS.nonlinear_divergence
    result: Any = from_diffrax(solution.result)
    result = RESULTS.where(sound, RESULTS.where(stopped, RESULTS.nonfinite, result), RESULTS.invalid_parameter)
    end = jax.tree.map(lambda last, first: jnp.where(sound, last, first), end, y)
    num_calls = solution.stats["num_steps"]
    passed = direction * reached > direction * stop
    num_steps = num_calls - passed.astype(num_calls.dtype) if beyond else num_calls
    return Integral(end, result, num_steps, num_calls, states)


def at_the_end(last: Last | None, process: AbstractProcess, t: Array, x: Array) -> tuple[Array, Array]:
    """The time and the state at which the network is evaluated: in a step that denoises, those at its beginning."""
    if last is None:
        return t, x
    return jnp.where(last.now, process.t_min, t), jnp.where(last.now, last.x, x)


def as_solver(solver: Checked[diffrax.AbstractSolver]) -> diffrax.AbstractSolver:
    """A solver of diffrax, checked: the converter of a field `solver`."""
    if not isinstance(solver, diffrax.AbstractSolver):
        raise ValueError(f"`solver` must be a solver of diffrax, such as `diffrax.Euler()`; got {solver!r}.")
    return solver


def evaluations(solver: Any, num_steps: Array) -> Array:
    """The number of evaluations of the vector field by a Runge-Kutta method, or by Euler's, which has one a step.

    A method whose first stage is the last one of the step before has one more at the beginning.
    """
    tableau = _tableau(solver)
    stages = 1 if tableau is None else len(tableau.c) + 1
    reused = int(reuses(solver))
    return num_steps * (stages - reused) + reused


def reuses(solver: Any) -> bool:
    """Whether the last stage of a step is at its end, and serves as the first stage of the next one."""
    return bool(getattr(_tableau(solver), "fsal", False))


def _tableau(solver: Any) -> Any:
    tableau = getattr(solver, "tableau", None)
    return getattr(tableau, "explicit", tableau)
