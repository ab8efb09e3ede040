"""Mean and covariance of an image given its noised state, from one evaluation of the score and its pullback."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._loop import iterate
from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import Scalar
from ._krylov import Krylov, flatten
from ._problem import LinearProblem

HIGHEST = jax.lax.Precision.HIGHEST
# An eigenvalue below is not the rounding of 0, in units of the noise.
_NEGATIVE = -0.5


class Moments(eqx.Module):
    """`E[x_0 | x_t]`, `E[n | x_t]`, and the covariance `C = std^2 / scale` times the derivative of the first.

    - `pullback`: that of the first.
    """

    image: Array
    noise: Array
    factor: Array
    pullback: Any

    def covariance_product(self, v: Array) -> Array:
        """`C v`: one vector-Jacobian product."""
        return self.factor * self.pullback(v)[0]


def moments(score: AbstractScore, t: Scalar, x: Array) -> Moments:
    """The moments at one state."""
    image, pullback, noise = jax.vjp(lambda x: score.predict(t, x), x, has_aux=True)
    scale, std = score.process.marginal(t)
    return Moments(image, noise, std**2 / scale, pullback)


def gain_product(
    problem: LinearProblem, at: Moments, residual: PyTree[Array], rtol: float, num_steps: int
) -> tuple[Array, Array]:
    """`C B* (B C B* + I)^{-1} r`, an image, by the Lanczos process, and its steps, a product with `C` each.

    In exact arithmetic and with a positive `C` what as many steps of conjugate gradients give, and like those it stops
    where what is left of `r` is `rtol` of it. The derivative of a network has negative eigenvalues, large ones where
    the noise is, at which those break down: a direction in which `C` is negative tells nothing here.
    """
    flat, unravel = flatten(residual)
    empty = jnp.zeros((num_steps, at.image.size), flat.dtype)

    def step(index: Array, state: Any, args: Any) -> Any:
        krylov, images, before, left = state
        problem, at = args
        image = at.covariance_product(problem.operator.adjoint(unravel(krylov.vector)))
        product, _ = flatten(problem.operator(image))
        krylov, exhausted = krylov.extend(index, product)
        # A pivot of the tridiagonal `B C B* + I`, by chance 0 if `C` is not positive, and the norm of the residual.
        diagonal, beside = krylov.diagonal[index], krylov.beside[index]
        pivot = 1 + diagonal - before
        pivot = jnp.where(pivot == 0, jnp.finfo(pivot.dtype).eps, pivot)
        left = left * beside / jnp.abs(pivot)
        state = (krylov, images.at[index].set(image.ravel()), beside**2 / pivot, left)
        return state, exhausted | (left <= rtol), RESULTS.successful

    start = Krylov.start(flat, num_steps)
    zero, one = jnp.zeros((), flat.dtype), jnp.ones((), flat.dtype)
    (krylov, images, _, _), taken, _ = iterate(
        step, (start, empty, zero, one), (problem, at), max_steps=num_steps, exhausted=RESULTS.successful
    )
    inverse = lambda value: jnp.where(value > _NEGATIVE, 1 / (1 + jnp.maximum(value, 0)), 0)
    coefficients = krylov.function(inverse, taken)
    image = jnp.matmul(coefficients, images, precision=HIGHEST).reshape(at.image.shape)
    return image, taken


def root_product(at: Moments, z: Array, num_steps: int) -> tuple[Array, Array]:
    """`C^{1/2} z` by at most so many steps of the Lanczos process, a product with `C` each, and how many.

    Exact if `C` has at most so many different eigenvalues. Those below zero, which the derivative of a network has,
    count as zero.

    **Reference:** Higham, Functions of matrices, 2008, section 13.2.
    """

    def step(index: Array, krylov: Krylov, at: Moments) -> Any:
        product = at.covariance_product(krylov.vector.reshape(z.shape)).ravel()
        krylov, exhausted = krylov.extend(index, product)
        return krylov, exhausted, RESULTS.successful

    start = Krylov.start(z.ravel(), num_steps)
    krylov, taken, _ = iterate(step, start, at, max_steps=num_steps, exhausted=RESULTS.successful)
    coefficients = krylov.function(lambda value: jnp.sqrt(jnp.maximum(value, 0)), taken)
    return jnp.matmul(coefficients, krylov.basis, precision=HIGHEST).reshape(z.shape), taken
