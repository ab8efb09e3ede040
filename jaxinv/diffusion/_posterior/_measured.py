"""What a few measurements say of an image whose mean and covariance are known, by a matrix with a row for each."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._moments import Moments
from ._problem import DenseProblem

HIGHEST = jax.lax.Precision.HIGHEST


class Measured(eqx.Module):
    """`b ~ N(B x, B C B^T + I)`.

    - `residual`: `b - B x`, `(m,)`.
    - `products`: `C B^T`, a row for each measurement, `(m, *shape)`.
    - `vectors`, `precisions`: eigenvectors of `B C B^T + I`, and the inverse eigenvalues. That of a direction in which
        `C` is negative is 0: nothing is known of it.
    """

    residual: Array
    products: Array
    vectors: Array
    precisions: Array

    @property
    def num_vjps(self) -> Array:
        return jnp.int32(len(self.residual))

    def log_density(self) -> Array:
        """`log N(b; B x, B C B^T + I)`, without the constant of the noise."""
        z = jnp.matmul(self.residual, self.vectors, precision=HIGHEST)
        known = jnp.where(self.precisions > 0, self.precisions, 1)
        return -0.5 * jnp.sum(self.precisions * z**2 - jnp.log(known))

    def gain_product(self, residual: Array) -> Array:
        """`C B^T (B C B^T + I)^{-1} r`, an image."""
        z = self.precisions * jnp.matmul(residual, self.vectors, precision=HIGHEST)
        return jnp.tensordot(jnp.matmul(self.vectors, z, precision=HIGHEST), self.products, axes=1, precision=HIGHEST)


def measure(problem: DenseProblem, at: Moments) -> Measured:
    """The measurements as they look from `E[x_0 | x_t]` and `Cov[x_0 | x_t]`: a vector-Jacobian product for each."""
    rows = problem.matrix.reshape(-1, *at.image.shape)
    return measured_by(problem, problem.residual(at.image), jax.vmap(at.covariance_product)(rows))


def measured_by(problem: DenseProblem, residual: Array, products: Array) -> Measured:
    """The same, of the products `C B^T`."""
    gram = jnp.matmul(products.reshape(len(products), -1), problem.matrix.T, precision=HIGHEST)
    # The derivative of a network is not symmetric, and has negative eigenvalues, large ones where the noise is; that of
    # an exact denoiser has neither, up to rounding.
    values, vectors = jnp.linalg.eigh(0.5 * (gram + gram.T))
    precisions = jnp.where(values > -0.5, 1 / (1 + jnp.maximum(values, 0)), 0)
    return Measured(residual, products, vectors, precisions)
