"""Operators made from the user's functions, and the conversion of an operator to one of lineax."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import numpy as np
from jaxtyping import Array

from .._arrays import (
    check_shape,
    check_state,
    common_dtype,
    is_complex,
    is_concrete,
    parameter_dtype,
    real_dtype,
    shapes,
    varying_like,
)
from .._kernels import apply_pair
from .._types import Checked, PyTree, State, Struct
from ._base import AbstractLinearOperator, AbstractOperator, into_complex, onto_reals
from ._norm import check_linear


class FunctionOperator(AbstractLinearOperator):
    """A linear function `x -> A x` as an operator; its adjoint is given, or JAX derives it: `conj . transpose . conj`.

    - `function`: a linear function of one image. An `eqx.Module` or a `jax.tree_util.Partial` keeps its arrays as
      parameters; a bare function works too, but each new object compiles again, and the arrays that it closes over
      become constants.
    - `domain`: the shape of an image, static. Pass a `jax.ShapeDtypeStruct` if the dtype of the image is neither that
      of the function's arrays nor, without arrays, the default float.
    - `adjoint`: the adjoint `y -> A* y`, the conjugate transpose. Give it for a function that JAX cannot transpose:
      foreign code behind `jax.pure_callback`, or one with rules of its own (`jax.custom_vjp`). JAX then differentiates
      neither in the image: the derivative of a linear function is the function, and its adjoint transposes it. Both
      get images and measurements of exactly the dtypes of `domain` and `codomain`. A callback needs a `vmap_method` to
      be mapped.
    - `tolerance`: the largest error of the dot test that `function` and `adjoint` must pass when the operator is made,
      `|<A x, y> - <x, A* y>| / (||A x|| ||y||)` at a random image, static. The default is the square root of the
      rounding of the domain's dtype, 3e-4 in single precision. Raise it for a pair that is known to match less well,
      whose gradients and solutions then have errors of that size; `float("inf")` leaves the test out. There is no test
      where the parameters are traced.

    **Raises:** `ValueError` if the function cannot be evaluated on the domain, if JAX finds that it is not linear, or
    if the given adjoint returns another shape or fails the dot test. (`operators.certify` tests more, numerically.) For
    a non-linear function use `NonlinearFunction`.

    !!! example
        ```python
        import jax, jax.numpy as jnp, numpy as np, jaxinv
        operator = jaxinv.operators.FunctionOperator(lambda x: x[::2] - x[1::2], (8, 8, 1))
        image = operator.adjoint(operator(jnp.ones((8, 8, 1))))

        # Foreign code: a correlation with a filter, and its adjoint, by NumPy.
        taps = np.array([0.25, 0.5, 0.25])
        along = lambda x, taps: np.apply_along_axis(np.convolve, -2, np.asarray(x), taps, "same").astype(x.dtype)
        call = lambda x, taps: jax.pure_callback(lambda x: along(x, taps), x, x, vmap_method="expand_dims")
        blur = jaxinv.operators.FunctionOperator(
            lambda x: call(x, taps), (8, 8, 1), adjoint=lambda y: call(y, taps[::-1])
        )
        gradient = jax.grad(lambda x: jnp.sum(blur(x) ** 2))(jnp.ones((8, 8, 1)))
        ```
    """

    function: Callable
    own_adjoint: Callable | None
    domain: Struct = eqx.field(static=True)
    codomain: Struct = eqx.field(static=True)

    def __init__(
        self,
        function: Checked[Callable[[State], State]],
        domain: Checked[Sequence[int] | jax.ShapeDtypeStruct],
        adjoint: Checked[Callable[[State], State] | None] = None,
        *,
        tolerance: Checked[float | None] = None,
    ):
        self.function = as_leaves(function)
        self.own_adjoint = None if adjoint is None else as_leaves(adjoint)
        self.domain = _struct(domain, self.function)
        self.codomain = _codomain(self.function, self.domain)
        if adjoint is not None:
            _check_own_adjoint(self, tolerance)
            return
        if tolerance is not None:
            raise ValueError("`tolerance` is that of a given `adjoint`; without one JAX derives the adjoint, exactly.")
        try:
            jax.eval_shape(lambda y: self._transpose(y), self.codomain)
        except (AssertionError, NotImplementedError, TypeError, ValueError) as error:
            raise ValueError(
                f"`function` is not linear, as far as JAX can see ({type(error).__name__}: {error}). If it is linear "
                "but JAX cannot transpose it (foreign code behind `jax.pure_callback`, a `jax.custom_vjp`), give its "
                "adjoint: `FunctionOperator(function, domain, adjoint=...)`. Else use `operators.NonlinearFunction`."
            ) from error

    def __call__(self, x: State) -> State:
        x = onto_reals(check_state(x, self.domain, "the image", self), self)
        return self.function(x) if self.own_adjoint is None else self._paired(x, transposed=False)

    def adjoint(self, y: State) -> State:
        y = check_state(y, self.codomain, "the measurement", self)
        conjugate = jax.tree.map(jnp.conj, y)
        x = self._transpose(conjugate) if self.own_adjoint is None else self._paired(conjugate, transposed=True)
        return jax.tree.map(jnp.conj, x)

    def _paired(self, state: State, transposed: bool) -> State:
        """The function, or its transpose, where the adjoint is given."""
        structs = self.domain, self.codomain
        if is_complex(state) and not is_complex(structs):
            parts = (jax.tree.map(part, state) for part in (jnp.real, jnp.imag))
            return jax.tree.map(jax.lax.complex, *(self._paired(part, transposed) for part in parts))
        state = jax.tree.map(_in_dtype, state, structs[transposed])
        assert self.own_adjoint is not None
        return apply_pair(self.function, _Conjugated(self.own_adjoint), state, structs, transposed)

    def _transpose(self, y: State) -> State:
        # A real operator accepts complex measurements too. The precision is that of measurement and parameters.
        precisions = [real_dtype(parameter.dtype) for parameter in _parameters(self.function)]
        dtype = common_dtype(*jax.tree.leaves(y), *precisions)
        if is_complex(self.domain):
            dtype = common_dtype(dtype, jnp.complex64)
        elif into_complex(self):
            dtype = real_dtype(dtype)
        example = varying_like(jnp.zeros(self.domain.shape, dtype), y, self.function)
        # A lambda hides the function: jax compares functions, and comparing pytrees would compare traced arrays.
        function = lambda x: self.function(x)
        outputs = jax.eval_shape(function, example)
        y = jax.tree.map(lambda v, s: v.astype(s.dtype), varying_like(y, example), outputs)
        return jax.linear_transpose(function, example)(y)[0]


class NonlinearFunction(AbstractOperator):
    """A differentiable function as a non-linear operator.

    - `function`, `domain`: as for `FunctionOperator`.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        operator = jaxinv.operators.NonlinearFunction(jnp.sin, (8, 8, 1))
        derivative = operator.linearise(jnp.ones((8, 8, 1)))
        ```
    """

    function: Callable
    domain: Struct = eqx.field(static=True)
    codomain: Struct = eqx.field(static=True)

    def __init__(
        self, function: Checked[Callable[[State], State]], domain: Checked[Sequence[int] | jax.ShapeDtypeStruct]
    ):
        self.function = as_leaves(function)
        self.domain = _struct(domain, self.function)
        self.codomain = _codomain(self.function, self.domain)

    def __call__(self, x: State) -> State:
        return self.function(check_state(x, self.domain, "the image", self))

    def linearise(self, x: State) -> "Jacobian":
        return Jacobian(self, x)


class Jacobian(AbstractLinearOperator):
    """The derivative of an operator at an image, made by `operator.linearise(x)`."""

    operator: AbstractOperator
    point: PyTree[Array]

    def __init__(self, operator: AbstractOperator, point: State):
        self.operator = operator
        self.point = check_state(point, operator.domain, "the image", operator)

    @property
    def domain(self) -> Struct:
        return self.operator.domain

    @property
    def codomain(self) -> Struct:
        return self.operator.codomain

    @property
    def measured(self) -> PyTree[Array]:
        return self.operator.measured

    def __call__(self, x: State) -> State:
        x = check_state(x, self.domain, "the image", self)
        point, x = _promote(self.point, x)
        return jax.jvp(lambda u: self.operator(u), (point,), (x,))[1]

    def adjoint(self, y: State) -> State:
        y = check_state(y, self.codomain, "the measurement", self)
        point = varying_like(self.point, y, self.operator)
        value, pull = jax.vjp(lambda u: self.operator(u), point)
        cotangent = jax.tree.map(lambda leaf, v: jnp.conj(leaf).astype(v.dtype), varying_like(y, point), value)
        return jax.tree.map(jnp.conj, pull(cotangent)[0])


def as_leaves(function: Any) -> Callable:
    """`function` as a pytree whose leaves are arrays; a function that is no pytree becomes a `Partial` without leaves.

    **Raises:** `ValueError` if it is not callable.
    """
    if not callable(function):
        raise ValueError(f"a function is expected; got {type(function).__name__}.")
    is_leaf = jax.tree.structure(function) == jax.tree.structure(0)
    return jax.tree_util.Partial(function) if is_leaf else function


class _Conjugated(eqx.Module):
    """`conj . f . conj`: the transpose, where `f` is the adjoint."""

    function: Callable

    def __call__(self, y: State) -> State:
        return jax.tree.map(jnp.conj, self.function(jax.tree.map(jnp.conj, y)))


def _in_dtype(leaf: Array, struct: jax.ShapeDtypeStruct) -> Array:
    return (leaf if is_complex(struct) else leaf.real).astype(struct.dtype)


def _check_own_adjoint(operator: FunctionOperator, tolerance: Any) -> None:
    """Shape, dtype, and where the parameters are known the dot test."""
    adjoint, domain = operator.own_adjoint, operator.domain
    assert adjoint is not None
    try:
        out = jax.eval_shape(lambda y: adjoint(y), operator.codomain)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`adjoint` cannot be applied to a measurement of shape {shapes(operator.codomain)}: {error}"
        ) from error
    shape = getattr(out, "shape", None)
    if shape != domain.shape or not jnp.issubdtype(out.dtype, jnp.inexact) or is_complex(out) != is_complex(domain):
        raise ValueError(
            f"`adjoint` must return an image, of shape {domain.shape} and dtype {domain.dtype}, for a measurement of "
            f"shape {shapes(operator.codomain)}; it returns {out}."
        )
    if tolerance is None:
        tolerance = float(jnp.finfo(domain.dtype).eps) ** 0.5
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not tolerance >= 0:
        raise ValueError(f"`tolerance` must be a number that is not negative, known when traced; got {tolerance!r}.")
    if tolerance < float("inf"):
        _dot_test(operator, float(tolerance))


def _dot_test(operator: FunctionOperator, tolerance: float) -> None:
    random = np.random.default_rng(0)

    def draw(struct: jax.ShapeDtypeStruct) -> np.ndarray:
        parts = random.normal(size=(2, *struct.shape))
        return np.asarray(parts[0] + 1j * parts[1] if is_complex(struct) else parts[0], struct.dtype)

    double = lambda tree: [np.asarray(leaf).astype(np.result_type(leaf.dtype, np.float64)) for leaf in tree]
    flat = lambda tree: np.concatenate([leaf.ravel() for leaf in double(jax.tree.leaves(tree))])
    norm = lambda vector: float(np.linalg.norm(vector))
    # Also inside the trace of a larger program, where the arrays of both functions may be known.
    with jax.ensure_compile_time_eval():
        x, y = (jax.tree.map(draw, struct) for struct in (operator.domain, operator.codomain))
        image = operator(x)
        if not is_concrete(*jax.tree.leaves(image)):
            return
        # A part along `A x`: alone, `<A x, y>` of a random y is all but 0 in a large problem.
        ratio = norm(flat(y)) / (norm(flat(image)) or 1.0)
        y = jax.tree.map(lambda v, i: np.asarray(v + ratio * np.asarray(i), v.dtype), y, image)
        back = operator.adjoint(y)
        if not is_concrete(back):
            return
    left, right = complex(np.vdot(flat(image), flat(y))), complex(np.vdot(flat(x), flat(back)))
    if into_complex(operator) or left.imag == right.imag == 0:
        left, right = left.real, right.real
    size = norm(flat(image)) * norm(flat(y))
    error = abs(left - right) / (size or 1.0)
    if not error <= tolerance:
        raise ValueError(
            f"`adjoint` is not the adjoint of `function`: at a random image <A x, y> = {left:.6g} and <x, A* y> = "
            f"{right:.6g}, which differ by {error:.1e} of ||A x|| ||y||; at most {tolerance:.1e} is allowed. The "
            "adjoint is the conjugate transpose, without another scale. If the two are known to match no better, pass "
            "`tolerance=`."
        )


def _promote(point: Array, x: Array) -> tuple[Array, Array]:
    dtype = common_dtype(point, x)
    return point.astype(dtype), x.astype(dtype)


def _parameters(function: Callable) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(function) if eqx.is_inexact_array(leaf)]


def _struct(domain: Checked[Sequence[int] | jax.ShapeDtypeStruct], function: Callable) -> jax.ShapeDtypeStruct:
    if isinstance(domain, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(check_shape(domain.shape, "domain"), domain.dtype)
    return jax.ShapeDtypeStruct(check_shape(domain, "domain"), parameter_dtype(*_parameters(function)))


def _codomain(function: Callable, domain: jax.ShapeDtypeStruct) -> Struct:
    try:
        out = jax.eval_shape(lambda x: function(x), domain)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`function` cannot be applied to an image of shape {domain.shape} and dtype {domain.dtype}: {error}"
        ) from error
    leaves = out if isinstance(out, tuple) else (out,)
    fits = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    if not leaves or not all(map(fits, leaves)):
        raise ValueError(f"`function` must return an array, or a tuple of arrays, of inexact dtype; it returns {out}.")
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), out)


def as_lineax(operator: AbstractOperator) -> lineax.FunctionLinearOperator:
    """Convert a linear operator to one that the solvers of lineax accept.

    Beware: lineax uses transposes and this library adjoints, which differ for complex operators.

    **Arguments:**

    - `operator`: any linear operator.

    **Returns:** a `lineax.FunctionLinearOperator` from the domain to the codomain. For least squares pass it to
    `lineax.linear_solve` as it is; for the normal equations pass `as_lineax(operator.H @ operator)` with the tag
    `lineax.positive_semidefinite_tag` through `lineax.TaggedLinearOperator`.

    **Raises:** `ValueError` if the operator is not linear.

    !!! example
        ```python
        import jax.numpy as jnp, lineax, jaxinv
        operator = jaxinv.operators.Mask(jnp.ones((4, 4, 1)))
        y = jaxinv.operators.as_lineax(operator).mv(jnp.ones((4, 4, 1)))
        ```
    """
    operator = check_linear(operator, "as_lineax")
    return lineax.FunctionLinearOperator(operator, operator.domain)
