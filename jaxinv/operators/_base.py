"""The abstract classes of operators, their algebra, and the checks of images and shapes that all operators share."""

import abc
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import (
    as_array,
    as_factor,
    check_state,
    common_dtype,
    is_complex,
    multiply,
    name_of,
    real_dtype,
    shapes,
    standard_promotion,
)
from .._module import Module
from .._types import Abstract, Checked, PyTree, Scalar, State, Struct
from .._workarounds import rounded
from ..requirements import Requirement, finite


class AbstractOperator(Module):
    """A forward operator: one image in, one measurement out, never a batch axis.

    A subclass defines `domain` and `codomain`, static `jax.ShapeDtypeStruct`s (the codomain of a stack is a tuple of
    them), and `__call__`. Its parameters are array leaves, so that `jax.vmap` maps over them. Map over images with
    `jax.vmap`.
    """

    if TYPE_CHECKING:
        domain = Abstract[Struct]()
        codomain = Abstract[Struct]()
    else:
        domain: eqx.AbstractVar[Struct]
        codomain: eqx.AbstractVar[Struct]

    @abc.abstractmethod
    def __call__(self, x: State) -> State:
        """The noiseless measurement of one image.

        **Arguments:**

        - `x`: an image of the shape of `domain`.

        **Returns:** a measurement of the shape of `codomain`.
        """

    @abc.abstractmethod
    def linearise(self, x: State) -> "AbstractLinearOperator":
        """The derivative of the operator at one image.

        **Arguments:**

        - `x`: an image of the shape of `domain`.

        **Returns:** a linear operator with the same domain and codomain.
        """

    @property
    def is_tomograph(self) -> bool:
        """Whether a measurement is a sinogram that `classical.fbp` inverts; `False` by default."""
        return False

    @property
    def measured(self) -> PyTree[Array]:
        """The 0/1 weights of the entries that exist, of the codomain's rank; each axis is full or of size 1."""
        return jax.tree.map(lambda c: jnp.ones((1,) * len(c.shape), real_dtype(c.dtype)), self.codomain)

    def __matmul__(self, other: "AbstractOperator") -> "AbstractOperator":
        if not isinstance(other, AbstractOperator):
            return NotImplemented
        if isinstance(self, AbstractLinearOperator) and isinstance(other, AbstractLinearOperator):
            return LinearComposition(self, other)
        return Composition(self, other)


class AbstractLinearOperator(AbstractOperator):
    """A linear operator `A`, with its adjoint: `<A x, y> = <x, A* y>` for the inner product `sum(conj(a) b)`.

    A subclass defines `domain`, `codomain`, `__call__` and `adjoint`, and `measured` if entries of the measurement can
    be missing. Both methods begin with `operators.check_state`, and the adjoint is the conjugate transpose. Whatever
    else there is follows from these. `jaxinv.testing.check_linear_operator` checks an operator of your own.

    !!! example
        ```python
        import equinox as eqx, jax, jax.numpy as jnp
        from jaxinv import operators, testing

        class Motion(operators.AbstractLinearOperator):  # the mean of an image and of the image one row further down
            domain: jax.ShapeDtypeStruct = eqx.field(static=True)
            weight: jax.Array = eqx.field(converter=jnp.asarray, default=0.5)

            @property
            def codomain(self):
                return self.domain

            def __call__(self, x):
                x = operators.check_state(x, self.domain, "the image", self)
                return (1 - self.weight) * x + self.weight * jnp.roll(x, 1, axis=0)

            def adjoint(self, y):
                y = operators.check_state(y, self.codomain, "the measurement", self)
                return (1 - self.weight) * y + self.weight * jnp.roll(y, -1, axis=0)

        operator = Motion(jax.ShapeDtypeStruct((4, 2, 1), jnp.float32))
        testing.check_linear_operator(operator, key=jax.random.key(0))
        ```
    """

    @abc.abstractmethod
    def adjoint(self, y: State) -> State:
        """`A* y`, the adjoint (the conjugate transpose, not the transpose).

        **Arguments:**

        - `y`: a measurement of the shape of `codomain`.

        **Returns:** an image of the shape of `domain`.
        """

    def linearise(self, x: State) -> "AbstractLinearOperator":
        """The operator itself."""
        check_state(x, self.domain, "the image", self)
        return self

    def normal(self, x: State) -> State:
        """`A* A x`."""
        return self.adjoint(self(x))

    def rows(self, indices: Array) -> "AbstractLinearOperator":
        """The operator of some rows of the measurement alone, along its first axis: some angles of a sinogram.

        By default it computes all rows and takes these. An operator that computes rows one by one overrides it.

        **Arguments:**

        - `indices`: integers of any order, `(n,)`; those out of range count as the nearest row.

        **Returns:** a linear operator, whose measurements have `n` rows.
        """
        return Rows(self, indices)

    @property
    def H(self) -> "AbstractLinearOperator":
        """The adjoint as an operator."""
        return self.operator if isinstance(self, Adjoint) else Adjoint(self)

    def __add__(self, other: "AbstractLinearOperator") -> "AbstractLinearOperator":
        if not isinstance(other, AbstractLinearOperator):
            return NotImplemented
        return Sum(self, other)

    def __sub__(self, other: "AbstractLinearOperator") -> "AbstractLinearOperator":
        if not isinstance(other, AbstractLinearOperator):
            return NotImplemented
        return Sum(self, -other)

    def __mul__(self, factor: Checked[Scalar | complex]) -> "AbstractLinearOperator":
        if isinstance(factor, AbstractOperator) or jnp.ndim(factor) != 0:
            return NotImplemented
        return Scaled(factor, self)

    __rmul__ = __mul__

    def __truediv__(self, factor: Checked[Scalar | complex]) -> "AbstractLinearOperator":
        if isinstance(factor, AbstractOperator) or jnp.ndim(factor) != 0:
            return NotImplemented
        return Scaled(1 / as_factor(factor), self)

    def __neg__(self) -> "AbstractLinearOperator":
        return Scaled(-1.0, self)


