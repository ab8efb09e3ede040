"""Checks of operators: adjoints, linearity, derivatives, shapes."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import is_complex
from .._types import Checked, Key, PyTree, State
from ..operators import AbstractLinearOperator, AbstractOperator, materialise
from ._compare import (
    combine,
    difference,
    draw,
    dtypes,
    flatten,
    generator,
    inner,
    is_double,
    name_of,
    require,
    require_array_leaves,
    require_mapped_equals_loop,
    require_wrong_shapes_raise,
    shapes,
    size,
    tolerance_of,
)


def check_linear_operator(
    operator: Checked[AbstractLinearOperator],
    *,
    key: Key,
    others: Sequence[AbstractLinearOperator] = (),
    tolerance: float | None = None,
    batch_sizes: Sequence[int] = (1, 3, 8, 37),
    complex_images: bool = True,
    derivatives: bool = True,
    max_matrix_entries: int = 2**16,
) -> None:
    """Check everything that the package relies on in a linear operator.

    It checks that `domain`, `codomain` and `measured` are what the operator does, and that wrong shapes raise
    `ValueError`; the dot test `<A x, y> = <x, A* y>`; linearity of `A` and `A*`; `normal` and `H`; the matrix, column
    by column; `jax.jit`, `jax.jvp`, `jax.grad` and `jax.linear_transpose`; and that `jax.vmap` equals a loop. An
    operator that takes real images to complex measurements is linear over the reals, and tested so.

    **Arguments:**

    - `operator`: an `operators.AbstractLinearOperator`.
    - `key`: for the random images and measurements.
    - `others`: operators of the same class and shapes with other parameters; the check maps over all of them at once.
    - `tolerance`: the largest error, relative to the sizes of what is compared (`||A x|| ||y||` in the dot test).
        The default is 1e-5 in single precision and 1e-12 in double: about 100 times the rounding of one operation,
        where sums of many terms lose a factor of 10. An iteration inside the operator deserves more.
    - `batch_sizes`: the batches that are compared with a loop. The default has one, a few, as many as a vector
        instruction takes, and more than that.
    - `complex_images`: whether a real operator must map complex images too, as `MaskedFourier(mask) @ A` asks of it.
    - `derivatives`: whether `normal`, `H`, and what `jax.jvp`, `jax.grad` and `jax.linear_transpose` make of the
        operator are compared too. They take longer to compile than all else; a second check of the same operator, in
        another precision, can leave them out.
    - `max_matrix_entries`: operators with a larger matrix are not compared with it.

    **Raises:** `AssertionError` that says which promise is broken, and by how much.

    !!! example
        ```python
        import jax, jaxinv
        operator = jaxinv.operators.Downsample((6, 4, 1), 2)
        jaxinv.testing.check_linear_operator(operator, key=jax.random.key(0))
        ```
    """
    name, random = name_of(operator), generator(key)
    require(
        isinstance(operator, AbstractLinearOperator),
        f"{name} is not an `operators.AbstractLinearOperator`. Inherit from it; for an operator that is not linear "
        "there is `testing.check_operator`.",
    )
    _check_declarations(operator)
    require_wrong_shapes_raise(operator.adjoint, operator.codomain, f"the adjoint of {name}")
    out = jax.eval_shape(lambda y: operator.adjoint(y), operator.codomain)
    _same_structs(out, operator.domain, f"the adjoint of {name} returns", "its `domain` says")

    tolerance = tolerance_of((operator.domain, operator.codomain), tolerance)
    reals = is_complex(operator.codomain) and not is_complex(operator.domain)
    both = _untransformed if derivatives else _both
    kinds: list[Any] = [None]
    if complex_images and not is_complex(operator.domain):
        kinds.append(jnp.result_type(*(s.dtype for s in jax.tree.leaves(operator.domain)), jnp.complex64))
    for kind in kinds:
        states = [draw((operator.domain, operator.codomain), random, kind) for _ in range(2)]
        complex_scalars = not reals and (kind is not None or is_complex(operator.domain))
        program = both if kind is None else _both
        _check_dot_and_linearity(operator, program, states, complex_scalars, reals, tolerance)

    x, y = draw((operator.domain, operator.codomain), random)
    if derivatives:
        _check_transformations(operator, x, y, tolerance)
    entries = math.prod(sum(s.size for s in jax.tree.leaves(part)) for part in (operator.domain, operator.codomain))
    if entries <= max_matrix_entries:
        _check_matrix(operator, both, x, y, reals, tolerance)
    for number in batch_sizes:
        batch = [draw((operator.domain, operator.codomain), random) for _ in range(number)]
        alone = lambda *states: both(operator, *states)
        mapped = lambda *states: _mapped_over_states(operator, *states)
        require_mapped_equals_loop(mapped, alone, batch, tolerance, f"{name}, or its adjoint,")
    if others:
        _check_mapped_over_parameters([operator, *others], both, random, tolerance)


def check_operator(
    operator: Checked[AbstractOperator],
    *,
    key: Key,
    point: State | None = None,
    tolerance: float | None = None,
    batch_sizes: Sequence[int] = (1, 3),
) -> None:
    """Check everything that the package relies on in an operator that need not be linear.

    It checks that `domain`, `codomain` and `measured` are what the operator does, and that wrong shapes raise
    `ValueError`; that `linearise(x)` is a linear operator that agrees with finite differences and with `jax.jvp`, and
    passes the dot test; and that `jax.vmap` equals a loop.

    **Arguments:**

    - `operator`: an `operators.AbstractOperator`.
    - `key`: for the random images and measurements.
    - `point`: the image at which the derivative is compared; by default a random one. Give one away from kinks, or
        inside the set where the operator is defined.
    - `tolerance`: the largest error of the derivative, relative to its size. The default is 2e-2 in single precision
        and 1e-6 in double: central differences with a step of the cube root of the rounding lose a third of the digits,
        and the third derivative, which is the operator's own, is their error.
    - `batch_sizes`: the batches of images that are compared with a loop.

    **Raises:** `AssertionError` that says which promise is broken, and by how much.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        operator = jaxinv.operators.NonlinearFunction(jnp.tanh, (4, 3, 1))
        jaxinv.testing.check_operator(operator, key=jax.random.key(0))
        ```
    """
    name, random = name_of(operator), generator(key)
    require(
        isinstance(operator, AbstractOperator),
        f"{name} is not an `operators.AbstractOperator`. Inherit from that class.",
    )
    _check_declarations(operator)
    double = is_double((operator.domain, operator.codomain))
    rounding = tolerance_of((operator.domain, operator.codomain), None)
    allowed = (1e-6 if double else 2e-2) if tolerance is None else tolerance
    step = 1e-5 if double else 5e-3
    x = draw(operator.domain, random) if point is None else point
    direction, y = draw((operator.domain, operator.codomain), random)
    derivative = jax.eval_shape(lambda u: operator.linearise(u), x)
    require(
        isinstance(derivative, AbstractLinearOperator),
        f"{name}.linearise returns a {name_of(derivative)}; it must be an `operators.AbstractLinearOperator`.",
    )
    require_wrong_shapes_raise(lambda u: operator.linearise(u), operator.domain, f"{name}.linearise")
    found = _derivative(operator, x, direction, y)
    ahead, behind = (_image(operator, combine(1, x, sign * step, direction)) for sign in (1, -1))
    slope = jax.tree.map(lambda a, b: (np.asarray(a) - np.asarray(b)) / (2 * step), ahead, behind)
    _require_close(
        found["derivative"],
        slope,
        allowed,
        f"{name}.linearise(x) is not the derivative: it differs from a central difference with step {step:.0e}",
    )
    _require_close(found["derivative"], found["jvp"], rounding, f"{name}.linearise(x) differs from `jax.jvp`")
    gap = inner(found["derivative"], y) - inner(direction, found["back"])
    _require_dot(gap.real, found["derivative"], y, rounding, f"{name}.linearise(x)")
    points = [(draw(operator.domain, random),) for _ in range(max(batch_sizes, default=0))]
    alone, mapped = (lambda u: _image(operator, u)), (lambda u: _mapped_image(operator, u))
    for number in batch_sizes:
        require_mapped_equals_loop(mapped, alone, points[:number], rounding, name)


# Each of these is one program, compiled once for all operators of a class, shape and dtype.
@jax.jit
def _both(operator: Any, x: PyTree, y: PyTree) -> PyTree:
    return operator(x), operator.adjoint(y)


_mapped_over_states = jax.jit(jax.vmap(lambda operator, x, y: (operator(x), operator.adjoint(y)), in_axes=(None, 0, 0)))
_mapped_over_all = jax.jit(jax.vmap(lambda operator, x, y: (operator(x), operator.adjoint(y))))
_image = jax.jit(lambda operator, x: operator(x))
_mapped_image = jax.jit(jax.vmap(lambda operator, x: operator(x), in_axes=(None, 0)))


@jax.jit
def _transformed(operator: Any, x: PyTree, y: PyTree) -> PyTree:
    image = operator(x)
    return {
        "image": image,
        "normal": operator.normal(x),
        "back of image": operator.adjoint(image),
        "H": operator.H(y),
        "back": operator.adjoint(y),
        # jax.grad of a real function gives the conjugate of the gradient.
        "gradient": jax.tree.map(jnp.conj, jax.grad(_half_square, argnums=1)(operator, x, y)),
        "jvp": jax.jvp(lambda u: operator(u), (x,), (x,))[1],
        "transpose": jax.tree.map(
            jnp.conj, jax.linear_transpose(lambda u: operator(u), x)(jax.tree.map(jnp.conj, y))[0]
        ),
    }


def _untransformed(operator: Any, x: PyTree, y: PyTree) -> PyTree:
    # This takes the program that other checks have compiled.
    found = _transformed(operator, x, y)
    return found["image"], found["back"]


@jax.jit
def _matrix(operator: Any, x: PyTree, y: PyTree) -> PyTree:
    stored = materialise(operator)
    return stored.matrix, stored(x), stored.adjoint(y)


def _half_square(operator: Any, x: PyTree, y: PyTree) -> Any:
    residual = jax.tree.map(jnp.subtract, operator(x), y)
    return sum(0.5 * jnp.sum(jnp.abs(r) ** 2) for r in jax.tree.leaves(residual))


@jax.jit
def _derivative(operator: Any, x: PyTree, direction: PyTree, y: PyTree) -> PyTree:
    derivative = operator.linearise(x)
    return {
        "derivative": derivative(direction),
        "back": derivative.adjoint(y),
        "jvp": jax.jvp(lambda u: operator(u), (x,), (direction,))[1],
    }


def _check_declarations(operator: Any) -> None:
    """Shapes, dtypes and `measured`, all found by tracing alone."""
    name = name_of(operator)
    for which in ("domain", "codomain"):
        struct = getattr(operator, which)
        leaves = jax.tree.leaves(struct)
        require(
            leaves and all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves),
            f"{name}.{which} is {struct!r}; it must be a `jax.ShapeDtypeStruct`, or a tuple of them.",
        )
    require_array_leaves(operator)
    out = jax.eval_shape(lambda x: operator(x), operator.domain)
    _same_structs(out, operator.codomain, f"{name} returns", "its `codomain` says")
    require_wrong_shapes_raise(operator, operator.domain, name)
    if isinstance(operator, AbstractLinearOperator):
        require(
            operator.linearise(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), operator.domain)) is operator,
            f"{name}.linearise(x) is another operator; the derivative of a linear operator is the operator itself.",
        )
    measured = operator.measured
    require(
        jax.tree.structure(measured) == jax.tree.structure(operator.codomain),
        f"{name}.measured has the structure {jax.tree.structure(measured)}; it must have an array for each part of the "
        "codomain.",
    )
    for weights, part in zip(*map(jax.tree.leaves, (measured, operator.codomain)), strict=True):
        fits = weights.ndim == len(part.shape) and all(
            n in (1, full) for n, full in zip(weights.shape, part.shape, strict=True)
        )
        require(
            fits,
            f"{name}.measured has shape {tuple(weights.shape)}; for a codomain of shape {tuple(part.shape)} it must "
            "have the same rank, and each axis must be full or of size 1.",
        )
        require(
            np.isin(np.asarray(weights), (0, 1)).all(),
            f"{name}.measured has values other than 0 and 1. It says which entries exist: take `mask > 0` as floats.",
        )


def _same_structs(got: Any, declared: Any, what: str, where: str) -> None:
    require(
        jax.tree.structure(got) == jax.tree.structure(declared)
        and shapes(got) == shapes(declared)
        and dtypes(got) == dtypes(declared),
        f"{what} {_described(got)}, but {where} {_described(declared)}. The declaration must be what comes out.",
    )


def _described(struct: Any) -> str:
    parts = [f"{jnp.dtype(s.dtype).name}{list(s.shape)}" for s in jax.tree.leaves(struct)]
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"


def _check_dot_and_linearity(
    operator: Any, both: Any, states: list, complex_scalars: bool, reals: bool, tolerance: float
) -> None:
    name, ((x, y), (w, z)) = name_of(operator), states
    image, back = both(operator, x, y)
    require(size(image) > 0, f"{name} maps a random image to zero; nothing can be checked.")
    a, b = (2 - 1j, 3j) if complex_scalars else (2.0, -3.0)
    cast = lambda state, like: jax.tree.map(lambda u, v: np.asarray(u, v.dtype), state, like)
    together = both(operator, cast(combine(a, x, b, w), x), cast(combine(a, y, b, z), y))
    expected = combine(a, (image, back), b, both(operator, w, z))
    for i, (which, role) in enumerate(((name, "operator"), (f"the adjoint of {name}", "adjoint"))):
        _require_close(
            together[i],
            expected[i],
            tolerance,
            f"{which} is not linear over the {'complex numbers' if complex_scalars else 'reals'}: the {role} of "
            "`a x + b w` differs from that of the parts",
        )
    gap = inner(image, y) - inner(x, back)
    _require_dot(gap.real if reals else abs(gap), image, y, tolerance, name)


def _check_transformations(operator: Any, x: PyTree, y: PyTree, tolerance: float) -> None:
    name = name_of(operator)
    found = _transformed(operator, x, y)
    image, back = found["image"], found["back"]
    _require_close(found["normal"], found["back of image"], tolerance, f"{name}.normal(x) is not `A* A x`")
    _require_close(found["H"], found["back"], tolerance, f"{name}.H(y) is not `A* y`")
    _require_close(
        found["gradient"],
        combine(1, found["normal"], -1, found["back"]),
        10 * tolerance,
        f"`jax.grad` of 1/2 ||A x - y||^2 is not `A* (A x - y)` for {name}",
    )
    _require_close(found["jvp"], image, tolerance, f"`jax.jvp` of {name} is not {name} itself; it differs")
    _require_close(
        found["transpose"],
        back,
        tolerance,
        f"the adjoint of {name} differs from `conj . transpose . conj` with `jax.linear_transpose`",
    )


def _check_matrix(operator: Any, both: Any, x: PyTree, y: PyTree, reals: bool, tolerance: float) -> None:
    name = name_of(operator)
    image, back = (flatten(part) for part in both(operator, x, y))
    entries, *stored = _matrix(operator, x, y)
    entries, (stored_image, stored_back) = np.asarray(entries), map(flatten, stored)
    expected: Any = entries.conj().T @ flatten(y)
    story = f"{name} differs from its matrix, made column by column"
    _require_close(entries @ flatten(x), image, tolerance, story)
    _require_close(expected.real if reals else expected, back, tolerance, f"the adjoint of {story}")
    _require_close(stored_image, image, tolerance, f"{name} differs from `materialise` of it")
    _require_close(stored_back, back, tolerance, f"the adjoint of {name} differs from that of `materialise`")


def _check_mapped_over_parameters(operators: list, both: Any, random: np.random.Generator, tolerance: float) -> None:
    first, *rest = operators
    for other in rest:
        require(
            jax.tree.structure(other) == jax.tree.structure(first),
            f"{name_of(first)} has another static part in each of `others`, so that no batch can be made of them. "
            "Only shapes and sizes are static; numbers are array leaves.",
        )
    batch = [(operator, *draw((first.domain, first.codomain), random)) for operator in operators]
    require_mapped_equals_loop(
        _mapped_over_all, _untransformed, batch, tolerance, f"{name_of(first)}, mapped over parameters,"
    )


def _require_close(got: PyTree, expected: PyTree, tolerance: float, story: str) -> None:
    gap = difference(got, expected)
    require(gap <= tolerance, f"{story} by {gap:.1e} of its size; at most {tolerance:.0e} is allowed.")


def _require_dot(gap: float, image: PyTree, y: PyTree, tolerance: float, name: str) -> None:
    error = abs(gap) / max(size(image) * size(y), 1e-300)
    require(
        error <= tolerance,
        f"{name} fails the dot test: <A x, y> and <x, A* y> differ by {error:.1e} ||A x|| ||y||; at most "
        f"{tolerance:.0e} is allowed. The adjoint is the conjugate transpose; compare with `FunctionOperator`, which "
        "derives it.",
    )
