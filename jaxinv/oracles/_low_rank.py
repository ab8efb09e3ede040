"""Covariances in eigen-form; a mixture holds one for each component, or one for all."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import HIGHEST, as_array, as_parameter, is_concrete
from .._types import ArrayLike, Checked
from ..requirements import Parametric, Requirement, check, finite, not_negative

# A covariance whose least eigenvalue is below minus this share of the largest is negative by more than rounding.
NEGATIVE = 1e-3


class LowRank(Parametric):
    """Covariances `U diag(variances) U^T + rest (I - U U^T)` on `d` entries, without a `(d, d)` matrix.

    - `basis`: `U`, orthonormal columns: `(k, d, r)` for `k` components, or `(d, r)`, one basis for all of them.
    - `variances`: the variances along the columns, `(k, r)` or `(r,)`; not negative.
    - `rest`: the variance in every other direction, `(k,)` or a scalar; not negative.

    Pad a component of lower rank than the others with any further orthonormal columns, of variance `rest`.

    **Raises:** `ValueError` for shapes that do not match, and, where values are known, for columns that are not
    orthonormal and for negative variances.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        means = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
        basis = jnp.linalg.qr(jax.random.normal(jax.random.key(1), (3, 64, 2)))[0]
        covariances = jaxinv.oracles.LowRank(basis, jnp.ones((3, 2)), 0.01)
        prior = jaxinv.oracles.GaussianMixture(jnp.full(3, 1 / 3), means, covariances)
        ```
    """

    basis: Array
    variances: Array
    rest: Array

    def __init__(self, basis: ArrayLike, variances: ArrayLike, rest: Any = 0.0):
        basis, variances = as_parameter(basis), as_parameter(variances)
        rest = jnp.asarray(rest, basis.dtype) if type(rest) in (int, float) else as_parameter(rest)
        self.basis = basis[None] if basis.ndim == 2 else basis
        self.variances = variances[None] if variances.ndim == 1 else variances
        self.rest = rest[None] if rest.ndim == 0 else rest
        _check(basis, variances, rest, self)

    def requirements(self) -> tuple[Requirement, ...]:
        return (
            finite("basis", self.basis),
            not_negative("variances", self.variances),
            not_negative("rest", self.rest),
        )

    @property
    def is_full(self) -> bool:
        """Whether the basis spans the whole space, so that `rest` has no effect."""
        return self.basis.shape[1] == self.basis.shape[2]

    @property
    def is_shared(self) -> bool:
        """Whether all components have one covariance."""
        return self.basis.shape[0] == self.variances.shape[0] == self.rest.shape[0] == 1

    def component(self, index: Any) -> "LowRank":
        """The covariance of one component."""
        return jax.tree.map(lambda leaf: leaf[index][None] if len(leaf) > 1 else leaf, self)

    def each(self, count: int) -> "LowRank":
        """The covariances with a leading axis of `count` components to map over; itself if all share one covariance."""
        if self.is_shared:
            return self
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape[1:]))[:, None], self)

    def map(self, function: Checked[Callable[..., Any]]) -> "LowRank":
        """The covariances in the same basis whose variances are `function` of these."""
        where = lambda c: (c.variances, c.rest)
        return eqx.tree_at(where, self, (function(self.variances), function(self.rest)))

    def coefficients(self, x: Array) -> Array:
        """`U_k^T x_k`, `(k, r)`, for `x` of shape `(k, d)`, or of `(1, d)` for the same `x` with each basis."""
        if self.basis.shape[0] == 1:
            return jnp.matmul(x, self.basis[0], precision=HIGHEST)
        if x.shape[0] == 1:
            return jnp.einsum("kdr,d->kr", self.basis, x[0], precision=HIGHEST)
        return jnp.einsum("kdr,kd->kr", self.basis, x, precision=HIGHEST)

    def expand(self, coefficients: Array) -> Array:
        """`U_k c_k`, `(k, d)`, for coefficients of shape `(k, r)`."""
        if self.basis.shape[0] == 1:
            return jnp.matmul(coefficients, self.basis[0].T, precision=HIGHEST)
        return jnp.einsum("kdr,kr->kd", self.basis, coefficients, precision=HIGHEST)

    def expand_sum(self, coefficients: Array) -> Array:
        """`sum_k U_k c_k`, `(d,)`, for coefficients of shape `(k, r)`."""
        if self.basis.shape[0] == 1:
            return jnp.matmul(self.basis[0], jnp.sum(coefficients, axis=0), precision=HIGHEST)
        return jnp.einsum("kdr,kr->d", self.basis, coefficients, precision=HIGHEST)

    def product(self, x: Array) -> Array:
        """`C_k x_k`, `(k, d)`, for `x` of shape `(k, d)` or `(1, d)`."""
        coefficients = self.coefficients(x)
        if self.is_full:
            return self.expand(self.variances * coefficients)
        return self.rest[:, None] * x + self.expand((self.variances - self.rest[:, None]) * coefficients)

    def weighted_product(self, weights: Array, x: Array) -> Array:
        """`sum_k w_k C_k x`, `(d,)`, for `x` of shape `(d,)`."""
        rest, gain = self._weighted(weights)
        return rest * x + self.expand_sum(gain * self.coefficients(x[None]))

    def weighted_diagonal(self, weights: Array) -> Array:
        """The diagonal of `sum_k w_k C_k`, `(d,)`."""
        rest, gain = self._weighted(weights)
        return rest + jnp.sum(jnp.sum(self.basis**2 * _alike(gain, self.basis)[:, None, :], axis=2), axis=0)

    def weighted_sum(self, weights: Array) -> Array:
        """`sum_k w_k C_k`, `(d, d)`."""
        rest, gain = self._weighted(weights)
        scaled = self.basis * _alike(gain, self.basis)[:, None, :]
        return rest * jnp.eye(len(scaled[0]), dtype=rest.dtype) + jnp.einsum(
            "kdr,ker->de", scaled, self.basis, precision=HIGHEST
        )

    def _weighted(self, weights: Array) -> tuple[Array, Array]:
        rest = jnp.zeros_like(self.rest) if self.is_full else self.rest
        return jnp.sum(weights * rest), weights[:, None] * (self.variances - rest[:, None])


def _alike(gain: Array, basis: Array) -> Array:
    return jnp.sum(gain, axis=0, keepdims=True) if len(basis) == 1 else gain


def as_low_rank(covariances: Any, count: int, size: int, dtype: Any) -> LowRank:
    """The covariances that a mixture of `count` components on `size` entries accepts, in eigen-form.

    They are variances, `(count,)` or a scalar, matrices, `(count, size, size)` or `(size, size)`, or a `LowRank`.
    """
    if isinstance(covariances, LowRank):
        lead = {len(leaf) for leaf in (covariances.basis, covariances.variances, covariances.rest)}
        if covariances.basis.shape[1] != size or not lead <= {1, count}:
            raise ValueError(
                f"`covariances` must be of {count} components, or one for all, on {size} entries; got a `LowRank` with "
                f"a basis of shape {covariances.basis.shape} and variances of shape {covariances.variances.shape}."
            )
        return jax.tree.map(lambda leaf: leaf.astype(dtype), covariances)
    covariances = as_array(covariances).astype(dtype)
    if covariances.shape in ((), (count,)):
        words = "`covariances` holds variances that are negative or not finite"
        check("GaussianMixture", (not_negative("covariances", covariances, words),))
        variances = jnp.zeros((1 if covariances.ndim == 0 else count, 0), dtype)
        return LowRank(jnp.zeros((1, size, 0), dtype), variances, covariances)
    if covariances.shape not in ((size, size), (count, size, size)):
        raise ValueError(
            f"`covariances` must be one of: matrices ({count}, {size}, {size}), one matrix ({size}, {size}) for all, "
            f"variances ({count},), one variance, or a `LowRank`; for means of {count} components with {size} entries "
            f"each. Got shape {covariances.shape}."
        )
    return _decompose(covariances if covariances.ndim == 3 else covariances[None])


def _decompose(covariances: Array) -> LowRank:
    known = is_concrete(covariances)
    for i, covariance in enumerate(covariances if known else ()):
        name = f"`covariances[{i}]`" if len(covariances) > 1 else "`covariances`"
        if not bool(jnp.all(jnp.isfinite(covariance))):
            raise ValueError(f"{name} holds values that are not finite.")
        gap = float(jnp.max(jnp.abs(covariance - covariance.T)))
        if gap > 1e-3 * float(jnp.max(jnp.abs(covariance))):
            raise ValueError(f"{name} is not symmetric: it differs from its transpose by up to {gap:.3g}.")
    values, vectors = jnp.linalg.eigh((covariances + jnp.swapaxes(covariances, 1, 2)) / 2)
    for i, spectrum in enumerate(values if known else ()):
        if bool(spectrum[0] < -NEGATIVE * jnp.abs(spectrum[-1])):
            name = f"`covariances[{i}]`" if len(covariances) > 1 else "`covariances`"
            raise ValueError(
                f"{name} is not positive semi-definite: its eigenvalues reach from {float(spectrum[0]):.3g} to "
                f"{float(spectrum[-1]):.3g}."
            )
    rounding = 10 * jnp.finfo(values.dtype).eps * values[:, -1:]
    # A traced matrix that is no covariance becomes NaN, which `requirements` finds.
    good = values[:, :1] >= -NEGATIVE * jnp.abs(values[:, -1:])
    values = jnp.where(good, jnp.where(values > rounding, values, 0), jnp.nan)
    rank = values.shape[1]
    if known:
        # Often most directions share the smallest eigenvalue, such as 0 at low rank, and those need no basis. Inside a
        # trace the eigenvalues are unknown.
        rank = int(jnp.max(jnp.sum(values - values[:, :1] > rounding, axis=1)))
        rank = rank if rank < values.shape[1] - 1 else values.shape[1]
    first = values.shape[1] - rank
    return LowRank(vectors[:, :, first:], values[:, first:], values[:, 0])


def _check(basis: Array, variances: Array, rest: Array, made: LowRank) -> None:
    count, rank = max(len(made.basis), len(made.variances), len(made.rest)), basis.shape[-1] if basis.ndim else 0
    good = basis.ndim in (2, 3) and basis.shape[-2] >= rank and variances.shape in ((rank,), (1, rank), (count, rank))
    good = good and rest.shape in ((), (1,), (count,)) and len(made.basis) in (1, count)
    if not good:
        raise ValueError(
            "`LowRank` takes a basis (k, d, r) or (d, r) with r <= d, variances (k, r) or (r,), and a rest (k,) or a "
            f"scalar; got shapes {basis.shape}, {variances.shape} and {rest.shape}."
        )
    if not is_concrete(basis, variances, rest):
        return
    gram = jnp.einsum("kdr,kds->krs", made.basis, made.basis, precision=HIGHEST)
    if rank and not bool(jnp.max(jnp.abs(gram - jnp.eye(rank, dtype=gram.dtype)[None])) < 1e-3):
        raise ValueError("The columns of `basis` are not orthonormal; make them so by `jnp.linalg.qr(basis)[0]`.")
