"""Decompositions that compute the leading right singular vectors of a matrix, for `pca`."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from .._arrays import HIGHEST, check_count, check_key
from .._types import Checked, Key


class AbstractDecomposition(eqx.Module):
    """The decomposition that `pca` applies to the matrix `X`, `(n, d)`, of its centred data."""

    @abc.abstractmethod
    def decompose(self, matrix: Array, rank: int, *, key: Key) -> tuple[Array, Array]:
        """The largest singular values and their right singular vectors.

        **Arguments:**

        - `matrix`: the centred data, `(n, d)`.
        - `rank`: the number of singular values, static.
        - `key`: a typed key, for random sketches.

        **Returns:** the `rank` largest singular values, decreasing, and their right singular vectors, `(rank, d)`.
        """

    @abc.abstractmethod
    def rounding(self, shape: tuple[int, int], dtype: Checked[DTypeLike]) -> float:
        """The relative size of singular values that are only rounding.

        **Arguments:**

        - `shape`: the shape of the matrix.
        - `dtype`: the dtype of its entries.

        **Returns:** a Python number: singular values below it, relative to the largest, are rounding.
        """


class Thin(AbstractDecomposition):
    """The thin singular value decomposition, accurate to rounding; for `n > d` that of the triangular QR factor."""

    def decompose(self, matrix: Array, rank: int, *, key: Key) -> tuple[Array, Array]:
        del key
        tall = matrix.shape[0] > matrix.shape[1]
        _, singular, right = jnp.linalg.svd(jnp.linalg.qr(matrix, mode="r") if tall else matrix, full_matrices=False)
        return singular[:rank], right[:rank]

    def rounding(self, shape: tuple[int, int], dtype: Checked[DTypeLike]) -> float:
        return float(jnp.finfo(dtype).eps) * max(shape)


class Gram(AbstractDecomposition):
    """The eigenvectors of the smaller of `X^T X` and `X X^T`.

    Several times faster than `Thin()` on elongated data, but it squares the condition number: singular values below
    `sqrt(eps)` times the largest (3e-4 in float32) are rounding.
    """

    def decompose(self, matrix: Array, rank: int, *, key: Key) -> tuple[Array, Array]:
        del key
        tall = matrix.shape[0] > matrix.shape[1]
        rows = matrix.T if tall else matrix
        values, vectors = jnp.linalg.eigh(jnp.matmul(rows, rows.T, precision=HIGHEST))
        values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank]
        if tall:
            return jnp.sqrt(jnp.maximum(values, 0)), vectors.T
        images = jnp.matmul(vectors.T, matrix, precision=HIGHEST)
        # The lengths of the images are the singular values, with more digits than the roots of the eigenvalues.
        singular = jnp.sqrt(jnp.sum(images**2, axis=1))
        order = jnp.argsort(singular, descending=True)
        singular, images = singular[order], images[order]
        return singular, images / jnp.where(singular > 0, singular, 1)[:, None]

    def rounding(self, shape: tuple[int, int], dtype: Checked[DTypeLike]) -> float:
        return math.sqrt(float(jnp.finfo(dtype).eps) * max(shape))


class Randomised(AbstractDecomposition):
    """The decomposition of the data on the range of a random sketch, for a rank far below `n` and `d`.

    - `oversampling`: the number of columns of the sketch beyond the rank; static.
    - `power_iterations`: the number of passes over the data that damp the smaller singular values; static. Raise it if
      the singular values decay slowly. The decomposition costs `2 + 2 power_iterations` products of the data with
      `rank + oversampling` vectors.

    **Reference:** Halko, Martinsson, Tropp, Finding structure with randomness, 2011.
    """

    oversampling: int = eqx.field(static=True, default=10)
    power_iterations: int = eqx.field(static=True, default=4)

    def __check_init__(self):
        for name in ("oversampling", "power_iterations"):
            value = getattr(self, name)
            if type(value) is not int or value != 0:
                check_count(value, name)

    def decompose(self, matrix: Array, rank: int, *, key: Key) -> tuple[Array, Array]:
        check_key(key)
        width = min(rank + self.oversampling, *matrix.shape)
        times = lambda a, b: jnp.matmul(a, b, precision=HIGHEST)
        sketch = times(matrix, jax.random.normal(key, (matrix.shape[1], width), matrix.dtype))
        for _ in range(self.power_iterations):
            # Orthonormalise in between, since powers of the singular values would overflow or underflow.
            back = jnp.linalg.qr(times(matrix.T, jnp.linalg.qr(sketch)[0]))[0]
            sketch = times(matrix, back)
        basis = jnp.linalg.qr(sketch)[0]
        _, singular, right = jnp.linalg.svd(times(basis.T, matrix), full_matrices=False)
        return singular[:rank], right[:rank]

    def rounding(self, shape: tuple[int, int], dtype: Checked[DTypeLike]) -> float:
        return float(jnp.finfo(dtype).eps) * max(shape)
