"""Exact denoisers and scores of a Gaussian under a noising process, made by the methods of `Gaussian`."""

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from .._arrays import HIGHEST, as_array, is_concrete
from .._kernels import matrix_product
from .._score import AbstractGradientScore, AbstractProcess
from .._types import Checked, Scalar, State
from .._workarounds import rounded
from ..requirements import Parametric, Requirement, not_negative


def marginal(process: Checked[AbstractProcess], t: Scalar, dtype: Checked[DTypeLike]) -> tuple[Array, Array]:
    """`(scale, std)` at one time.

    **Raises:** `ValueError` for a known time that is negative or after the end of the process. Times before `t_min` are
    allowed, since likelihoods begin there.
    """
    if jnp.ndim(t) != 0:
        raise ValueError(f"A score takes one time; got shape {jnp.shape(t)}. Map over several with `jax.vmap`.")
    last = getattr(process, "t_max", jnp.inf)
    # Times computed in single precision may round past the end.
    if is_concrete(t) and is_concrete(last) and not bool((t >= 0) & (t <= last * (1 + 1e-6))):
        raise ValueError(f"The time must lie between 0 and t_max={float(last):g} of the process; got {t}.")
    scale, std = process.marginal(t)
    return jnp.asarray(scale).astype(dtype), jnp.asarray(std).astype(dtype)


class GaussianDenoiser(Parametric):
    """`E[x_0 | x_t = x] = m + U s^2 scale / (scale^2 s^2 + std^2) U^T (x - scale m)` on one image.

    Here `x_t = scale x_0 + std n`, `m` is the mean, `U` the principal directions and `s` the standard deviations.
    """

    mean: Array
    basis: Array
    deviations: Array
    process: Any

    def requirements(self) -> tuple[Requirement, ...]:
        return (not_negative("deviations", self.deviations),)

    def __call__(self, t: Scalar, x: State) -> Array:
        return _denoise(self, t, x)

    def covariance(self, t: Scalar, x: State) -> Array:
        """`Cov[x_0 | x_t = x]`, `(d, d)`: `std^2 / scale` times the derivative of the denoiser, at every `x`."""
        basis, variances = self._spectrum(t, x)
        return jnp.matmul(basis * variances[None, :], basis.T, precision=HIGHEST)

    def covariance_product(self, t: Scalar, x: State, v: State) -> Array:
        """`Cov[x_0 | x_t = x] v`, of the shape of `v`, without the matrix."""
        v = jnp.asarray(v)
        basis, variances = self._spectrum(t, x)
        coefficients = variances * matrix_product(basis, v.ravel(), transposed=True)
        return matrix_product(basis, coefficients).reshape(v.shape)

    def _spectrum(self, t: Scalar, x: State) -> tuple[Array, Array]:
        dtype = jnp.asarray(x).dtype
        scale, std = marginal(self.process, t, dtype)
        return self.basis.astype(dtype), remaining(self.deviations.astype(dtype) ** 2, scale, std)


def remaining(variances: Array, scale: Array, std: Array) -> Array:
    """The variance of `x_0` given `x_t`, in directions in which `x_0` has `variances`."""
    total = rounded(scale**2 * variances) + rounded(std**2)
    return jnp.where(total > 0, variances * (std**2 / jnp.where(total > 0, total, 1)), 0)


class GaussianScore(AbstractGradientScore):
    """`grad log p_t(x) = -(scale^2 C + std^2 I)^{-1} (x - scale m)` on one image."""

    mean: Array
    basis: Array
    deviations: Array
    process: Any

    def requirements(self) -> tuple[Requirement, ...]:
        return (not_negative("deviations", self.deviations),)

    def __call__(self, t: Scalar, x: State) -> Array:
        x = as_array(x)
        scale, std = marginal(self.process, t, x.dtype)
        mean, basis, deviations = (v.astype(x.dtype) for v in (self.mean, self.basis, self.deviations))
        deviation = (x - rounded(scale * mean)).ravel()
        coefficients = matrix_product(basis, deviation, transposed=True)
        inside = coefficients * _inverse(rounded(scale**2 * deviations**2) + rounded(std**2))
        score = -matrix_product(basis, inside)
        if basis.shape[0] > basis.shape[1]:
            outside = deviation - matrix_product(basis, coefficients)
            score = score - rounded(outside * _inverse(std**2))
        return score.reshape(x.shape)

    def predict(self, t: Scalar, x: State) -> tuple[Array, Array]:
        """`(E[x_0 | x_t = x], E[n | x_t = x])`, each without the cancellation of computing one from the other."""
        return self.denoiser(t, x), self.noise(t, x)

    def denoiser(self, t: Scalar, x: State) -> Array:
        return _denoise(self, t, x)


def _inverse(variance: Array) -> Array:
    """One over a variance: rounded, as a division rounds otherwise in a batch, and infinite for 0."""
    return jnp.where(variance > 0, rounded(1 / jnp.where(variance > 0, variance, 1)), jnp.inf)


def _denoise(oracle: GaussianDenoiser | GaussianScore, t: Scalar, x: State) -> Array:
    x = as_array(x)
    scale, std = marginal(oracle.process, t, x.dtype)
    mean, basis, deviations = (v.astype(x.dtype) for v in (oracle.mean, oracle.basis, oracle.deviations))
    coefficients = matrix_product(basis, (x - rounded(scale * mean)).ravel(), transposed=True)
    # Rounded, so that a denoiser in a batch gives what it gives alone: conjugate gradients amplify the difference.
    total = rounded(scale**2 * deviations**2) + rounded(std**2)
    gain = jnp.where(total > 0, scale * deviations**2 / jnp.where(total > 0, total, 1), 1 / scale)
    return mean + matrix_product(basis, rounded(gain) * coefficients).reshape(x.shape)
