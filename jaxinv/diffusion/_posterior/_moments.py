"""Mean and covariance of an image given its noised state, from one evaluation of the score and its pullback."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._conjugate_gradients import conjugate_gradients
from ..._loop import iterate
from ..._solution import RESULTS
from ..._types import Scalar
from .._model import Model
from ._problem import LinearProblem

HIGHEST = jax.lax.Precision.HIGHEST


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


def moments(model: Model, t: Scalar, x: Array) -> Moments:
    """The moments at one state."""
    image, pullback, noise = jax.vjp(lambda x: model.split(t, x), x, has_aux=True)
    scale, std = model.process.marginal(t)
    return Moments(image, noise, std**2 / scale, pullback)


def innovation(problem: LinearProblem, at: Moments, residual: PyTree[Array], rtol: float, steps: int) -> Any:
    """`u = (B C B* + I)^{-1} r` by conjugate gradients, and the number of steps, a product with `C` each."""
    solved = conjugate_gradients(_measured_covariance, residual, (problem.operator, at), rtol=rtol, max_steps=steps)
    return solved.x, solved.num_steps


def _measured_covariance(u: PyTree[Array], args: Any) -> PyTree[Array]:
    operator, at = args
    return jax.tree.map(jnp.add, u, operator(at.covariance_product(operator.adjoint(u))))


def root_product(at: Moments, z: Array, num_steps: int) -> Array:
    """`C^{1/2} z` by as many steps of the Lanczos process, a product with `C` each.

    Exact if `C` has at most so many different eigenvalues. Those below zero, which the derivative of a network has,
    count as zero.

    **Reference:** Higham, Functions of matrices, 2008, section 13.2.
    """
    size = jnp.sqrt(jnp.sum(z**2))
    first = jnp.where(size > 0, z.ravel() / jnp.where(size > 0, size, 1), 0)
    basis = jnp.zeros((num_steps, first.size), z.dtype)
    state = (first, basis, jnp.zeros(num_steps, z.dtype), jnp.zeros(num_steps, z.dtype))
    (_, basis, diagonal, beside), _, _ = iterate(
        _lanczos, state, (at, z), max_steps=num_steps, exhausted=RESULTS.successful
    )
    beside = beside[:-1]
    matrix = jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
    values, vectors = jnp.linalg.eigh(matrix)
    roots = jnp.sqrt(jnp.maximum(values, 0))
    coefficients = jnp.matmul(vectors, roots * vectors[0], precision=HIGHEST)
    return size * jnp.matmul(coefficients, basis, precision=HIGHEST).reshape(z.shape)


def _lanczos(index: Array, state: Any, args: Any) -> Any:
    vector, basis, diagonal, beside = state
    at, like = args
    basis = basis.at[index].set(vector)
    image = at.covariance_product(vector.reshape(like.shape)).ravel()
    along = jnp.sum(image * vector)
    size = jnp.sqrt(jnp.sum(image**2))
    # Against all of them and twice: in exact arithmetic the last two, once, would do.
    for _ in range(2):
        image = image - jnp.matmul(jnp.matmul(basis, image, precision=HIGHEST), basis, precision=HIGHEST)
    rest = jnp.sqrt(jnp.sum(image**2))
    # What is left of rounding is no new direction.
    new = rest > 1e3 * jnp.finfo(image.dtype).eps * size
    vector = jnp.where(new, image / jnp.where(new, rest, 1), 0)
    state = vector, basis, diagonal.at[index].set(along), beside.at[index].set(jnp.where(new, rest, 0))
    return state, jnp.zeros((), bool), RESULTS.successful
