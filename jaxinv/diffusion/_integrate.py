"""Integration by diffrax, a lane that fails keeping its last finite state."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._loop import all_finite
from .._solution import RESULTS, from_diffrax

# Of the interval: an adaptive solver that would step less than this has met something that is not finite.
_SHORTEST = 1e-7


class Guarded(diffrax.AbstractWrappedSolver):
    """A solver that stops, keeping its state, at a step that is not finite.

    An adaptive step that is not finite is tried again, shorter, until it is shorter than `shortest`.
    """

    solver: diffrax.AbstractSolver
    shortest: Array
    # How the stages of a Runge-Kutta method loop: diffrax's adjoints set it on the solver that they are given.
    scan_kind: str | None = None

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
        y1, error, dense, solver_state, result = solver.step(terms, t0, t1, y0, args, solver_state, made_jump)
        finite = all_finite(y1)
        give_up = ~finite & (t1 - t0 <= self.shortest)
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


class Integral(eqx.Module):
    """The end of an integration, its code, and states on the way."""

    end: PyTree[Array]
    result: Any
    num_steps: Array
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
) -> Integral:
    """Solve a differential equation from `start` to `stop`, in whichever direction of time.

    - `times`: the times of fixed steps, monotonic, from `start` to `stop`; else `controller` chooses the steps.
    - `saved`: times at which the state is kept.
    - `scan_kind`: how the stages of a Runge-Kutta method loop, where the adjoint is not to say.
    """
    # A lane whose times are no times gets others, and a code in the end: diffrax would raise, for the whole batch.
    sound = jnp.isfinite(start) & jnp.isfinite(stop)
    start, stop = jnp.where(sound, start, 0), jnp.where(sound, stop, 1)
    if times is not None:
        sound &= jnp.all(jnp.where(start < stop, 1, -1) * jnp.diff(times) > 0)
        times = jnp.where(sound, times, jnp.linspace(start, stop, len(times)))
    shortest = _SHORTEST * jnp.abs(stop - start) if times is None else jnp.inf
    # diffrax counts time in the direction of integration, so a step is never negative to the solver.
    solver = Guarded(solver, jnp.asarray(shortest, start.dtype), scan_kind)
    steps: Any = controller if times is None else Grid(times)
    saves = diffrax.SubSaveAt(t1=True)
    saves = saves if saved is None else [saves, diffrax.SubSaveAt(ts=saved)]
    solution = diffrax.diffeqsolve(
        terms,
        solver,
        start,
        stop,
        None,
        y,
        args,
        saveat=diffrax.SaveAt(subs=saves),
        stepsize_controller=steps,
        adjoint=adjoint,
        max_steps=max_steps,
        throw=False,
        progress_meter=diffrax.NoProgressMeter() if progress is None else progress,
    )
    kept: Any = solution.ys
    ends, states = (kept, None) if saved is None else kept
    end = jax.tree.map(lambda leaf: leaf[0], ends)
    if states is not None:
        # A lane that stopped early stays where it is.
        states = jax.tree.map(lambda s, e: jnp.where(jnp.isfinite(s), s, e[None]), states, end)
    stopped = solution.result == diffrax.RESULTS.nonlinear_divergence
    result: Any = from_diffrax(solution.result)
    result = RESULTS.where(sound, RESULTS.where(stopped, RESULTS.nonfinite, result), RESULTS.invalid_parameter)
    end = jax.tree.map(lambda last, first: jnp.where(sound, last, first), end, y)
    return Integral(end, result, solution.stats["num_steps"], states)
