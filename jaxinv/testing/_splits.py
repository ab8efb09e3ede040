"""The check of the terms of a regulariser for primal-dual solvers, and of constraints."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._types import PyTree
from ._compare import combine, draw, inner, name_of, require, size, tolerance_of


@jax.jit
def _linear(split: Any, x: Any, auxiliary: Any, dual: Any) -> Any:
    return split.forward(x, auxiliary), split.adjoint(dual), jnp.asarray(split.norm())


@jax.jit
def _dual_prox(split: Any, dual: Any, step: Any, directions: Any) -> Any:
    """The map, the point `u` of Moreau's identity, and the objective that it minimises there and around it."""
    found = split.dual_prox(dual, step)
    point = jax.tree.map(lambda d, p: (d - p) / step, dual, found)

    def objective(u: PyTree) -> Array:
        squares = jax.tree.map(lambda a, d: jnp.sum(jnp.abs(a - d / step) ** 2), u, dual)
        return split.value(u) + 0.5 * step * sum(jax.tree.leaves(squares))

    around = jax.vmap(lambda direction: objective(jax.tree.map(jnp.add, point, direction)))(directions)
    return found, objective(point), around


def check_splits(regulariser: Any, x: Any, random: np.random.Generator) -> None:
    """Check the terms of `splits`: maps and adjoints, norms, dual proxes, and that they add up to the value."""
    name, real, rounding = name_of(regulariser), jnp.finfo(x.dtype).dtype, tolerance_of(x, None)
    weight = np.asarray(0.7, real)
    splits = regulariser.splits(jnp.asarray(weight))
    total, complete = 0.0, True
    for number, split in enumerate(splits):
        what = f"term {number} of {name}.splits"
        auxiliary = jax.tree.map(np.asarray, split.auxiliary(jnp.asarray(x)))
        struct = jax.eval_shape(split.forward, x, auxiliary)
        try:
            jax.eval_shape(split.dual_prox, struct, jnp.asarray(weight))
        except ValueError:
            return  # it has no terms, as it has no prox
        w, dual = draw(auxiliary, random), draw(struct, random)
        field, (image, rest), norm = jax.device_get(_linear(split, x, w, dual))
        left, right = inner(field, dual).real, inner(x, image).real + inner(w, rest).real
        require(
            abs(left - right) <= 100 * rounding * size(field) * size(dual),
            f"{what} has an `adjoint` that is not that of `forward`: <K x, p> is {left:.8g} and <x, K* p> {right:.8g}.",
        )
        longest = norm * np.sqrt(size(x) ** 2 + size(w) ** 2)
        require(
            size(field) <= longest * (1 + rounding),
            f"{what} has `norm` {norm:.6g}, and maps a state of size {longest / norm:.6g} to one of {size(field):.6g}.",
        )
        # The value of a constraint counts as 0, so that its term has no finite minimum to compare with.
        if split.regulariser is None or not split.regulariser.is_constraint:
            _check_dual_prox(split, dual, what, random)
        complete &= not jax.tree.leaves(auxiliary)
        total += float(jax.jit(lambda split, x: split.value(split.forward(x)))(split, x)) if complete else 0.0
    expected = float(weight * regulariser(jnp.asarray(x)))
    require(
        not complete or abs(total - expected) <= 100 * rounding * max(abs(expected), 1e-30),
        f"The terms of {name}.splits add up to {total:.8g}, and weight * R(x) is {expected:.8g}.",
    )


def _check_dual_prox(split: Any, dual: PyTree, what: str, random: np.random.Generator) -> None:
    real = jnp.finfo(jax.tree.leaves(dual)[0].dtype)
    step = np.asarray(0.6, real.dtype)
    scale = size(dual) / np.sqrt(sum(leaf.size for leaf in jax.tree.leaves(dual)))
    lengths = (0.3, 1e-2, 1e-3, 1e-4) if real.bits == 64 else (0.3, 1e-2)
    directions = [combine(length * scale, draw(dual, random), 0.0, dual) for length in lengths for _ in range(8)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *directions)
    found, value, around = jax.device_get(_dual_prox(split, dual, step, stacked))
    require(
        all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found)),
        f"{what} has a `dual_prox` that is not finite.",
    )
    allowed = 10 * float(real.eps) * max(abs(float(value)), 1e-30)
    require(
        np.min(around) >= value - allowed,
        f"{what} has a `dual_prox` that is not one: with p = dual_prox(q, s), u = (q - p) / s must minimise "
        f"F(u) + s / 2 ||u - q / s||^2, whose value there is {value:.8g}, and {np.min(around):.8g} nearby.",
    )


def check_constraint(constraint: Any, x: Any, random: np.random.Generator) -> None:
    """Check that the prox of a constraint is the projection onto a convex set, on which its value is 0."""
    name, rounding = name_of(constraint), tolerance_of(x, None)
    project = jax.jit(lambda u: constraint.prox(u, 1.0))
    inside = np.asarray(project(x))
    require(
        inside.shape == x.shape and inside.dtype == x.dtype and np.array_equal(project(inside), inside),
        f"{name}.prox is not a projection: it must keep shape and dtype, and leave what it returns as it is.",
    )
    require(float(constraint(inside)) == 0, f"{name} must be 0 at what its prox returns.")
    outside = bool(np.any(inside != x))
    require(
        float(constraint(x)) == (np.inf if outside else 0),
        f"{name} must be infinite where its prox changes an image, and 0 elsewhere.",
    )
    for _ in range(16):
        other = np.asarray(project(draw(x, random)))
        slope = inner(x - inside, other - inside).real
        require(
            slope <= rounding * size(x) * size(other),
            f"{name}.prox does not give the nearest point of a convex set: another one lies nearer on the way to it.",
        )
    if constraint.is_separable:
        entry = np.zeros_like(x)
        entry.flat[0] = x.flat[0]
        require(
            np.asarray(project(entry)).flat[0] == inside.flat[0],
            f"{name}.is_separable is True, but the projection of an entry depends on the others.",
        )