class Composition(AbstractOperator):
    """`x -> A(B(x))`, made by `A @ B`."""

    outer: AbstractOperator
    inner: AbstractOperator

    @property
    def domain(self) -> Struct:
        return _composed_domain(self.outer, self.inner)

    @property
    def codomain(self) -> Struct:
        return image_struct(self.outer, image_struct(self.inner, self.domain))

    @property
    def measured(self) -> PyTree[Array]:
        return self.outer.measured

    def __check_init__(self):
        _check_composable(self.outer, self.inner)

    def __call__(self, x: State) -> State:
        return self.outer(self.inner(x))

    def linearise(self, x: State) -> AbstractLinearOperator:
        return LinearComposition(self.outer.linearise(self.inner(x)), self.inner.linearise(x))


class LinearComposition(AbstractLinearOperator):
    """`A B`, made by `A @ B` of two linear operators."""

    outer: AbstractLinearOperator
    inner: AbstractLinearOperator

    @property
    def domain(self) -> Struct:
        return _composed_domain(self.outer, self.inner)

    @property
    def codomain(self) -> Struct:
        return image_struct(self.outer, image_struct(self.inner, self.domain))

    @property
    def measured(self) -> PyTree[Array]:
        return self.outer.measured

    def __check_init__(self):
        _check_composable(self.outer, self.inner)

    def __call__(self, x: State) -> State:
        return self.outer(self.inner(x))

    def adjoint(self, y: State) -> State:
        return self.inner.adjoint(self.outer.adjoint(y))


class Sum(AbstractLinearOperator):
    """`A + B`; an entry of its measurements exists where it exists for `A` or for `B`."""

    first: AbstractLinearOperator
    second: AbstractLinearOperator

    @property
    def domain(self) -> Struct:
        return jax.tree.map(_promoted, self.first.domain, self.second.domain)

    @property
    def codomain(self) -> Struct:
        first, second = (image_struct(operator, self.domain) for operator in (self.first, self.second))
        return jax.tree.map(_promoted, first, second)

    @property
    def measured(self) -> PyTree[Array]:
        with standard_promotion():
            return jax.tree.map(jnp.maximum, self.first.measured, self.second.measured)

    def __check_init__(self):
        for which in ("domain", "codomain"):
            ours, theirs = shapes(getattr(self.first, which)), shapes(getattr(self.second, which))
            if ours != theirs:
                raise ValueError(
                    f"Operators are added only if their domains and codomains agree; the {which} of "
                    f"{name_of(self.first)} has shape {ours} and that of {name_of(self.second)} {theirs}."
                )

    def __call__(self, x: State) -> State:
        x = onto_reals(x, self)
        return add_states(self.first(x), self.second(x))

    def adjoint(self, y: State) -> State:
        return onto_reals(add_states(self.first.adjoint(y), self.second.adjoint(y)), self)


