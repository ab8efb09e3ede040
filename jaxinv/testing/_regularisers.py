"""The check of regularisers: gradients, proximal maps, and declared properties."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._types import ArrayLike, Checked, Key, PyTree
from ..regularisers import AbstractRegulariser
from ._compare import (
    combine,
    draw,
    generator,
    inner,
    is_double,
    name_of,
    require,
    require_array_leaves,
    require_mapped_equals_loop,
    size,
    stack,
    tolerance_of,
)
from ._splits import check_constraint, check_splits


def check_regulariser(
    regulariser: Checked[AbstractRegulariser],
    x: ArrayLike,
    *,
    key: Key,
    steps: Sequence[float] = (0.1, 1.0),
    prox: bool | None = None,
    tolerance: float | None = None,
) -> None:
    """Check everything that the package relies on in a regulariser `R`.

    It checks that `R(x)` is a finite real scalar; that `gradient` agrees with finite differences and is finite at
    constant images; that `is_quadratic` and `is_smooth` are true of the gradient; that no step away from
    `prox(x, step)` lowers `1/2 ||u - x||^2 + step R(u)`; that the terms of `splits` have adjoints, norms and dual
    proxes, and add up to `R`; that multiples are multiples; and that `jax.vmap` equals a loop. For a constraint it
    checks that `prox` is the projection onto a convex set, on which the value is 0.

    **Arguments:**

    - `regulariser`: a `regularisers.AbstractRegulariser`.
    - `x`: an image at which `R` is differentiable: a random one, as a rule, for kinks lie at special images. Its dtype
        is the precision of the check. Take double precision (`jax.enable_x64(True)`) to see small errors.
    - `key`: for the directions.
    - `steps`: step sizes of the prox.
    - `prox`: `True` demands one; `None` checks it where it exists, and accepts a `ValueError`; `False` leaves it out,
        for a prox that is a limit and no minimiser of the finite values of `R`.
    - `tolerance`: the largest error of the gradient, relative to its size. The default is 2e-2 in single precision and
        1e-6 in double, as for `check_operator`.

    **Raises:** `AssertionError` that says which promise is broken, and by how much.

    !!! example
        ```python
        import jax, jaxinv
        x = jax.random.normal(jax.random.key(0), (4, 3, 1))
        jaxinv.testing.check_regulariser(jaxinv.regularisers.L1(), x, key=jax.random.key(1), prox=True)
        ```
    """
    name, random = name_of(regulariser), generator(key)
    require(
        isinstance(regulariser, AbstractRegulariser),
        f"{name} is not a `regularisers.AbstractRegulariser`. Inherit from that class.",
    )
    require_array_leaves(regulariser)
    x = np.asarray(x)
    if regulariser.is_constraint:
        check_constraint(regulariser, x, random)
        check_splits(regulariser, np.asarray(regulariser.prox(jnp.asarray(x), 1.0)), random)
        return
    value, gradient = _value_and_gradient(regulariser, x)
    real = jnp.finfo(x.dtype).dtype
    require(
        np.shape(value) == () and value.dtype == real and np.isfinite(value),
        f"{name} gives {value!r} for an image of dtype {x.dtype}; it must be a finite real scalar of that precision.",
    )
    _check_gradient(regulariser, x, value, gradient, random, tolerance)
    _check_kind(regulariser, x, gradient, random)
    images = [(x,), (draw(x, random),), (0 * x,)]
    rounding = tolerance_of(x, None)
    twice = 2.0 * regulariser
    doubled, expected = _value_and_gradient(twice, x)[0], 2 * np.asarray(value)
    require(
        abs(doubled - expected) <= rounding * abs(expected),
        f"(2 * {name})(x) is {doubled}, and 2 * {name}(x) is {expected}; they must be the same.",
    )
    require_mapped_equals_loop(
        lambda u: _mapped(regulariser, u),
        lambda u: _value_and_gradient(regulariser, u),
        images,
        rounding,
        f"{name}, or its gradient,",
    )
    _check_gaussian_factor(regulariser, x, random)
    if prox is not False:
        check_splits(regulariser, x, random)
    if prox is False:
        return
    try:
        jax.eval_shape(lambda u: regulariser.prox(u, steps[0]), x)
    except ValueError as error:
        require(not prox, f"{name}.prox raises a ValueError ({error}), and `prox=True` says that there is one.")
        return
    for step in steps:
        _check_prox(regulariser, x, step, random)


def _both(regulariser: Any, x: Any) -> Any:
    return regulariser(x), regulariser.gradient(x)


_value_and_gradient = jax.jit(_both)
_mapped = jax.jit(jax.vmap(_both, in_axes=(None, 0)))
_prox = jax.jit(lambda regulariser, x, step: regulariser.prox(x, step))
_mapped_prox = jax.jit(jax.vmap(lambda regulariser, x, step: regulariser.prox(x, step), in_axes=(None, 0, None)))


@jax.jit
def _objectives(regulariser: Any, candidates: Any, x: Any, step: Any) -> Any:
    one = lambda u: 0.5 * jnp.sum(jnp.abs(u - x) ** 2) + step * regulariser(u)
    return jax.vmap(one)(candidates)


def _check_gradient(
    regulariser: Any, x: PyTree, value: Any, gradient: Any, random: np.random.Generator, tolerance: float | None
) -> None:
    name, double = name_of(regulariser), is_double(x)
    allowed = (1e-6 if double else 2e-2) if tolerance is None else tolerance
    step = (1e-6 if double else 1e-3) * max(size(x) / np.sqrt(x.size), 1e-3)
    require(
        np.shape(gradient) == x.shape and gradient.dtype == x.dtype,
        f"{name}.gradient has shape {np.shape(gradient)} and dtype {gradient.dtype} for an image of shape {x.shape} "
        f"and dtype {x.dtype}; they must be the same.",
    )
    direction = draw(x, random)
    # The entries of the direction are as large as those of the image, so an entry changes by about `step`.
    ahead, behind = (
        float(_value_and_gradient(regulariser, combine(1, x, sign * step, direction))[0]) for sign in (1, -1)
    )
    slope, expected = inner(gradient, direction).real, (ahead - behind) / (2 * step)
    rounding = 4 * abs(float(value)) * float(jnp.finfo(x.dtype).eps) / step
    require(
        abs(slope - expected) <= allowed * size(gradient) * size(direction) + rounding,
        f"{name}.gradient is {slope:.6g} along a direction, and a central difference with step {step:.0e} is "
        f"{expected:.6g}; they may differ by {allowed:.0e} of the sizes of gradient and direction. Is `x` at a kink?",
    )
    for constant in (0.0, 1.0):
        there = _value_and_gradient(regulariser, np.full_like(x, constant))[1]
        require(
            np.isfinite(there).all(),
            f"{name}.gradient is not finite at the constant image {constant:g}. Where a root or a quotient has no "
            "derivative select its INPUT, `safe_sqrt(s)`.",
        )


def _check_kind(regulariser: Any, x: Any, gradient: Any, random: np.random.Generator) -> None:
    name, rounding = name_of(regulariser), tolerance_of(x, None)
    for which in ("is_quadratic", "is_smooth"):
        said = getattr(regulariser, which)
        require(isinstance(said, bool), f"{name}.{which} is {said!r}; it must be a bool that is known without data.")
    gradient_at = lambda u: np.asarray(_value_and_gradient(regulariser, u)[1])
    if regulariser.is_quadratic:
        w = draw(x, random)
        between = gradient_at(combine(2.0, x, -1.0, w))
        scale = max(size(gradient), size(gradient_at(w)), size(between))
        gap = size(between - (2 * np.asarray(gradient) - gradient_at(w)))
        require(
            gap <= 100 * rounding * max(scale, 1e-300),
            f"{name}.is_quadratic is True, but its gradient is not an affine map: it is off by {gap / scale:.1e}.",
        )
    if regulariser.is_smooth:
        # Across a kink the gradient jumps by a fixed amount, however short the step; elsewhere it changes in proportion
        # to the step.
        direction, steps = draw(x, random), (1e-4, 1e-6) if is_double(x) else (1e-2, 1e-3)
        for where, image in (("the image 0", 0 * x), ("a constant image", 0 * x + 1), ("`x`", x)):
            jumps = [
                size(gradient_at(combine(1, image, h, direction)) - gradient_at(combine(1, image, -h, direction)))
                for h in steps
            ]
            require(
                jumps[1] <= 0.5 * jumps[0] + 100 * rounding * size(gradient),
                f"{name}.is_smooth is True, but its gradient jumps at {where}: by {jumps[0]:.3g} over a step of "
                f"{steps[0]:.0e} and still by {jumps[1]:.3g} over one of {steps[1]:.0e}.",
            )


def _check_gaussian_factor(regulariser: Any, x: Any, random: np.random.Generator) -> None:
    name, weight = name_of(regulariser), np.asarray(0.7, jnp.finfo(x.dtype).dtype)
    if np.iscomplexobj(x) or regulariser.gaussian_factor(jnp.asarray(weight)) is None:
        return
    mean, factor = (np.asarray(part) for part in regulariser.gaussian_factor(jnp.asarray(weight)))
    w = np.asarray(random.normal(size=factor.shape[1]), x.dtype)
    image = (np.ravel(mean) + factor @ w).reshape(x.shape).astype(x.dtype)
    value, expected = weight * np.asarray(_value_and_gradient(regulariser, image)[0]), 0.5 * np.sum(w**2)
    require(
        abs(value - expected) <= 100 * tolerance_of(x, None) * expected,
        f"{name}.gaussian_factor is not that of its values: weight * R(mean + factor w) is {value:.6g}, and "
        f"1/2 ||w||^2 is {expected:.6g}.",
    )


def _check_prox(regulariser: Any, x: Any, step: float, random: np.random.Generator) -> None:
    name, real = name_of(regulariser), jnp.finfo(x.dtype).dtype
    found = np.asarray(_prox(regulariser, x, np.asarray(step, real)))
    require(
        found.shape == x.shape and found.dtype == x.dtype and np.isfinite(found).all(),
        f"{name}.prox gives shape {found.shape} and dtype {found.dtype}, or values that are not finite; an image like "
        f"`x` is expected, of shape {x.shape} and dtype {x.dtype}.",
    )
    images = [(x,), (draw(x, random),)]
    require_mapped_equals_loop(
        lambda u: _mapped_prox(regulariser, u, np.asarray(step, real)),
        lambda u: _prox(regulariser, u, np.asarray(step, real)),
        images,
        tolerance_of(x, None),
        f"{name}.prox",
    )
    # The directions are single entries, random ones, the one back to `x`, and the negative gradient of the nearby
    # objective.
    entries = np.eye(x.size).reshape(-1, *x.shape)
    scale = max(size(x) / np.sqrt(x.size), 1e-3)
    directions = [*entries, *(draw(x, random) for _ in range(32)), (x - found) / scale]
    if np.iscomplexobj(x):
        directions += [1j * direction for direction in entries]
    for _ in range(4):
        near = combine(1, found, 1e-3 * scale, draw(x, random))
        downhill = near - x + step * np.asarray(_value_and_gradient(regulariser, near)[1])
        directions.append(downhill / max(np.max(np.abs(downhill)), 1e-30))
    lengths = (0.3, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6) if is_double(x) else (0.3, 1e-2, 1e-3)
    candidates = [found + sign * scale * h * d for d in directions for h in lengths for sign in (1, -1)]
    values = np.asarray(_objectives(regulariser, stack([found, *np.asarray(candidates, x.dtype)]), x, step), float)
    rounding = 10 * float(jnp.finfo(x.dtype).eps) * max(values[0], 1e-30)
    best = int(np.argmin(values))
    require(
        values[best] >= values[0] - rounding,
        f"{name}.prox(x, {step:g}) is not a minimiser of 1/2 ||u - x||^2 + step R(u): the value there is "
        f"{values[0]:.8g}, and {values[best]:.8g} at a distance of {size(found - candidates[best - 1]):.1e}.",
    )
