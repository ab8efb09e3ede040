"""The choice of the rank of a truncated singular value decomposition, by a fraction of a norm."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import as_array, is_concrete, parameter_dtype
from .._checks import checked
from .._types import ArrayLike, Checked, Scalar


class AbstractNorm(eqx.Module):
    """A matrix norm that is a function of the singular values."""

    @abc.abstractmethod
    def losses(self, singular_values: Float[Array, " m"]) -> Float[Array, " m+1"]:
        """The errors of all truncations.

        **Arguments:**

        - `singular_values`: the `m` singular values of `X`, decreasing.

        **Returns:** `||X - X_r||` for the ranks `r = 0, ..., m`.
        """


class Frobenius(AbstractNorm):
    """`||X - X_r||_F`, the root of the sum of the squares of the omitted singular values."""

    def losses(self, singular_values: Float[Array, " m"]) -> Float[Array, " m+1"]:
        largest = jnp.max(singular_values)
        scale = jnp.where(largest > 0, largest, 1)  # Scaled squares neither overflow nor underflow.
        return scale * jnp.sqrt(_tails((singular_values / scale) ** 2))


class Nuclear(AbstractNorm):
    """`||X - X_r||_*`, the sum of the omitted singular values."""

    def losses(self, singular_values: Float[Array, " m"]) -> Float[Array, " m+1"]:
        return _tails(singular_values)


@checked()
def choose_rank(
    singular_values: ArrayLike, tolerance: Checked[Scalar], norm: Checked[AbstractNorm | None] = None
) -> int | Array:
    """The smallest rank whose truncated singular value decomposition loses at most a fraction of a norm.

    It is the smallest `r` with `||X - X_r|| <= tolerance * ||X||`, where `X_r` keeps the `r` largest singular values
    `s_i` (the best approximation of rank `r` in both norms, by Eckart, Young and Mirsky): `||X - X_r||` is
    `sqrt(sum_{i > r} s_i^2)` for `Frobenius()` and `sum_{i > r} s_i` for `Nuclear()`. It is 0 for `tolerance >= 1`.
    To keep 95 % of the variance, use `Frobenius()` with `tolerance = sqrt(.05)`.

    **Arguments:**

    - `singular_values`: all singular values, `(m,)`, in any order.
    - `tolerance`: the fraction of the norm that may be lost, a scalar, not negative.
    - `norm`: `Frobenius()` (the default) or `Nuclear()`.

    **Returns:** a Python integer; inside `jax.jit` or `jax.vmap` an integer array.

    **Raises:** `ValueError` for wrong shapes, and, where the values are known, for singular values or a tolerance that
    are negative or not finite.

    **Reference:** Arridge, Unsupervised Learning and Generative Models (lecture), 2023; Mirsky, Symmetric gauge
    functions and unitarily invariant norms, 1960.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        assert jaxinv.subspace.choose_rank(jnp.array([4.0, 2.0, 1.0]), 0.25, jaxinv.subspace.Nuclear()) == 2
        ```
    """
    norm = check_norm(norm)
    s = as_array(singular_values)
    s = s.astype(parameter_dtype(s.dtype))
    if s.ndim != 1 or s.size == 0 or jnp.iscomplexobj(s):
        raise ValueError(f"`singular_values` must be real, of shape (m,); got shape {s.shape} of dtype {s.dtype}.")
    if jnp.ndim(tolerance) != 0:
        raise ValueError(f"`tolerance` must be a scalar; got shape {jnp.shape(tolerance)}. Map with `jax.vmap`.")
    for name, value in (("singular_values", s), ("tolerance", tolerance)):
        if is_concrete(value) and not bool(jnp.all(jnp.isfinite(value) & (jnp.asarray(value) >= 0))):
            raise ValueError(f"`{name}` must be finite and not negative; got {value}.")
    losses = norm.losses(jnp.sort(s, descending=True))
    # The losses decrease with the rank, so the rank is the number of those that are too large.
    rank = jnp.sum(losses > jnp.asarray(tolerance, s.dtype) * losses[0])
    return int(rank) if is_concrete(rank) else rank


def check_norm(norm: Any) -> AbstractNorm:
    """`norm`, or `Frobenius()` if it is `None`.

    **Raises:** `ValueError` if it is not a norm of `jaxinv.subspace`.
    """
    norm = Frobenius() if norm is None else norm
    if not isinstance(norm, AbstractNorm):
        raise ValueError(f"`norm` must be `subspace.Frobenius()` or `subspace.Nuclear()`; got {norm!r}.")
    return norm


def _tails(terms: Array) -> Array:
    # Sum from the small end, so that a small tail keeps its digits.
    tails = jnp.cumsum(terms[::-1])[::-1]
    return jnp.concatenate([tails, jnp.zeros_like(tails[:1])])