class Scaled(AbstractLinearOperator):
    """`factor * A`."""

    factor: Array
    operator: AbstractLinearOperator

    def __init__(self, factor: Checked[Scalar | complex], operator: AbstractLinearOperator):
        self.factor = as_factor(factor)
        self.operator = operator

    def requirements(self) -> tuple[Requirement, ...]:
        return (finite("factor", self.factor),)

    @property
    def domain(self) -> Struct:
        # An operator from real images to complex measurements keeps its real domain under a complex factor.
        factor = self.factor.real if into_complex(self.operator) else self.factor
        return jax.tree.map(lambda s: _promoted(s, factor), self.operator.domain)

    @property
    def codomain(self) -> Struct:
        return jax.tree.map(lambda s: _promoted(s, self.factor), self.operator.codomain)

    @property
    def measured(self) -> PyTree[Array]:
        return self.operator.measured

    def __call__(self, x: State) -> State:
        return _scale(self.factor, self.operator(x))

    def adjoint(self, y: State) -> State:
        return self.operator.adjoint(_scale(jnp.conj(self.factor), y))


class Adjoint(AbstractLinearOperator):
    """`A*` as an operator, made by `A.H`."""

    operator: AbstractLinearOperator

    @property
    def domain(self) -> Struct:
        return self.operator.codomain

    @property
    def codomain(self) -> Struct:
        return self.operator.domain

    def __call__(self, x: State) -> State:
        return self.operator.adjoint(x)

    def adjoint(self, y: State) -> State:
        return self.operator(y)


class Rows(AbstractLinearOperator):
    """Some rows of the measurement of an operator, made by `operator.rows(indices)`."""

    operator: AbstractLinearOperator
    indices: Array
    number: int = eqx.field(static=True)

    def __init__(self, operator: AbstractLinearOperator, indices: Array):
        if isinstance(operator.codomain, tuple):
            raise ValueError("The measurement of a stack is several arrays, which have no rows in common.")
        self.operator, self.number = operator, indices.shape[0]
        self.indices = jnp.clip(indices, 0, operator.codomain.shape[0] - 1)

    @property
    def domain(self) -> Struct:
        return self.operator.domain

    @property
    def codomain(self) -> jax.ShapeDtypeStruct:
        full = self.operator.codomain
        return jax.ShapeDtypeStruct((self.number, *full.shape[1:]), full.dtype)

    @property
    def measured(self) -> Array:
        measured = self.operator.measured
        return measured if measured.shape[0] == 1 else measured[self.indices]

    def __call__(self, x: State) -> Array:
        return self.operator(x)[self.indices]

    def adjoint(self, y: State) -> State:
        y = check_state(y, self.codomain, "the measurement", self)
        full = self.operator.codomain
        return self.operator.adjoint(jnp.zeros(full.shape, y.dtype).at[self.indices].add(y))


def into_complex(operator: AbstractOperator) -> bool:
    """Whether an operator takes real images to complex measurements; it is then linear over the reals, as `Real` is."""
    return is_complex(operator.codomain) and not is_complex(operator.domain)


def onto_reals(x: State, operator: AbstractOperator) -> State:
    """The real part of an image `x` of an operator that takes real images to complex measurements, else `x` itself."""
    return jax.tree.map(jnp.real, x) if into_complex(operator) else x


def image_struct(operator: AbstractOperator, struct: Struct) -> Struct:
    """The struct of the measurement of an image like `struct`, whose dtype may differ from that of the domain."""
    if jax.tree.map(lambda s: s.dtype, struct) == jax.tree.map(lambda s: s.dtype, operator.domain):
        return operator.codomain
    out = jax.eval_shape(lambda x: operator(x), struct)
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), out)


def add_states(first: State, second: State) -> State:
    """The sum of two images or measurements, of which one may be real and the other complex."""
    with standard_promotion():
        return jax.tree.map(jnp.add, first, second)


def _scale(factor: Array, state: State) -> State:
    # Rounded, so that no program contracts the product and a sum with a neighbour, or two products, into one.
    return jax.tree.map(lambda leaf: rounded(multiply(rounded(factor), rounded(as_array(leaf)))), state)


def _promoted(struct: jax.ShapeDtypeStruct, other: Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(struct.shape, common_dtype(struct.dtype, other))


def _composed_domain(outer: AbstractOperator, inner: AbstractOperator) -> Struct:
    # A real operator accepts complex images too, so before an operator with a complex domain its domain is complex.
    if not is_complex(outer.domain) or is_complex(inner.codomain) or not isinstance(inner, AbstractLinearOperator):
        return inner.domain
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, common_dtype(s.dtype, jnp.complex64)), inner.domain)


def _check_composable(outer: AbstractOperator, inner: AbstractOperator) -> None:
    if shapes(outer.domain) != shapes(inner.codomain):
        raise ValueError(
            f"{name_of(outer)} @ {name_of(inner)}: the codomain of {name_of(inner)}, {shapes(inner.codomain)}, is not "
            f"the domain of {name_of(outer)}, {shapes(outer.domain)}."
        )
