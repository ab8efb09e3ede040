"""The product of a matrix and a vector, the same alone and in a batch.

Libraries multiply a matrix and one vector by another routine than a matrix and several vectors, and a transposed matrix
by one that depends on their number; their sums have other orders. So on a CPU one vector gets a second beside it, and a
transpose is written to memory. That is also faster alone, up to 80 times for an adjoint: XLA has no routine for a
transposed matrix and one vector.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla
from jaxtyping import Array

from .._arrays import HIGHEST, same_varying, standard_promotion

# Operands are `p` matrices, and as many arrays of vectors, the rows: `(p, m, n)` and `(p, k, n)` give `(p, k, m)`.
_primitive = Primitive("jaxinv_matrix_product")


def matrix_product(matrix: Array, x: Array, transposed: bool = False) -> Array:
    """`matrix @ x`, of shapes `(m, n)` and `(n,)`, or `matrix.T @ x`."""
    if jnp.iscomplexobj(x):
        parts = jnp.stack([x.real, x.imag])
        real, imaginary = jax.vmap(lambda part: matrix_product(matrix, part, transposed))(parts)
        return real + 1j * imaginary
    if jnp.iscomplexobj(matrix):
        return jax.lax.complex(*(matrix_product(part, x, transposed) for part in (matrix.real, matrix.imag)))
    with standard_promotion():
        dtype = jnp.result_type(matrix, x)
    return _bind(matrix.astype(dtype)[None], x.astype(dtype)[None, None], transposed)[0, 0]


def _bind(matrix: Array, rows: Array, transposed: bool) -> Array:
    return _primitive.bind(*same_varying(matrix, rows), transposed=transposed)


def _turned(array: Array) -> Array:
    return jnp.swapaxes(array, -1, -2)


def _multiply(matrix: Array, rows: Array, *, transposed: bool) -> Array:
    return _turned(jnp.matmul(_turned(matrix) if transposed else matrix, _turned(rows), precision=HIGHEST))


def _multiply_by_one_routine(matrix: Array, rows: Array, *, transposed: bool) -> Array:
    def one(matrix: Array, rows: Array) -> Array:
        count = len(rows)
        rows = jnp.concatenate([rows, rows]) if count == 1 else rows
        if not transposed:
            return _multiply(matrix, rows, transposed=False)[:count]
        # XLA sees through a plain transpose, but not through one that is padded.
        return _multiply(jnp.pad(matrix.T, ((0, 1), (0, 0))), rows, transposed=False)[:count, :-1]

    return one(matrix[0], rows[0])[None] if len(matrix) == 1 else jax.lax.map(lambda pair: one(*pair), (matrix, rows))


@_primitive.def_abstract_eval
def _(matrix: Any, rows: Any, *, transposed: bool) -> Any:
    return rows.update(shape=(*rows.shape[:2], matrix.shape[2 if transposed else 1]), weak_type=False)


_primitive.def_impl(functools.partial(xla.apply_primitive, _primitive))
mlir.register_lowering(_primitive, mlir.lower_fun(_multiply, multiple_results=False))
mlir.register_lowering(_primitive, mlir.lower_fun(_multiply_by_one_routine, multiple_results=False), platform="cpu")


def _transpose_matrix(cotangent: Array, matrix: Any, rows: Array, *, transposed: bool) -> Array:
    del matrix
    left, right = (rows, cotangent) if transposed else (cotangent, rows)
    return jnp.matmul(_turned(left), right, precision=HIGHEST)


def _transpose_rows(cotangent: Array, matrix: Array, rows: Any, *, transposed: bool) -> Array:
    del rows
    return _bind(matrix, cotangent, not transposed)


ad.defbilinear(_primitive, _transpose_matrix, _transpose_rows)


def _batch(operands: Any, axes: Any, *, transposed: bool) -> tuple[Array, int]:
    (matrix, rows), (matrix_axis, rows_axis) = operands, axes
    if matrix_axis is None:
        # The matrix multiplies more vectors.
        rows = jnp.moveaxis(rows, rows_axis, 1)
        product = _bind(matrix, rows.reshape(len(rows), -1, rows.shape[3]), transposed)
        return product.reshape(*rows.shape[:3], -1), 1
    matrix = jnp.moveaxis(matrix, matrix_axis, 0)
    rows = jnp.broadcast_to(rows, (len(matrix), *rows.shape)) if rows_axis is None else jnp.moveaxis(rows, rows_axis, 0)
    merged = lambda array: array.reshape(-1, *array.shape[2:])
    product = _bind(merged(matrix), merged(rows), transposed)
    return product.reshape(*rows.shape[:2], *product.shape[1:]), 0


batching.primitive_batchers[_primitive] = _batch
