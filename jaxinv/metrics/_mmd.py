"""The maximum mean discrepancy of two sets of samples."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Scalar, State
from ._check import check_positive
from ._sets import check_sets


@eqx.filter_jit
def mmd(a: State, b: State, *, bandwidth: Scalar | None = None) -> Float[Array, ""]:
    """The squared maximum mean discrepancy of two sets of samples, the unbiased estimate.

    With the kernel `k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2))`, it is the mean of `k(a_i, a_j)` over `i != j`, plus
    that of `k(b_i, b_j)` over `i != j`, minus twice that of `k(a_i, b_j)` over all pairs. Its expectation is 0 for two
    sets from one law, so that it may be negative. It takes memory for `(n + m)^2` numbers.

    **Arguments:**

    - `a`: samples, `(n, ...)`, real, at least two.
    - `b`: samples, `(m, ...)`, of the same shape each, at least two.
    - `bandwidth`: in the unit of the samples. By default the median heuristic: `bandwidth^2` is the median of the
      squared Euclidean distances between all `(n + m)(n + m - 1) / 2` pairs of the pooled samples (of which the
      derivative is not taken). Give one to compare several pairs of sets.

    **Returns:** a scalar.

    **Raises:** `ValueError` if the samples differ in shape, are complex or integers, if there are fewer than two, or
    if `bandwidth` is not positive.

    Gretton, Borgwardt, Rasch, Schölkopf, Smola, A Kernel Two-Sample Test, 2012.

    !!! example
        ```python
        import jax
        from jaxinv import metrics
        a, b = jax.random.normal(jax.random.key(0), (2, 500, 8))
        assert abs(metrics.mmd(a, b)) < 0.01 < metrics.mmd(a, b + 1)
        ```
    """
    a, b = check_sets(a, b, "mmd", ("a", "b"), least=2)
    n = len(a)
    both = jnp.concatenate([a, b])
    # Around their mean: |x|^2 + |y|^2 - 2 <x, y> loses the digits that |x| has before |x - y|.
    both = both - jnp.mean(both, axis=0, keepdims=True)
    lengths = jnp.sum(both**2, axis=1)
    products = jnp.matmul(both, both.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.maximum(lengths[:, None] + lengths[None, :] - 2 * products, 0)
    if bandwidth is None:
        square = jax.lax.stop_gradient(_median_of_pairs(squares))
        square = jnp.where(square == 0, 1, square)
    else:
        square = check_positive(bandwidth, both.dtype, "bandwidth") ** 2
    kernel = jnp.exp(-squares / (2 * square))
    within = _mean_of_others(kernel[:n, :n]) + _mean_of_others(kernel[n:, n:])
    return within - 2 * jnp.mean(kernel[:n, n:])


def _mean_of_others(kernel: Array) -> Array:
    size = len(kernel)
    return jnp.sum(jnp.where(jnp.eye(size, dtype=bool), 0, kernel)) / (size * (size - 1))


def _median_of_pairs(squares: Array) -> Array:
    size = len(squares)
    above = jnp.arange(size)[:, None] < jnp.arange(size)[None, :]
    ordered = jnp.sort(jnp.where(above, squares, jnp.inf).ravel())
    count = size * (size - 1) // 2
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
