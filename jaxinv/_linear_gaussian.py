"""The linear-Gaussian update in square-root form, for the oracles and whatever eliminates a Gaussian latent."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.typing import DTypeLike
from jaxtyping import Array

from ._arrays import HIGHEST
from ._solution import RESULTS
from ._types import Checked, State
from .likelihood import Likelihood, prepare, whiten
from .noise import AbstractGaussianNoise


class Observation(eqx.Module):
    """A measurement of the latent of a Gaussian prior, `b = B z + n` with `z` and `n` standard normal.

    - `design`: the whitened operator on latents `B`, `(m, r)`.
    - `data`: the whitened residual at the mean `b`, `(m,)`.
    - `triangle`: the lower triangular `L` with `L L^T = I + B B^T`, `(m, m)`, if `m <= r`, else `I + B^T B`, `(r, r)`.
    - `noise_constant`: the constant of the negative log-likelihood of the noise.
    """

    design: Array
    data: Array
    triangle: Array
    noise_constant: Array

    def latent_mean(self) -> Array:
        """`E[z | b]`, `(r,)`."""
        if self._in_measurements():
            return jnp.matmul(self.design.T, self._solve(self.data), precision=HIGHEST)
        return self._solve(jnp.matmul(self.design.T, self.data, precision=HIGHEST))

    def gain(self) -> Array:
        """`K`, `(r, m)`, with `E[z | b] = K b`."""
        return self._solve(self.design).T if self._in_measurements() else self._solve(self.design.T)

    def latent_factor(self, factor: Array) -> Array:
        """`F G` with `G G^T = Cov[z | b] = (I + B^T B)^{-1}`, `(d, r)`."""
        if not self._in_measurements():
            return solve_triangular(self.triangle, factor.T, lower=True).T
        # Andrews' square root: G = I - B^T L^{-T} (L + I)^{-1} B.
        identity = jnp.eye(self.triangle.shape[0], dtype=self.triangle.dtype)
        gain = solve_triangular(self.triangle + identity, self.design, lower=True)
        gain = solve_triangular(self.triangle, gain, lower=True, trans=1)
        projected = jnp.matmul(factor, self.design.T, precision=HIGHEST)
        return factor - jnp.matmul(projected, gain, precision=HIGHEST)

    def log_evidence(self) -> Array:
        """`log p(y)`."""
        if self._in_measurements():
            square = jnp.sum(solve_triangular(self.triangle, self.data, lower=True) ** 2)
        else:
            # Use the residual at the mean, since `|b|^2 - |L^{-1} B^T b|^2` is a difference of large numbers.
            z = self.latent_mean()
            residual = self.data - jnp.matmul(self.design, z, precision=HIGHEST)
            square = jnp.sum(residual**2) + jnp.sum(z**2)
        return -0.5 * square - jnp.sum(jnp.log(jnp.diagonal(self.triangle))) - self.noise_constant

    def _solve(self, v: Array) -> Array:
        return jax.scipy.linalg.cho_solve((self.triangle, True), v)

    def _in_measurements(self) -> bool:
        return self.design.shape[0] <= self.design.shape[1]


def prepare_update(shape: tuple[int, ...], likelihood: Likelihood, y: State) -> tuple[Likelihood, State, Array, Any]:
    """The prepared likelihood and measurement, whether the preparation failed, and the dtype; for every posterior."""
    if not isinstance(likelihood.noise, AbstractGaussianNoise):
        raise ValueError(
            f"The posterior is exact for Gaussian noise only; got {type(likelihood.noise).__name__}. "
            "`classical.gaussian` takes it, by the Gaussian approximation of the counts."
        )
    domain = likelihood.operator.domain
    if tuple(domain.shape) != shape:
        raise ValueError(
            f"The prior is on images of shape {shape}, the operator takes images of shape {tuple(domain.shape)}."
        )
    likelihood, y, result = prepare(likelihood, y)
    return likelihood, y, result != RESULTS.successful, jnp.finfo(domain.dtype).dtype


def observe(likelihood: Likelihood, y: State, mean: Array, factor: Array) -> Observation:
    """A prepared measurement of `x = mean + factor z` as an observation of the latent `z`."""
    whitened, data = whiten(likelihood, y, "the exact posterior")
    image_of = lambda column: real_rows(whitened(column.reshape(mean.shape)))
    # Apply the operator to the mean as one more column, so that it stands once in a compiled program.
    columns = jnp.concatenate([factor, mean.reshape(-1, 1)], axis=1)
    measured = jax.vmap(image_of, in_axes=1, out_axes=1)(columns)
    design, data = measured[:, :-1], real_rows(data) - measured[:, -1]
    return Observation(design, data, triangle(design), _noise_constant(likelihood, y))


def dense(
    likelihood: Likelihood, y: State, shape: tuple[int, ...], dtype: Checked[DTypeLike]
) -> tuple[Array, Array, Array]:
    """The matrix `H`, `(m, d)`, the data `b`, and the constant, with `-log p(y | x) = 1/2 |b - H x|^2 + constant`."""
    whitened, data = whiten(likelihood, y, "the exact posterior")
    image_of = lambda column: real_rows(whitened(column.reshape(shape)))
    rows = jax.vmap(image_of, out_axes=1)(jnp.eye(math.prod(shape), dtype=dtype))
    return rows, real_rows(data), _noise_constant(likelihood, y)


def triangle(design: Array) -> Array:
    """The lower triangular `L` of an `Observation`."""
    wide = design.T if design.shape[0] <= design.shape[1] else design
    # Compute L by a QR decomposition of B stacked on the identity: forming B B^T would square the condition number.
    stacked = jnp.concatenate([wide, jnp.eye(wide.shape[1], dtype=wide.dtype)])
    upper = jnp.linalg.qr(stacked, mode="r")
    return upper.T * jnp.where(jnp.diagonal(upper) < 0, -1, 1).astype(upper.dtype)[None, :]


def condition(observation: Observation, mean: Array, factor: Array) -> tuple[Array, Array]:
    """Mean and factor of the posterior of `x = mean + factor z`."""
    step = jnp.matmul(factor, observation.latent_mean(), precision=HIGHEST)
    return mean + step.reshape(mean.shape), observation.latent_factor(factor)


def _noise_constant(likelihood: Likelihood, y: State) -> Array:
    return likelihood.noise.negative_log_likelihood(y, y, likelihood.operator.measured)


def real_rows(y: State) -> Array:
    """The entries of a measurement in one vector; a complex measurement of a real image counts as two real ones."""
    leaves = [leaf.ravel() for leaf in jax.tree.leaves(y)]
    return jnp.concatenate(
        [part for leaf in leaves for part in ((leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,))]
    )
