"""What a few measurements say of an image whose mean and covariance are known, by a matrix with a row for each."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array

from ._moments import Moments
from ._problem import DenseProblem

HIGHEST = jax.lax.Precision.HIGHEST


class Measured(eqx.Module):
    """`b ~ N(B x, B C B^T + I)`.

    - `residual`: `b - B x`, `(m,)`.
    - `products`: `C B^T`, a row for each measurement, `(m, *shape)`.
    - `triangle`: the lower triangular factor of `B C B^T + I`.
    """

    residual: Array
    products: Array
    triangle: Array

    @property
    def num_vjps(self) -> Array:
        return jnp.int32(len(self.residual))

    def log_density(self) -> Array:
        """`log N(b; B x, B C B^T + I)`, without the constant of the noise."""
        z = solve_triangular(self.triangle, self.residual, lower=True)
        return -0.5 * jnp.sum(z**2) - jnp.sum(jnp.log(jnp.diagonal(self.triangle)))

    def gain_product(self, residual: Array) -> Array:
        """`C B^T (B C B^T + I)^{-1} r`, an image."""
        return jnp.tensordot(cho_solve((self.triangle, True), residual), self.products, axes=1, precision=HIGHEST)


def measure(problem: DenseProblem, at: Moments) -> Measured:
    """The measurements as they look from `E[x_0 | x_t]` and `Cov[x_0 | x_t]`: a vector-Jacobian product for each."""
    rows = problem.matrix.reshape(-1, *at.image.shape)
    return measured_by(problem, problem.residual(at.image), jax.vmap(at.covariance_product)(rows))


def measured_by(problem: DenseProblem, residual: Array, products: Array) -> Measured:
    """The same, of the products `C B^T`."""
    gram = jnp.matmul(products.reshape(len(products), -1), problem.matrix.T, precision=HIGHEST)
    # The derivative of a network is not symmetric, and that of an exact denoiser only up to rounding.
    matrix = jnp.eye(len(gram), dtype=gram.dtype) + 0.5 * (gram + gram.T)
    return Measured(residual, products, jnp.linalg.cholesky(matrix))
