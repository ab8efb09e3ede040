"""Mean and covariance of an image given its noised state, and the innovation of a measurement, for the guidances."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import HIGHEST
from ..._krylov import Krylov, flatten
from ..._loop import iterate
from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import PyTree, Scalar
from .._processes._process import noise_to_signal
from ._problem import DenseProblem, LinearProblem

# An eigenvalue of `B C B*` below this is negative by more than rounding; the unit is that of the noise.
_NEGATIVE = -0.5
# At more noise than this, for data of unit variance, no image that a step draws changes the law of its result much. The
# error of a network's derivative, times the variance of that noise, is larger there than the covariance of the data.
_MUCH_NOISE = 10.0


class Moments(eqx.Module):
    """`E[x_0 | x_t]`, `E[n | x_t]`, and the covariance `C = std^2 / scale` times the derivative of the first.

    - `pullback`: the vector-Jacobian product of the first.
    - `noisy`: whether the state has so much noise that a solver stops where it finds that `C` is no covariance.
    """

    image: Array
    noise: Array
    factor: Array
    pullback: Any
    noisy: Array | bool = False

    def covariance_product(self, v: Array) -> Array:
        """`C v`: one vector-Jacobian product."""
        return self.factor * self.pullback(v)[0]

    def tabulated(self) -> "Moments":
        """The same moments with `C` as a matrix, by a vector-Jacobian product for each pixel: others then cost none."""
        basis = jnp.eye(self.image.size, dtype=self.image.dtype).reshape(-1, *self.image.shape)
        rows = jax.vmap(self.covariance_product)(basis)
        pullback = jax.tree_util.Partial(_combine, rows)
        return Moments(self.image, self.noise, jnp.ones_like(self.factor), pullback, self.noisy)


def _combine(rows: Array, v: Array) -> tuple[Array]:
    return (jnp.tensordot(v.ravel(), rows, axes=1, precision=HIGHEST),)


def moments(score: AbstractScore, t: Scalar, x: Array) -> Moments:
    """The moments at one state."""
    image, pullback, noise = jax.vjp(lambda x: score.predict(t, x), x, has_aux=True)
    scale, std = score.process.marginal(t)
    return Moments(image, noise, std**2 / scale, pullback, noise_to_signal(score.process, t) > _MUCH_NOISE)


def gain_product(
    problem: LinearProblem, at: Moments, residual: PyTree[Array], rtol: Scalar, num_steps: int
) -> tuple[Array, Array, RESULTS]:
    """`C B* (B C B* + I)^{-1} r` by the Lanczos process.

    With a positive `C` it equals the same number of steps of conjugate gradients in exact arithmetic, and like them it
    stops when the residual of the system is `rtol` of `r`. The derivative of a network has negative eigenvalues, large
    ones at large noise, at which conjugate gradients break down; here a direction in which `C` is negative does not
    contribute to the result, and where the state is `noisy` the first one ends the process.

    **Returns:** an image; the number of steps, each of which is one product with `C`; and the code, which is not
    successful if a product or the operator is not finite. Exhausting the steps is no failure.
    """
    flat, unravel = flatten(residual)
    empty = jnp.zeros((num_steps, at.image.size), flat.dtype)
    tolerance = jnp.asarray(rtol, flat.dtype)

    def step(index: Array, state: Any, args: Any) -> Any:
        krylov, images, before, left = state
        problem, at, tolerance = args
        image = at.covariance_product(problem.operator.adjoint(unravel(krylov.vector)))
        product, _ = flatten(problem.operator(image))
        krylov, exhausted = krylov.extend(index, product)
        # A pivot of the tridiagonal `B C B* + I`, which may be 0 if `C` is not positive, and the norm of the residual.
        diagonal, beside = krylov.diagonal[index], krylov.beside[index]
        pivot = 1 + diagonal - before
        pivot = jnp.where(pivot == 0, jnp.finfo(pivot.dtype).eps, pivot)
        left = left * beside / jnp.abs(pivot)
        state = (krylov, images.at[index].set(image.ravel()), beside**2 / pivot, left)
        return state, exhausted | (left <= tolerance) | (at.noisy & (pivot < 0)), RESULTS.successful

    start = Krylov.start(flat, num_steps)
    zero, one = jnp.zeros((), flat.dtype), jnp.ones((), flat.dtype)
    (krylov, images, _, _), taken, code = iterate(
        step, (start, empty, zero, one), (problem, at, tolerance), max_steps=num_steps, exhausted=RESULTS.successful
    )
    inverse = lambda value: jnp.where(value > _NEGATIVE, 1 / (1 + jnp.maximum(value, 0)), 0)
    coefficients = krylov.function(inverse, taken)
    image = jnp.matmul(coefficients, images, precision=HIGHEST).reshape(at.image.shape)
    return image, taken, code


def root_product(at: Moments, z: Array, num_steps: int) -> tuple[Array, Array, RESULTS]:
    """`C^{1/2} z` by at most `num_steps` steps of the Lanczos process.

    It is exact if `C` has at most that many different eigenvalues. Negative ones, as the derivative of a network has,
    count as zero, and where the state is `noisy` a vector along which `C` is negative ends the process.

    **Returns:** an image; the number of steps, each of which is one product with `C`; and the code.

    **Reference:** Higham, Functions of matrices, 2008, section 13.2.
    """

    def step(index: Array, krylov: Krylov, at: Moments) -> Any:
        product = at.covariance_product(krylov.vector.reshape(z.shape)).ravel()
        krylov, exhausted = krylov.extend(index, product)
        return krylov, exhausted | (at.noisy & (krylov.diagonal[index] < 0)), RESULTS.successful

    start = Krylov.start(z.ravel(), num_steps)
    krylov, taken, code = iterate(step, start, at, max_steps=num_steps, exhausted=RESULTS.successful)
    coefficients = krylov.function(lambda value: jnp.sqrt(jnp.maximum(value, 0)), taken)
    return jnp.matmul(coefficients, krylov.basis, precision=HIGHEST).reshape(z.shape), taken, code


class Innovation(eqx.Module):
    """The innovation of a few measurements at a mean and a covariance of the image: `b ~ N(B x, B C B^T + I)`.

    - `residual`: `b - B x`, `(m,)`.
    - `products`: `C B^T`, a row for each measurement, `(m, *shape)`.
    - `vectors`, `precisions`: the eigenvectors of `B C B^T + I`, and the inverses of its eigenvalues; 0 for a direction
        in which `C` is negative, which is then ignored.
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


def innovation_at(problem: DenseProblem, at: Moments) -> Innovation:
    """The innovation at `E[x_0 | x_t]` and `Cov[x_0 | x_t]`, by one vector-Jacobian product for each measurement."""
    rows = problem.matrix.reshape(-1, *at.image.shape)
    return innovation_from(problem, problem.residual(at.image), jax.vmap(at.covariance_product)(rows))


def innovation_from(problem: DenseProblem, residual: Array, products: Array) -> Innovation:
    """The innovation for known products `C B^T`."""
    gram = jnp.matmul(products.reshape(len(products), -1), problem.matrix.T, precision=HIGHEST)
    # The derivative of a network is not symmetric, and has negative eigenvalues, large ones at large noise; that of an
    # exact denoiser is symmetric and positive, up to rounding.
    values, vectors = jnp.linalg.eigh(0.5 * (gram + gram.T))
    precisions = jnp.where(values > _NEGATIVE, 1 / (1 + jnp.maximum(values, 0)), 0)
    return Innovation(residual, products, vectors, precisions)
