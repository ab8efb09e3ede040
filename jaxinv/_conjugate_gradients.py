"""Conjugate gradients, for positive definite linear maps on images and on measurements."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._loop import iterate
from ._solution import RESULTS


class Solved(NamedTuple):
    """The end of conjugate gradients.

    - `x`: the last iterate.
    - `square`: the squared norm of its residual.
    """

    x: PyTree[Array]
    square: Array
    num_steps: Array
    result: Any


def conjugate_gradients(
    product: Callable[[PyTree, PyTree], PyTree],
    b: PyTree[Array],
    args: PyTree,
    *,
    rtol: Any,
    atol: Any = 0.0,
    max_steps: int,
    result: Any = RESULTS.successful,
    differentiate: Any = None,
    exhausted: Any = RESULTS.max_steps_reached,
) -> Solved:
    """Solve `product(x, args) = b` from 0, until the residual is below `atol + rtol ||b||`.

    - `product`: `product(v, args)`, linear in `v` and positive definite; where it turns out not to be, the code is
        `breakdown`.
    - `result`, `differentiate`, `exhausted`: as of `iterate`.
    """
    state, size = begin(b)
    tolerance = jnp.asarray(atol, size.dtype) + jnp.asarray(rtol, size.dtype) * size
    step = lambda index, state, args: _step(product, state, *args)
    (x, _, _, square), num_steps, result = iterate(
        step,
        state,
        (args, tolerance),
        result=result,
        max_steps=max_steps,
        differentiate=differentiate,
        exhausted=exhausted,
    )
    return Solved(x, square, num_steps, result)


def begin(b: PyTree[Array]) -> tuple[PyTree[Array], Array]:
    """The state at 0, which is iterate, residual, direction and the squared norm of the residual; and the norm of b."""
    size = root(dot(b, b))
    return (jax.tree.map(jnp.zeros_like, b), b, b, size**2), size


def _step(product: Callable, state: PyTree, args: PyTree, tolerance: Array) -> tuple[PyTree, Array, Any]:
    return advance(state, product(state[2], args), tolerance)


def advance(state: PyTree[Array], image: PyTree[Array], tolerance: Array) -> tuple[PyTree[Array], Array, Any]:
    """The next state, given the product of the matrix and the direction; whether it is the last; and the code."""
    x, residual, direction, square = state
    curvature = dot(direction, image)
    length = jnp.where(curvature > 0, square / jnp.where(curvature > 0, curvature, 1), 0)
    x = jax.tree.map(lambda x, d: x + length * d, x, direction)
    residual = jax.tree.map(lambda r, i: r - length * i, residual, image)
    new = dot(residual, residual)
    ratio = jnp.where(square > 0, new / jnp.where(square > 0, square, 1), 0)
    direction = jax.tree.map(lambda r, d: r + ratio * d, residual, direction)
    solved = new <= tolerance**2
    broken = ~solved & ~(curvature > 0)
    return (x, residual, direction, new), solved | broken, RESULTS.where(broken, RESULTS.breakdown, RESULTS.successful)


def dot(a: PyTree[Array], b: PyTree[Array]) -> Array:
    """The real part of the inner product of two images, or two measurements."""
    parts = jax.tree.map(lambda a, b: jnp.sum((jnp.conj(a) * b).real), a, b)
    return jax.tree.reduce(jnp.add, parts)


def root(square: Array) -> Array:
    """The square root, with derivative 0 at 0."""
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
