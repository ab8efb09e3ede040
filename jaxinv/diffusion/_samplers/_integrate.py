"""Integration by diffrax, a lane that fails keeping its last finite state."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._loop import all_finite
from ..._solution import RESULTS, from_diffrax

# An adaptive solver whose step would be shorter than this share of the interval has met a value that is not finite.
_SHORTEST = 1e-7
# The step that denoises leads beyond the times of the process, by this share of the interval.
_BEYOND = 1e-3


class Last(eqx.Module):
    """What a vector field is told of a step that denoises, besides its own arguments.

    - `now`: whether this is that step. Then the field is `rate * (E[x_0 | x_t = x] - x)`, for all of its stages: so
        that any Runge-Kutta method ends at `E[x_0 | x_t = x]`, with the network at the place that it has anyway.
    - `x`: the state at its beginning, at the last time of the process.
    - `rate`: one over its length.
    """

    now: Array
    x: Array
    rate: Array


class Guarded(diffrax.AbstractWrappedSolver):
    """A solver that stops, keeping its state, at a step that is not finite; and one that may denoise the end.

    An adaptive step that is not finite is tried again, shorter, until it is shorter than `shortest`.

    - `stop`: the time at which the process ends, as the solver counts it.
    - `direction`: 1, or -1 where the solver counts minus the time of the vector field.
    - `image`: the image of the end, from it and the velocity there, where the last stage of a step evaluates that.
    - `before`: where steps beyond `stop` denoise, a time before that. They are told that they go from there to `stop`,
        times which the process and its noise have. A lane of a batch that has ended repeats such a step.
    """

    solver: diffrax.AbstractSolver
    shortest: Array
    # How the stages of a Runge-Kutta method loop: diffrax's adjoints set it on the solver that they are given.
    scan_kind: str | None = None
    stop: Array | None = None
    direction: Array | None = None
    image: Callable | None = eqx.field(default=None, static=True)
    before: Array | None = None

    @property
    def term_structure(self) -> Any:
        return self.solver.term_structure

    @property
    def interpolation_cls(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.solver.interpolation_cls

    @property
    def term_compatible_contr_kwargs(self) -> Any:
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
            # A method whose first stage is the last of the step before keeps that.
            _, velocity = solver_state
            y1 = jnp.where(t1 >= stop, self.image(y1, velocity, args), y1)
        finite = all_finite(y1)
        give_up = ~finite & ((t1 - t0 <= self.shortest) | last)
        y1 = jax.tree.map(lambda new, old: jnp.where(finite, new, old), y1, y0)
        choose = lambda e: jnp.where(finite, e, jnp.where(give_up, jnp.zeros_like(e), jnp.full_like(e, jnp.inf)))
        error = jax.tree.map(choose, error)
        failed: Any = diffrax.RESULTS.nonlinear_divergence
        return y1, error, dense, solver_state, diffrax.RESULTS.where(give_up, failed, result)


class Grid(diffrax.AbstractStepSizeController):
    """Steps to given times. `diffrax.StepTo` raises for a whole batch, which a TPU cannot, where this trusts them."""

    times: Array

    def wrap(self, direction: Any) -> "Grid":
        return Grid(self.times * direction)

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, dt0: Any, args: Any, func: Any, error_order: Any) -> Any:
        return self.times[1], jnp.asarray(2)

    def adapt_step_size(
        self, t0: Any, t1: Any, y0: Any, y1_candidate: Any, args: Any, y_error: Any, error_order: Any, state: Any
    ) -> Any:
        return True, t1, self.times[state], False, state + 1, diffrax.RESULTS.successful


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
        self, t0: Any, t1: Any, y0: Any, y1_candidate: Any, args: Any, y_error: Any, error_order: Any, state: Any
    ) -> Any:
        keep, before, after, *rest = self.controller.adapt_step_size(
            t0, t1, y0, y1_candidate, args, y_error, error_order, state
        )
        # Without a last step that is as short as rounding.
        near = after >= self.stop - _SHORTEST * (self.stop - before)
        after = jnp.where(before >= self.stop, self.end, jnp.where(near, self.stop, after))
        return keep, before, after, *rest


class Integral(eqx.Module):
    """The end of an integration, its code, and states on the way.

    - `taken`: the steps, with the one that denoises.
    """

    end: PyTree[Array]
    result: Any
    num_steps: Array
    taken: Array
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
    """Solve a differential equation from `start` to `stop`, in whichever direction of time.

    - `terms`: their vector fields are given `(args, last)`, where `last` is None, or a `Last` to `denoise`.
    - `times`: the times of fixed steps, monotonic, from `start` to `stop`; else `controller` chooses the steps.
    - `saved`: times at which the state is kept.
    - `scan_kind`: how the stages of a Runge-Kutta method loop, where the adjoint is not to say.
    - `denoise`: whether the end is `E[x_0 | x_t]` of the state at `stop`: by one step beyond, or with
        `image(x, velocity, args)` from what the last step has evaluated.
    """
    # A lane whose times are no times gets others, and a code in the end: diffrax would raise, for the whole batch.
    sound = jnp.isfinite(start) & jnp.isfinite(stop)
    start, stop = jnp.where(sound, start, 0), jnp.where(sound, stop, 1)
    if times is not None:
        sound &= jnp.all(jnp.where(start < stop, 1, -1) * jnp.diff(times) > 0)
        times = jnp.where(sound, times, jnp.linspace(start, stop, len(times)))
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
    solver = Guarded(solver, shortest, scan_kind, stop * direction, direction, image if denoise else None, before)
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
    taken = solution.stats["num_steps"]
    num_steps = taken - (direction * reached > direction * stop) if beyond else taken
    return Integral(end, result, num_steps, taken, states)
