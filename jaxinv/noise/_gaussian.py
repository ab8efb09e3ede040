"""Gaussian noise: independent, or correlated by a factor."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_parameter, check_key, multiply, real_dtype, standard_promotion
from .._types import ArrayLike, Checked, Key, PyTree, Scalar, State
from .._workarounds import rounded
from ..requirements import Requirement, finite, not_negative
from ._base import (
    AbstractGaussianNoise,
    as_noise_parameter,
    broadcast_to_parts,
    fit_to,
    not_positive,
    part_keys,
    square_of,
    standard_normal,
    total,
    where_measured,
)


class Gaussian(AbstractGaussianNoise):
    """`y = A x + std * n`, `n` standard normal; for complex `y` in real and imaginary part each.

    - `std`: the standard deviation, in the unit of `y`; a scalar, an array of the rank of `y`, or for a stack also a
      tuple of these.

    **Raises:** `ValueError` if it is negative or not finite, where its value is known. (Zero is allowed here, for
    simulation; a verb that divides by it returns the code `RESULTS.invalid_parameter`.)

    !!! example
        ```python
        import jax, jaxinv
        noise = jaxinv.noise.Gaussian(0.1)
        y = noise.simulate(jax.numpy.ones((8, 8, 1)), key=jax.random.key(0))
        ```
    """

    std: PyTree[Array]

    def __init__(self, std: Checked[Scalar]):
        self.std = as_noise_parameter(std, "std")

    def requirements(self) -> tuple[Requirement, ...]:
        return (not_negative("std", self.std),)

    def negative_log_likelihood(self, prediction: State, y: State, measured: State) -> Array:
        def part(prediction, y, measured, std):
            std = jnp.where(measured > 0, fit_to(std, y, "std"), 1)
            residual = _quotient(where_measured(measured, y - prediction), std)
            constant = jnp.log(std) + 0.5 * math.log(2 * math.pi)
            parts = 2 if jnp.iscomplexobj(residual) else 1
            return jnp.sum(0.5 * square_of(residual) + jnp.where(measured > 0, parts * constant, 0))

        return total(part, prediction, y, measured, broadcast_to_parts(self.std, y))

    def simulate(self, prediction: State, *, key: Key) -> State:
        draw = lambda mean, std, k: mean + multiply(fit_to(std, mean, "std"), standard_normal(k, mean))
        return jax.tree.map(draw, prediction, broadcast_to_parts(self.std, prediction), part_keys(key, prediction))

    def linearise(self, y: State) -> tuple[State, State]:
        full = lambda leaf, s: jnp.broadcast_to(fit_to(s, leaf, "std"), leaf.shape)
        return y, jax.tree.map(full, y, broadcast_to_parts(self.std, y))

    @standard_promotion()
    def whiten(self, residual: State) -> State:
        # The residual is multiplied by the inverse and not divided: XLA merges two divisions in some programs and not
        # in others, which then round otherwise.
        over = lambda r, s: rounded(rounded(r) * rounded(1 / fit_to(s, r, "std")))
        return jax.tree.map(over, residual, broadcast_to_parts(self.std, residual))

    def whiten_adjoint(self, residual: State) -> State:
        return self.whiten(residual)

    def restrict(self, measured: State, struct: PyTree) -> "Gaussian":
        del struct
        keep = lambda std, m: jnp.where(m > 0, std, 1) if std.ndim == m.ndim else std
        return eqx.tree_at(lambda n: n.std, self, jax.tree.map(keep, broadcast_to_parts(self.std, measured), measured))

    def invalid(self, measured: State) -> Array:
        return not_positive(self.std, measured)

    def unit(self) -> "Gaussian":
        return jax.tree.map(jnp.ones_like, self)


def _quotient(residual: Array, std: Array) -> Array:
    with standard_promotion():  # the residual may be complex
        return residual / std


class CorrelatedGaussian(AbstractGaussianNoise):
    """`ravel(y) = ravel(A x) + factor @ n`, `n` standard normal: covariance `factor factor^T`.

    - `factor`: a real, invertible factor of the covariance, `(m, m)`, such as its Cholesky factor, for a measurement
      (one array) of `m` entries. It is stored as the lower triangular factor of the same covariance.

    **Raises:** `ValueError` if it is complex, not square, or not finite.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        factor = jnp.linalg.cholesky(0.1 * jnp.eye(16) + 0.01)
        y = jaxinv.noise.CorrelatedGaussian(factor).simulate(jnp.ones((4, 4, 1)), key=jax.random.key(0))
        ```
    """

    factor: Array

    def __init__(self, factor: ArrayLike):
        factor = as_parameter(factor)
        shape = factor.shape
        if len(shape) != 2 or shape[0] != shape[1] or jnp.iscomplexobj(factor):
            raise ValueError(
                "`factor` must be a real square matrix, a row for each entry of the measurement; got shape "
                f"{shape} and dtype {factor.dtype}."
            )
        self.factor = _triangular(factor)

    def requirements(self) -> tuple[Requirement, ...]:
        return (finite("factor", self.factor, "`factor` holds values that are not finite"),)

    def negative_log_likelihood(self, prediction: State, y: State, measured: State) -> Array:
        y = _one_array(y)
        noise = self.restrict(measured, y)
        residual = noise.whiten(where_measured(measured, y - prediction))
        entries = (jnp.broadcast_to(measured, y.shape) > 0).ravel()
        constant = jnp.log(jnp.abs(jnp.diagonal(noise._factor(y)))) + 0.5 * math.log(2 * math.pi)
        parts = 2 if jnp.iscomplexobj(residual) else 1
        return 0.5 * jnp.sum(square_of(residual)) + parts * jnp.sum(jnp.where(entries, constant, 0))

    @standard_promotion()
    def simulate(self, prediction: State, *, key: Key) -> State:
        check_key(key)
        prediction = _one_array(prediction)
        self._check_size(prediction)
        draw = jnp.matmul(
            self._factor(prediction), standard_normal(key, prediction.ravel()), precision=jax.lax.Precision.HIGHEST
        )
        return prediction + draw.reshape(prediction.shape)

    def linearise(self, y: State) -> tuple[State, State]:
        y = _one_array(y)
        return y, jnp.sqrt(jnp.sum(self._factor(y) ** 2, axis=1)).reshape(y.shape)

    def whiten(self, residual: State) -> State:
        return self._solve(residual, transpose=False)

    def whiten_adjoint(self, residual: State) -> State:
        return self._solve(residual, transpose=True)

    def restrict(self, measured: State, struct: PyTree) -> "CorrelatedGaussian":
        """The noise of the measured entries, with a lower triangular factor that is the identity on the others."""
        self._check_size(struct)
        if measured.size == 1:
            return self
        kept = (jnp.broadcast_to(measured, struct.shape) > 0).ravel()
        missing = jnp.where(kept, 0.0, 1.0).astype(self.factor.dtype)
        rows = jnp.where(kept[:, None], self.factor, 0)
        wide = jnp.concatenate([rows, jnp.diag(missing)], axis=1)
        return eqx.tree_at(lambda noise: noise.factor, self, _triangular(wide))

    def invalid(self, measured: State) -> Array:
        del measured
        return ~jnp.all(jnp.isfinite(self.factor)) | jnp.any(jnp.diagonal(self.factor) == 0)

    def unit(self) -> "CorrelatedGaussian":
        return jax.tree.map(lambda factor: jnp.eye(factor.shape[0], dtype=factor.dtype), self)

    def _factor(self, y: Array) -> Array:
        return self.factor.astype(real_dtype(y.dtype))

    def _check_size(self, struct: PyTree) -> None:
        if self.factor.shape[0] != math.prod(struct.shape):
            raise ValueError(
                f"`factor` has {self.factor.shape[0]} rows; a measurement of shape {tuple(struct.shape)} has "
                f"{math.prod(struct.shape)} entries."
            )

    def _solve(self, residual: State, transpose: bool) -> Array:
        residual = _one_array(residual)
        trans = 1 if transpose else 0
        factor = self._factor(residual)
        solve = lambda r: jax.scipy.linalg.solve_triangular(factor, r, lower=True, trans=trans)
        flat = residual.ravel()
        if jnp.iscomplexobj(flat):
            return jax.lax.complex(solve(flat.real), solve(flat.imag)).reshape(residual.shape)
        return solve(flat).reshape(residual.shape)


@jax.jit
def _triangular(factor: Array) -> Array:
    # The lower triangular L with L L^T = F F^T, from a QR decomposition of F^T, which does not square the condition.
    upper = jnp.linalg.qr(factor.T, mode="r")
    return upper.T * jnp.where(jnp.diagonal(upper) < 0, -1.0, 1.0).astype(upper.dtype)[None, :]


def _one_array(y: State) -> Array:
    if isinstance(y, tuple):
        raise ValueError(
            "CorrelatedGaussian is for a measurement that is one array; give a stack `noise.Gaussian((std1, std2))`."
        )
    return jnp.asarray(y)
