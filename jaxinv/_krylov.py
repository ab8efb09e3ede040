"""The Lanczos process: functions of a symmetric map, times a vector."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from ._arrays import HIGHEST, safe_sqrt
from ._types import PyTree


class Krylov(eqx.Module):
    """An orthonormal basis of the space of `b, M b, M^2 b, ...`, in which `M` is tridiagonal.

    - `vector`: the next vector to be multiplied by `M`; 0 once the space is exhausted.
    - `basis`: those before, `(num_steps, d)`.
    - `diagonal`, `beside`: the two diagonals of `M` in the basis.
    - `size`: the norm of `b`.

    **Reference:** Higham, Functions of matrices, 2008, section 13.2.
    """

    vector: Array
    basis: Array
    diagonal: Array
    beside: Array
    size: Array

    @staticmethod
    def start(b: Array, num_steps: int) -> "Krylov":
        """Before any product, with room for `num_steps`."""
        square = jnp.sum(b**2)
        size = safe_sqrt(square)
        empty = jnp.zeros(num_steps, b.dtype)
        vector = b / jnp.where(size > 0, size, 1)
        return Krylov(vector, jnp.zeros((num_steps, b.size), b.dtype), empty, empty, size)

    def extend(self, index: Array, product: Array) -> tuple["Krylov", Array]:
        """With the product of `M` and the next vector; and whether nothing of it is new, but for rounding."""
        basis = self.basis.at[index].set(self.vector)
        along, length = jnp.sum(product * self.vector), _norm(product)
        # Against all of them and twice: in exact arithmetic the last two, once, would do.
        for _ in range(2):
            inside = jnp.matmul(jnp.matmul(basis, product, precision=HIGHEST), basis, precision=HIGHEST)
            product = product - inside
        rest = _norm(product)
        new = rest > 1e3 * float(jnp.finfo(product.dtype).eps) * length
        vector = jnp.where(new, product / jnp.where(new, rest, 1), 0)
        beside = self.beside.at[index].set(jnp.where(new, rest, 0))
        return Krylov(vector, basis, self.diagonal.at[index].set(along), beside, self.size), ~new

    def function(self, function: Callable[[Array], Array], num_steps: Array) -> Array:
        """The coefficients of `f(M) b` in the basis, of which so many vectors are there."""
        # The last of these entries leads out of the basis.
        beside = jnp.where(jnp.arange(1, len(self.beside), dtype=num_steps.dtype) < num_steps, self.beside[:-1], 0)
        values, vectors = jnp.linalg.eigh(jnp.diag(self.diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1))
        return self.size * jnp.matmul(vectors, function(values) * vectors[0], precision=HIGHEST)


def flatten(tree: PyTree[Array]) -> tuple[Array, Callable[[Array], Any]]:
    """The numbers of a measurement as one real vector, and the way back."""
    leaves, structure = jax.tree.flatten(tree)
    parts = [(leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,) for leaf in leaves]
    vector, unravel = ravel_pytree(parts)
    join = lambda part: jax.lax.complex(*part) if len(part) == 2 else part[0]
    return vector, lambda v: jax.tree.unflatten(structure, [join(part) for part in unravel(v)])


def _norm(x: Array) -> Array:
    square = jnp.sum(x**2)
    return safe_sqrt(square)
