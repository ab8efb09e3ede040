"""The Wasserstein-2 distance of two Gaussians, in closed form."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import HIGHEST, as_array
from .._checks import checked
from .._jit import compiled_method
from .._types import State
from ._checks import real_dtype_of


@checked()
def wasserstein2_gaussian(mean_a: State, cov_a: State, mean_b: State, cov_b: State) -> Float[Array, ""]:
    """The Wasserstein-2 distance of `N(mean_a, cov_a)` and `N(mean_b, cov_b)`; the distance, not its square.

        W^2 = |mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a^{1/2} cov_b cov_a^{1/2})^{1/2})

    The trace is computed as the minimum of `|cov_a^{1/2} - cov_b^{1/2} Q|^2` over orthogonal `Q`, which it equals: the
    three traces cancel for laws that are close, and would lose half of the digits of the distance.

    **Arguments:**

    - `mean_a`, `mean_b`: the means, real, of one shape with `d` entries.
    - `cov_a`, `cov_b`: the covariances, `(d, d)`, symmetric and positive semi-definite; they may be singular.

    **Returns:** a scalar, in the unit of the means. For a law and itself it is 0 up to rounding, `eps` times the root
    of the trace. It is differentiable where both covariances are invertible.

    **Raises:** `ValueError` if the shapes do not match, or, where values are known, for a covariance that is not
    symmetric or has a negative eigenvalue beyond rounding.

    **Reference:** Dowson, Landau, The Fréchet Distance between Multivariate Normal Distributions, 1982.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import metrics
        distance = metrics.wasserstein2_gaussian(jnp.zeros(2), jnp.eye(2), jnp.array([3.0, 4.0]), jnp.eye(2))
        assert abs(distance - 5) < 1e-5
        ```
    """
    arrays = [as_array(v) for v in (mean_a, cov_a, mean_b, cov_b)]
    dtype = real_dtype_of("wasserstein2_gaussian", *arrays)
    mean_a, cov_a, mean_b, cov_b = (v.astype(dtype) for v in arrays)
    square = (mean_a.size, mean_a.size)
    if mean_a.shape != mean_b.shape or cov_a.shape != square or cov_b.shape != square or mean_a.size == 0:
        raise ValueError(
            "`wasserstein2_gaussian` takes two means of one shape, of d entries, and two covariances of shape (d, d); "
            f"got means of shapes {mean_a.shape} and {mean_b.shape} and covariances of shapes {cov_a.shape} and "
            f"{cov_b.shape}."
        )
    _check_covariance(cov_a, "cov_a")
    _check_covariance(cov_b, "cov_b")
    return _distance(mean_a, cov_a, mean_b, cov_b)


@compiled_method
def _distance(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> Array:
    root_a, root_b = _root(cov_a), _root(cov_b)
    # At the minimum the derivative in Q is zero, so the decomposition need not be differentiated.
    cross = jax.lax.stop_gradient(jnp.matmul(root_b, root_a, precision=HIGHEST))
    left, _, right = jnp.linalg.svd(cross)
    turned = jnp.matmul(root_b, jnp.matmul(left, right, precision=HIGHEST), precision=HIGHEST)
    total = jnp.sum((mean_a - mean_b) ** 2) + jnp.sum((root_a - turned) ** 2)
    same = total == 0
    return jnp.where(same, 0, jnp.sqrt(jnp.where(same, 1, total)))


@jax.custom_jvp
def _root(covariance: Array) -> Array:
    values, vectors = _spectrum(covariance)
    return jnp.matmul(vectors * jnp.sqrt(values)[None, :], vectors.T, precision=HIGHEST)


@_root.defjvp
def _root_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # Unlike the eigenvectors, which JAX would differentiate, the root is smooth where eigenvalues are equal.
    values, vectors = _spectrum(primals[0])
    stds = jnp.sqrt(values)
    sums = stds[:, None] + stds[None, :]
    turn = lambda a, b, c: jnp.matmul(jnp.matmul(a, b, precision=HIGHEST), c, precision=HIGHEST)
    inner = turn(vectors.T, (tangents[0] + tangents[0].T) / 2, vectors)
    inner = jnp.where(sums > 0, inner / jnp.where(sums > 0, sums, 1), 0)
    root = jnp.matmul(vectors * stds[None, :], vectors.T, precision=HIGHEST)
    return root, turn(vectors, inner, vectors.T)


def _spectrum(covariance: Array) -> tuple[Array, Array]:
    values, vectors = jnp.linalg.eigh((covariance + covariance.T) / 2)
    floor = 10 * jnp.finfo(values.dtype).eps * values[-1]
    return jnp.where(values > floor, values, 0), vectors


def _check_covariance(covariance: Array, name: str) -> None:
    if isinstance(covariance, jax.core.Tracer):
        return
    largest = float(jnp.max(jnp.abs(covariance)))
    gap = float(jnp.max(jnp.abs(covariance - covariance.T)))
    if gap > 1e-3 * largest:
        raise ValueError(f"`{name}` is not symmetric: it differs from its transpose by up to {gap:.3g}.")
    least = float(jnp.linalg.eigvalsh(covariance)[0])
    if least < -1e-3 * largest:
        raise ValueError(f"`{name}` is not positive semi-definite: its least eigenvalue is {least:.3g}.")
