"""Operators made from the user's functions, and the conversion of an operator to one of lineax."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
from jaxtyping import Array, PyTree

from .._arrays import (
    check_shape,
    check_state,
    common_dtype,
    is_complex,
    parameter_dtype,
    real_dtype,
    varying_like,
)
from .._types import Checked, State, Struct
from ._base import AbstractLinearOperator, AbstractOperator, into_complex, onto_reals
from ._norm import check_linear


class FunctionOperator(AbstractLinearOperator):
    """A linear function `x -> A x` as an operator; JAX derives its adjoint, as `conj . transpose . conj`.

    - `function`: a linear function of one image. An `eqx.Module` or a `jax.tree_util.Partial` keeps its arrays as
      parameters; a bare function works too, but each new object compiles again, and the arrays that it closes over
      become constants.
    - `domain`: the shape of an image, static. Pass a `jax.ShapeDtypeStruct` if the dtype of the image is neither that
      of the function's arrays nor, without arrays, the default float.

    **Raises:** `ValueError` if the function cannot be evaluated on the domain, or JAX finds that it is not linear.
    (`operators.certify` tests linearity numerically.) For a non-linear function use `NonlinearFunction`.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        operator = jaxinv.operators.FunctionOperator(lambda x: x[::2] - x[1::2], (8, 8, 1))
        image = operator.adjoint(operator(jnp.ones((8, 8, 1))))
        ```
    """

    function: Callable
    domain: Struct = eqx.field(static=True)
    codomain: Struct = eqx.field(static=True)

    def __init__(self, function: Checked[Callable[..., Any]], domain: Checked[Sequence[int] | jax.ShapeDtypeStruct]):
        self.function = as_leaves(function)
        self.domain = _struct(domain, self.function)
        self.codomain = _codomain(self.function, self.domain)
        try:
            jax.eval_shape(lambda y: self._transpose(y), self.codomain)
        except (AssertionError, NotImplementedError, TypeError, ValueError) as error:
            raise ValueError(
                f"`function` is not linear, as far as JAX can see ({type(error).__name__}: {error}). Use "
                "`operators.NonlinearFunction`."
            ) from error

    def __call__(self, x: State) -> State:
        return self.function(onto_reals(check_state(x, self.domain, "the image", self), self))

    def adjoint(self, y: State) -> State:
        y = check_state(y, self.codomain, "the measurement", self)
        return jax.tree.map(jnp.conj, self._transpose(jax.tree.map(jnp.conj, y)))

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

    def __init__(self, function: Checked[Callable[..., Any]], domain: Checked[Sequence[int] | jax.ShapeDtypeStruct]):
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
