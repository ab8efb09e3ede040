"""Numerical checks of an operator, for users who write their own: the dot test, linearity and the norm."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import check_key, common_dtype, real_dtype
from .._jit import compiled_method
from .._loop import iterate
from .._module import Module
from .._solution import RESULTS
from .._types import Key, PyTree, Struct
from ._base import AbstractLinearOperator, AbstractOperator
from ._norm import norm


class Certificate(Module):
    """The errors and the norm that `certify` measured.

    - `adjoint_error`: `|<A x, y> - <x, A* y>| / (||A x|| ||y||)`, the largest of eight pairs before a loop and eight in
      each of its two steps.
    - `linearity_error`: `||A(a x + b w) - a A x - b A w|| / ||A(a x + b w)||`; for a non-linear operator, the relative
      difference of its derivative and a finite difference.
    - `norm`: the norm of the operator, or of its derivative at a random image.
    - `tolerance`, `linearity_tolerance`: the largest errors that pass in this precision.
    """

    adjoint_error: Array
    linearity_error: Array
    norm: Array
    tolerance: float = eqx.field(static=True)
    linearity_tolerance: float = eqx.field(static=True)

    @property
    def passed(self) -> Array:
        """Whether both errors are within tolerance and the norm is finite."""
        errors = (self.adjoint_error <= self.tolerance) & (self.linearity_error <= self.linearity_tolerance)
        return errors & jnp.isfinite(self.norm)

    def check(self) -> "Certificate":
        """Return this certificate, or raise a `RuntimeError` that names the test that failed. Call it outside `jit`."""
        if not bool(np.all(np.asarray(self.passed))):
            raise RuntimeError(
                f"The operator breaks a promise: adjoint error {float(self.adjoint_error):.2e} (at most "
                f"{self.tolerance:.0e}), linearity or derivative error {float(self.linearity_error):.2e} (at most "
                f"{self.linearity_tolerance:.0e}), norm {float(self.norm):.4g}. For a wrong adjoint compare with "
                "`FunctionOperator`, which derives it; a state of low precision inside the operator shows here too."
            )
        return self


# At this batch size the kernels use another form than for one image.
_BATCH = 8


@compiled_method
def certify(operator: AbstractOperator, *, key: Key) -> Certificate:
    """Measure the dot test, the linearity and the norm of an operator, which may be the user's own.

    One compiled program applies the operator as a solver does, to a batch, before a loop and inside it; the dot test
    pairs the images of one place with the measurements of the other. For a non-linear operator it tests the derivative
    at a random image.

    **Arguments:**

    - `operator`: any operator.
    - `key`: a typed key for the random images and measurements.

    **Returns:** a `Certificate`; `certify(...).check()` raises if the operator fails.

    !!! example
        ```python
        import jax, jaxinv
        operator = jaxinv.operators.FunctionOperator(lambda x: 2 * x[1:], (8, 8, 1))
        print(jaxinv.operators.certify(operator, key=jax.random.key(0)).check().norm)
        ```
    """
    check_key(key)
    batch = lambda struct: jax.tree.map(lambda s: jax.ShapeDtypeStruct((_BATCH, *s.shape), s.dtype), struct)
    images, measurements = _random((batch(operator.domain), batch(operator.codomain)), jax.random.fold_in(key, 0))
    point = _take(images, _BATCH - 1)
    derivative = operator.linearise(point)
    single = real_dtype(common_dtype(*(s.dtype for s in jax.tree.leaves(operator.domain)))) == jnp.float32
    adjoint_error = _adjoint_error(derivative, images, measurements)
    if isinstance(operator, AbstractLinearOperator):
        linearity_error = _linearity(operator, point, _take(images, 0))
        linearity_tolerance = 1e-5 if single else 1e-12
    else:
        linearity_error = _derivative_error(operator, derivative, point, _take(images, 0), single)
        linearity_tolerance = 2e-2 if single else 1e-5
    size = norm(derivative, key=jax.random.fold_in(key, 1))
    return Certificate(adjoint_error, linearity_error, size, 1e-5 if single else 1e-12, linearity_tolerance)


def _adjoint_error(operator: AbstractLinearOperator, x: PyTree[Array], y: PyTree[Array]) -> Array:
    """The largest error of the dot test over a batch, before a loop and in it."""
    forward = lambda x: jax.vmap(lambda one: operator(one))(x)
    adjoint = lambda y: jax.vmap(lambda one: operator.adjoint(one))(y)
    before, back = forward(x), adjoint(y)

    def step(index: Array, state: tuple, args: tuple) -> tuple[tuple, Array, Any]:
        del index
        v, error = state
        x, y, before, back = args
        image = forward(v)
        # Pair the adjoint before the loop with the operator inside it, and the other way round.
        errors = jax.vmap(_dot_error)(v, back, image, y), jax.vmap(_dot_error)(x, adjoint(image), before, image)
        error = jnp.maximum(error, jnp.max(jnp.stack(errors)))
        return (back, error), jnp.zeros_like(error, bool), RESULTS.successful

    error = jnp.max(jax.vmap(_dot_error)(x, back, before, y))
    (_, worst), _, code = iterate(step, (x, error), (x, y, before, back), max_steps=2)
    return jnp.where(code == RESULTS.nonfinite, jnp.nan, worst)


def _dot_error(x: PyTree[Array], back: PyTree[Array], image: PyTree[Array], y: PyTree[Array]) -> Array:
    """`|<A x, y> - <x, A* y>|` relative to the norms of `A x` and `y`."""
    left, right = _inner(image, y), _inner(x, back)
    if not jnp.iscomplexobj(left) or not jnp.iscomplexobj(right):
        left, right = left.real, right.real  # Such an operator is linear over the reals only.
    scale = jnp.sqrt(_inner(image, image).real * _inner(y, y).real)
    return jnp.abs(left - right) / jnp.where(scale > 0, scale, 1)


def _linearity(operator: AbstractLinearOperator, x: PyTree[Array], w: PyTree[Array]) -> Array:
    combine = lambda u, v: jax.tree.map(lambda a, b: 2 * a - 3 * b, u, v)
    images = jax.tree.map(lambda *leaves: jnp.stack(leaves), x, w, combine(x, w))
    measurements = jax.vmap(lambda image: operator(image))(images)
    return _relative(_take(measurements, 2), combine(_take(measurements, 0), _take(measurements, 1)))


def _derivative_error(
    operator: AbstractOperator,
    derivative: AbstractLinearOperator,
    point: PyTree[Array],
    direction: PyTree[Array],
    single: bool,
) -> Array:
    epsilon = 1e-3 if single else 1e-6
    shifted = lambda sign: operator(jax.tree.map(lambda p, d: p + sign * epsilon * d, point, direction))
    difference = jax.tree.map(lambda a, b: (a - b) / (2 * epsilon), shifted(1), shifted(-1))
    return _relative(difference, derivative(direction))


def _take(batch: PyTree[Array], index: int) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: leaf[index], batch)


def _random(struct: Struct, key: Key) -> PyTree[Array]:
    # One draw for all leaves: the generator is most of what there is to compile.
    leaves, treedef = jax.tree.flatten(struct)
    is_complex = [jnp.issubdtype(s.dtype, jnp.complexfloating) for s in leaves]
    sizes = [math.prod(s.shape) * (2 if c else 1) for s, c in zip(leaves, is_complex, strict=True)]
    numbers = jax.random.normal(key, (sum(sizes),), real_dtype(common_dtype(*(s.dtype for s in leaves))))
    parts = jnp.split(numbers, np.cumsum(sizes)[:-1].tolist())
    join = lambda part, s: jax.lax.complex(*jnp.split(part, 2)).astype(s.dtype)
    shaped = [join(p, s) if c else p.astype(s.dtype) for p, s, c in zip(parts, leaves, is_complex, strict=True)]
    return treedef.unflatten([p.reshape(s.shape) for p, s in zip(shaped, leaves, strict=True)])


def _inner(a: PyTree[Array], b: PyTree[Array]) -> Array:
    products = jax.tree.map(lambda u, v: jnp.sum(jnp.conj(u) * v), a, b)
    return jax.tree.reduce(jnp.add, products)


def _relative(a: PyTree[Array], b: PyTree[Array]) -> Array:
    difference = jax.tree.map(jnp.subtract, a, b)
    size = jnp.sqrt(_inner(b, b).real)
    return jnp.sqrt(_inner(difference, difference).real) / jnp.where(size > 0, size, 1)
