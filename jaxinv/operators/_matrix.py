"""A matrix as an operator, and the conversion of any small operator to its matrix."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import (
    as_parameter,
    check_shape,
    check_state,
    common_dtype,
    is_complex,
    parameter_dtype,
    standard_promotion,
)
from .._kernels import matrix_product
from .._types import ArrayLike, Checked, PyTree, State, Struct
from ..requirements import Requirement, not_negative
from ._base import AbstractLinearOperator, AbstractOperator, into_complex, onto_reals


class Matrix(AbstractLinearOperator):
    """`A x = matrix @ ravel(x)`.

    - `matrix`: the real or complex matrix, `(m, n)`.
    - `shape`: the shape of the image, static, with `n` entries in all. The measurement has shape `(m,)`.

    **Raises:** `ValueError` if the number of columns is not the number of entries of the image.

    !!! example
        ```python
        import jax, jaxinv
        matrix = jax.random.normal(jax.random.key(0), (10, 64))
        y = jaxinv.operators.Matrix(matrix, (8, 8, 1))(jax.numpy.ones((8, 8, 1)))
        ```
    """

    matrix: Array
    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)

    def __init__(self, matrix: ArrayLike, shape: Checked[Sequence[int]]):
        shape = check_shape(shape)
        self.matrix = as_parameter(matrix)
        if self.matrix.ndim != 2 or self.matrix.shape[1] != math.prod(shape):
            raise ValueError(
                f"`matrix` must have shape (m, {math.prod(shape)}), a column for each entry of an image of shape "
                f"{shape}; got {self.matrix.shape}."
            )
        self.domain = jax.ShapeDtypeStruct(shape, parameter_dtype(self.matrix))
        self.codomain = jax.ShapeDtypeStruct((self.matrix.shape[0],), self.domain.dtype)

    def __call__(self, x: State) -> Array:
        x = check_state(x, self.domain, "the image", self)
        return matrix_product(self.matrix, x.ravel())

    def adjoint(self, y: State) -> Array:
        y = check_state(y, self.codomain, "the measurement", self)
        return matrix_product(jnp.conj(self.matrix), y, transposed=True).reshape(self.domain.shape)


class Materialised(AbstractLinearOperator):
    """An operator stored as its matrix, with its domain, codomain and measured entries; made by `materialise`."""

    matrix: Array
    weights: PyTree[Array]
    domain: Struct = eqx.field(static=True)
    codomain: Struct = eqx.field(static=True)

    def requirements(self) -> tuple[Requirement, ...]:
        return (not_negative("weights", self.weights),)

    @property
    def measured(self) -> PyTree[Array]:
        return self.weights

    def __call__(self, x: State) -> State:
        x = onto_reals(check_state(x, self.domain, "the image", self), self)
        y = _unravel(matrix_product(self.matrix, _ravel(x)), self.codomain)
        if not into_complex(self):
            return y
        # For a stack of real and complex measurements of a real image the matrix is complex, and the real parts of
        # the stack are real again here.
        return jax.tree.map(lambda leaf, s: leaf if is_complex(s) else leaf.real, y, self.codomain)

    def adjoint(self, y: State) -> State:
        y = check_state(y, self.codomain, "the measurement", self)
        x = matrix_product(jnp.conj(self.matrix), _ravel(y), transposed=True)
        return onto_reals(_unravel(x, self.domain), self)


def materialise(operator: AbstractOperator) -> Materialised:
    """Compute the matrix of an operator once, `(measurements, pixels)`: column `j` is `A e_j`.

    For small problems the matrix product is faster than the operator, above all on a batch. Memory and time grow with
    measurements times pixels.

    **Arguments:**

    - `operator`: any linear operator.

    **Returns:** an operator with the same domain, codomain and measured entries; the rows of its field `matrix` are
    the entries of the ravelled measurement (the parts of a stack one after the other).

    **Raises:** `ValueError` if the operator is not linear, or takes complex images to real measurements.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        operator = jaxinv.operators.ParallelBeam((16, 16, 1), jnp.linspace(0, jnp.pi, 10, endpoint=False))
        matrix = jaxinv.operators.materialise(operator).matrix
        ```
    """
    if not isinstance(operator, AbstractLinearOperator):
        raise ValueError(
            f"`materialise` needs a linear operator; {type(operator).__name__} is not one. Materialise its derivative: "
            "`materialise(operator.linearise(x))`."
        )
    if is_complex(operator.domain) and not is_complex(operator.codomain):
        raise ValueError(
            "`materialise` needs an operator that is linear over the complex numbers; this one takes complex images to "
            "real measurements. Materialise its adjoint: `materialise(operator.H).H`."
        )
    size = sum(math.prod(s.shape) for s in jax.tree.leaves(operator.domain))
    dtype = common_dtype(*(s.dtype for s in jax.tree.leaves(operator.domain)))

    def column(index):
        basis = jnp.zeros((size,), dtype).at[index].set(1)
        return _ravel(operator(_unravel(basis, operator.domain)))

    matrix = jax.vmap(column, out_axes=1)(jnp.arange(size))
    return Materialised(matrix, operator.measured, operator.domain, operator.codomain)


def _ravel(tree: PyTree[Array]) -> Array:
    with standard_promotion():
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def _unravel(vector: Array, struct: Struct) -> PyTree[Array]:
    leaves, treedef = jax.tree.flatten(struct)
    ends = [sum(math.prod(s.shape) for s in leaves[: i + 1]) for i in range(len(leaves))]
    parts = jnp.split(vector, ends[:-1])
    return treedef.unflatten([part.reshape(s.shape) for part, s in zip(parts, leaves, strict=True)])
