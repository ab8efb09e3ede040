"""The one loop that every iterative solver runs in.

It is the only file with a solver's `while_loop` or `scan`, and it owns the freezing of finished lanes: under `jax.vmap`
a problem that has finished keeps its whole state, so a batch gives what a loop over its problems gives. `run` drives a
method of the grammar in `_method.py`; `iterate` is the primitive below it, for a plain function.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from ._arrays import check_count
from ._differentiation import Implicit, Unrolled
from ._forward_only import forward_only
from ._method import AbstractMethod
from ._solution import RESULTS, reject
from ._types import Key, ProgressMeter, PyTree
from ._workarounds import all_of
from .requirements import valid

# step(index, state, args) -> (new state, finished, code if finished)
Step = Callable[[Array, PyTree, PyTree], tuple[PyTree, Array, RESULTS]]


def run(
    method: AbstractMethod,
    problem: PyTree,
    state: PyTree,
    *,
    key: Key | None = None,
    result: RESULTS = RESULTS.successful,
    max_steps: int,
    first: Array | int = 0,
    times: Array | None = None,
    differentiate: Unrolled | Implicit | None = None,
    exhausted: RESULTS = RESULTS.max_steps_reached,
    progress: ProgressMeter | None = None,
) -> tuple[PyTree, Array, RESULTS]:
    """Repeat `method.step` until it says that the problem has finished, at most `max_steps` times.

    This is the only place where the key of a step is made, as `jax.random.fold_in(key, index)`: more steps, or a run
    that is resumed, change nothing of the steps before.

    **Arguments:**

    - `method`: a method of the grammar.
    - `problem`: as `method.prepare` made it.
    - `state`: as `method.init` made it, or an earlier call of `run`.
    - `key`: of all steps; `None` for a method without randomness.
    - `result`: the code of `method.prepare`. A problem whose code is not `RESULTS.successful` keeps state and code.
    - `max_steps`: static, at least 1.
    - `first`: the index of the first step, for a run that goes on from an earlier one.
    - `times`: for a method on a grid of times, one more than it has steps: step `index` then gets `times[index]` and
        `times[index + 1]` in place of its index.
    - `differentiate`: `Unrolled()` for a loop that has gradients in reverse mode.
    - `exhausted`: the code of a problem that used all its steps.
    - `progress`: a progress meter of diffrax, which ticks once per step, not once per problem.

    **Returns:** the last finite state, the number of steps taken, and the code, per problem.
    """

    def step(index: Array, state: PyTree, args: Any) -> tuple[PyTree, Array, RESULTS]:
        method, problem, key, first, times = args
        index = index + first
        place = (index,) if times is None else (times[index], times[index + 1])
        return method.step(problem, state, *place, key=None if key is None else jax.random.fold_in(key, index))

    return iterate(
        step,
        state,
        (method, problem, key, first, times),
        result=result,
        max_steps=max_steps,
        differentiate=differentiate,
        exhausted=exhausted,
        progress=progress,
        indicator=method.indicator,
    )


@jax.custom_batching.custom_vmap
def any_lane(running: Array) -> Array:
    """Whether a flag holds for any problem of a batch; for one problem, the flag."""
    return running


@any_lane.def_vmap
def _(axis_size, in_batched, running):
    del axis_size
    # Unbatched by construction: the predicate of the loop, and with it the step counter, stays one scalar for the
    # whole batch, so that a key is folded with it once and progress ticks once.
    return (any_lane(jnp.any(running, axis=0)) if in_batched[0] else any_lane(running)), False


def iterate(
    step: Step,
    state: PyTree,
    args: PyTree,
    *,
    result: RESULTS = RESULTS.successful,
    max_steps: int,
    differentiate: Unrolled | Implicit | None = None,
    exhausted: RESULTS = RESULTS.max_steps_reached,
    progress: ProgressMeter | None = None,
    indicator: Callable[[PyTree], PyTree] = lambda state: state,
) -> tuple[PyTree, Array, RESULTS]:
    """Repeat `step` until it says that it has finished, at most `max_steps` times.

    **Arguments:**

    - `step`: `step(index, state, args) -> (state, finished, code)`; `finished` is a boolean scalar and `code` the
        member of `RESULTS` that holds if it is true.
    - `state`: a pytree of arrays.
    - `args`: everything that `step` reads, a pytree.
    - `result`: the lane starts only if this is `RESULTS.successful`; otherwise it stays at `state` with this code. Nor
        does a lane start in which a module among `args` has a number out of its range: its code is `invalid_parameter`.
    - `max_steps`: static, at least 1.
    - `differentiate`: with `Unrolled()` a `lax.scan` over all of `max_steps`, which has gradients in reverse mode.
    - `exhausted`: the code of a lane that used all its steps.
    - `indicator`: a function of the state whose value is finite only if the whole state is; by default the state.
        A check of all leaves takes longer to compile.

    **Returns:** the last finite state, the number of steps taken, and the code, per lane.
    """
    check_count(max_steps, "max_steps")
    false = _false_like((state, args, result == RESULTS.successful))
    result = reject(result, valid(args))
    running = (result == RESULTS.successful) & ~false
    state = jax.tree.map(lambda leaf: jnp.where(false, jnp.zeros_like(leaf), leaf), state)
    result = RESULTS.where(false, RESULTS.nonfinite, result)
    num_steps = jnp.where(false, jnp.int32(1), jnp.int32(0))
    meter = None if progress is None else progress.init()

    def body(index, carry):
        state, running, result, num_steps, meter = carry
        new, finished, code = step(index, state, args)
        finite = all_finite(indicator(new))
        advance = running & finite
        state = jax.tree.map(lambda n, o: jnp.where(advance, n, o), new, state)
        result = RESULTS.where(running & ~finite, RESULTS.nonfinite, result)
        result = RESULTS.where(advance & finished, code, result)
        num_steps = num_steps + running.astype(num_steps.dtype)
        if progress is not None:
            meter = progress.step(meter, (index + 1) / max_steps)
        return state, advance & ~finished, result, num_steps, meter

    carry = (state, running, result, num_steps, meter)
    if isinstance(differentiate, Unrolled):
        carry, _ = jax.lax.scan(lambda c, i: (body(i, c), None), carry, jnp.arange(max_steps))
    else:
        _, carry = jax.lax.while_loop(
            lambda c: (c[0] < max_steps) & any_lane(c[1][1]),
            lambda c: (c[0] + 1, body(c[0], c[1])),
            (jnp.array(0), carry),
        )
    state, running, result, num_steps, meter = carry
    if not isinstance(differentiate, Unrolled):
        state = forward_only(state)
    if progress is not None:
        progress.close(meter)
    return state, num_steps, RESULTS.where(running, exhausted, result)


def has_converged(
    new: PyTree,
    old: PyTree,
    new_objective: Array,
    old_objective: Array,
    rtol: Array,
    atol: Array,
    rounding: Array | float = 0.0,
) -> Bool[Array, ""]:
    """Whether objective and iterate both changed by less than `atol + rtol * size`, in root mean square.

    Both are needed: an objective can be constant on a plateau, and an iterate can change slowly without end. A change
    of the objective by less than `rounding` counts as none: an objective whose minimum is zero keeps changing by as
    much as it is.
    """
    change = jax.tree.map(jnp.subtract, new, old)
    return stands_still(change, new, new_objective, old_objective, rtol, atol, rounding)


def stands_still(
    change: PyTree,
    new: PyTree,
    new_objective: Array,
    old_objective: Array,
    rtol: Array,
    atol: Array,
    rounding: Array | float = 0.0,
) -> Bool[Array, ""]:
    """`has_converged`, from the change of the iterate."""
    # The decision to stop has no gradient, so the square roots need no guard.
    change, new, new_objective, old_objective = jax.lax.stop_gradient((change, new, new_objective, old_objective))
    count = sum(leaf.size for leaf in jax.tree.leaves(new))
    # One reduction for both, which is one kernel to compile.
    add = lambda a, b: (a[0] + b[0], a[1] + b[1])
    squares = jax.tree.map(
        lambda *pair: jax.lax.reduce(
            tuple(jnp.abs(leaf) ** 2 for leaf in pair), (jnp.zeros((), rtol.dtype),) * 2, add, range(pair[0].ndim)
        ),
        change,
        new,
    )
    squares = jax.tree.leaves(squares)
    rms_change, rms = (jnp.sqrt(sum(part) / count) for part in (squares[::2], squares[1::2]))
    still = rms_change <= atol + rtol * rms
    return still & (jnp.abs(new_objective - old_objective) <= atol + rtol * jnp.abs(new_objective) + rounding)


def divergence_threshold(objective: Array) -> Array:
    """The value beyond which an objective that began as `objective` counts as diverged."""
    return (1 + jnp.abs(jax.lax.stop_gradient(objective))) / jnp.finfo(objective.dtype).eps


def _false_like(tree: PyTree) -> Array:
    # A False that derives from every array that the loop reads. A literal False would have the wrong type as a loop
    # carry in `shard_map`, and would be unbatched under `vmap` until the first step. XLA sees that it is False, so that
    # hundreds of arrays, as a network has, cost no compilation.
    false = jnp.zeros((), bool)
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, jax.Array) or leaf.size == 0:
            continue
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        first = jax.lax.slice(leaf, (0,) * leaf.ndim, (1,) * leaf.ndim).reshape(())
        false |= (first != first) & jnp.zeros((), bool)
    return false


def all_finite(tree: PyTree) -> Array:
    """Whether every floating-point entry is finite."""
    inexact = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return all_of([jnp.all(jnp.isfinite(leaf)) for leaf in inexact])
