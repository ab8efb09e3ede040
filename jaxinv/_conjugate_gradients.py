"""Conjugate gradients, for positive definite linear maps on images and on measurements.

The residual is updated by a recurrence. Where the map is not symmetric, or gives another value in one place of a
compiled program than in another, that recurrence goes to zero while the true residual does not. So the last step
computes the true residual, by the same code in the same loop, and reports `breakdown` where the two differ.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._arrays import check_count, safe_sqrt, standard_promotion
from ._differentiation import Implicit, Unrolled
from ._loop import any_lane, iterate
from ._solution import RESULTS
from ._sums import dot
from ._types import PyTree, Scalar
from ._workarounds import rounded

# What the next step does: evaluate the residual of the start, iterate, compare the residual with the true one.
_BEGIN, _ITERATE, _COMPARE = range(3)
# The recurrence drifts from the true residual by rounding, of the size of `eps (|H| |x| + |b|)`: by at most as much in
# sixty problems in float32 (tomography, blur, masks and random matrices, weights of 0 to 100, up to 500 steps).
_DRIFT = 100


class Solved(NamedTuple):
    """The end of conjugate gradients.

    - `x`: the last iterate.
    - `aside`: what `residual` made beside the residual of it, of `minimise_quadratic`.
    - `square`: the squared norm of its residual.
    """

    x: PyTree[Array]
    aside: PyTree[Array]
    square: Array
    num_steps: Array
    result: RESULTS


def conjugate_gradients(
    product: Callable[[PyTree, PyTree], PyTree],
    b: PyTree[Array],
    args: PyTree,
    *,
    rtol: Scalar,
    atol: Scalar = 0.0,
    max_steps: int,
    result: RESULTS = RESULTS.successful,
    differentiate: Unrolled | Implicit | None = None,
    exhausted: RESULTS = RESULTS.max_steps_reached,
) -> Solved:
    """Solve `product(x, args) = b` from 0, until the residual is below `atol + rtol ||b||`.

    - `product`: `product(v, args)`, linear in `v` and positive definite; where it turns out not to be, the code is
        `breakdown`.
    - `result`, `differentiate`, `exhausted`: those of `iterate`.
    """

    def residual(v: PyTree, on: Array, args: PyTree) -> tuple[PyTree, None]:
        b, args = args
        return jax.tree.map(lambda b, image: on.astype(b.dtype) * b - image, b, product(v, args)), None

    start, size = begin(b)
    state = _State(*start, size, _ITERATE, None)
    return _solve(residual, state, (b, args), rtol, atol, max_steps, result, differentiate, exhausted)


def minimise_quadratic(
    residual: Callable[[PyTree, Array, PyTree], tuple[PyTree, PyTree]],
    start: PyTree[Array],
    aside: PyTree[Array],
    args: PyTree,
    *,
    rtol: Scalar,
    atol: Scalar = 0.0,
    max_steps: int,
    result: RESULTS = RESULTS.successful,
    differentiate: Unrolled | Implicit | None = None,
    exhausted: RESULTS = RESULTS.max_steps_reached,
) -> Solved:
    """Minimise `<x, H x> / 2 - <b, x>` from 0, where `b` is not at hand, until the residual is below
    `atol + rtol ||b||`.

    - `residual`: `residual(v, on, args)` is `on * b - H v`, where the scalar `on` is 0 or 1, and beside it what is
        asked for of the last iterate. The loop evaluates it at one place, for `b` as for `H`.
    - `start`: zeros of the shape of `x`.
    - `aside`: what is beside the residual at `start`.
    - `result`, `differentiate`, `exhausted`: those of `iterate`.
    """
    zero = jnp.zeros_like(dot(start, start))
    state = _State(start, start, start, zero, zero, _BEGIN, aside)
    return _solve(residual, state, args, rtol, atol, max_steps, result, differentiate, exhausted)


class _State(NamedTuple):
    """
    - `direction`: what the next step evaluates the residual of: at the end the iterate.
    - `square`: the squared norm of the residual.
    - `size`: the norm of the right-hand side.
    - `stage`: what the next step does.
    - `broken`: whether `H` turned out not to be positive definite.
    - `largest`: the largest quotient `<d, H d> / <r, r>` so far, which is the inverse of a step's length and a lower
        bound of the norm of `H`: with a term that is not negative it is a diagonal entry of the matrix of Lanczos.
    """

    x: PyTree[Array]
    residual: PyTree[Array]
    direction: PyTree[Array]
    square: Array
    size: Array
    stage: Any
    aside: PyTree[Array]
    broken: Any = False
    largest: Any = 0.0
    num_steps: Any = 0


def _solve(
    residual: Callable[[PyTree, Array, PyTree], tuple[PyTree, PyTree]],
    state: _State,
    args: PyTree,
    rtol: Scalar,
    atol: Any,
    max_steps: int,
    result: Any,
    differentiate: Any,
    exhausted: Any,
) -> Solved:
    check_count(max_steps, "max_steps")
    real = state.square.dtype
    count = jnp.zeros((), jnp.int32)
    state = state._replace(
        stage=count + state.stage, broken=jnp.zeros((), bool), largest=jnp.zeros((), real), num_steps=count
    )
    tolerances = jnp.asarray(atol, real), jnp.asarray(rtol, real)

    def step(index: Array, state: _State, args: PyTree) -> tuple[PyTree, Array, Any]:
        del index
        (atol, rtol), args = args
        begins, iterates = state.stage == _BEGIN, state.stage == _ITERATE
        # `on * b - H v`: of the direction `-H d`, else the residual itself.
        found, aside = residual(state.direction, jnp.where(iterates, 0, 1).astype(real), args)
        image = jax.tree.map(jnp.negative, found)
        tolerance = atol + rtol * state.size
        solved, ended, _ = advance(state[:4], image, tolerance)
        broken = ended & ~(solved[3] <= tolerance**2)
        quotient = jax.lax.stop_gradient(dot(state.direction, image)) / positive(jax.lax.stop_gradient(state.square))
        ended |= state.num_steps + 1 >= max_steps
        new = state._replace(
            x=solved[0],
            residual=solved[1],
            direction=jax.tree.map(lambda x, d: jnp.where(ended, x, d), solved[0], solved[2]),
            square=solved[3],
            stage=jnp.where(ended, _COMPARE, _ITERATE),
            broken=broken,
            largest=jnp.maximum(state.largest, quotient),
            num_steps=state.num_steps + 1,
        )

        def compare() -> tuple[Array, Array]:
            gap = jax.tree.map(jnp.subtract, found, state.residual)
            scale = state.largest * safe_sqrt(dot(state.x, state.x)) + state.size
            near = safe_sqrt(dot(gap, gap)) <= tolerance + _DRIFT * jnp.finfo(real).eps * scale
            return dot(found, found), ~near

        # Three reductions that most steps do without.
        square, drifted = jax.lax.cond(
            any_lane(~iterates), compare, lambda: (jnp.zeros_like(state.square), state.broken)
        )
        begun = state._replace(
            residual=found, direction=found, square=square, size=safe_sqrt(square), stage=count + _ITERATE
        )
        # A problem that has ended must not ask for them any more.
        compared = state._replace(aside=aside, stage=count + _ITERATE)
        code = RESULTS.where(state.square <= tolerance**2, RESULTS.successful, exhausted)
        code = RESULTS.where(drifted | state.broken, RESULTS.breakdown, code)
        choose = lambda new, begun, old: jnp.where(iterates, new, jnp.where(begins, begun, old))
        return jax.tree.map(choose, new, begun, compared), ~(begins | iterates), code

    # The last step may find the problem solved, and then compares; the first may have to begin.
    state, _, result = iterate(
        step,
        state,
        (tolerances, args),
        result=result,
        max_steps=max_steps + 2,
        differentiate=differentiate,
        # Made of the residual, and all else of these; what is aside is not finite only where the true residual is not,
        # which the comparison notices.
        indicator=lambda state: (state.square, state.largest),
    )
    return Solved(state.x, state.aside, state.square, state.num_steps, result)


def begin(b: PyTree[Array]) -> tuple[tuple[PyTree[Array], PyTree[Array], PyTree[Array], Array], Array]:
    """The state at 0, which is iterate, residual, direction and the squared norm of the residual; and the norm of b."""
    square = dot(b, b)
    return (jax.tree.map(jnp.zeros_like, b), b, b, square), safe_sqrt(square)


@standard_promotion()
def advance(
    state: tuple[PyTree[Array], ...], image: PyTree[Array], tolerance: Array
) -> tuple[tuple[PyTree[Array], ...], Array, RESULTS]:
    """The next state, given the product of the matrix and the direction; whether it is the last; and the code."""
    x, residual, direction, square = state
    curvature = dot(direction, image)
    length = jnp.where(curvature > 0, square / jnp.where(curvature > 0, curvature, 1), 0)
    x = jax.tree.map(lambda x, d: x + rounded(length * d), x, direction)
    residual = jax.tree.map(lambda r, i: r - rounded(length * i), residual, image)
    new = dot(residual, residual)
    ratio = jnp.where(square > 0, new / jnp.where(square > 0, square, 1), 0)
    direction = jax.tree.map(lambda r, d: r + rounded(ratio * d), residual, direction)
    solved = new <= tolerance**2
    broken = ~solved & ~(curvature > 0)
    return (x, residual, direction, new), solved | broken, RESULTS.where(broken, RESULTS.breakdown, RESULTS.successful)


def positive(value: Array) -> Array:
    """A value to divide by: 1 where it is not positive."""
    return jnp.where(value > 0, value, 1)
