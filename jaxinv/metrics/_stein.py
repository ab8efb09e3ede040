"""The kernel Stein discrepancy of samples and a score, and the test that is based on it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import HIGHEST, as_array, check_count, check_key, nan_unless
from .._checks import check_instance
from .._jit import verb
from .._module import Module
from .._types import ArrayLike, BoolLike, Checked, IntLike, Key, State
from ._checks import check_flag, check_set, real_dtype_of
from ._kernels import AbstractRadialKernel, InverseMultiquadric
from ._pairs import median_of_pairs, quadratic_forms, squared_distances

# The median heuristic takes the pairs of so many samples: the median of half a million pairs is exact enough.
_FOR_MEDIAN = 1000


@verb
def kernel_stein_discrepancy(
    samples: State,
    score: Checked[Callable[[Array], Array] | ArrayLike],
    *,
    kernel: Checked[AbstractRadialKernel] = InverseMultiquadric(),  # noqa: B008
    unbiased: BoolLike = True,
) -> Float[Array, ""]:
    """The squared kernel Stein discrepancy of a set of samples and the density of which only the score is known.

    With the score `s = grad log p` of the target and a kernel `k`, it is the mean over pairs `i, j` of

        u(x, y) = s(x) . s(y) k(x, y) + s(x) . grad_y k(x, y) + s(y) . grad_x k(x, y) + trace grad_x grad_y k(x, y)

    whose expectation is 0 if the samples are from `p`, and positive otherwise. It needs no normalisation, no samples of
    the target and no truth, and takes memory for one block of pairs at a time.

    It is nearly insensitive to the weights of modes that lie far apart, since the score near a mode depends on that
    mode alone. It is not invariant under a change of units: entries that vary little dominate, so whiten the samples if
    entries differ much (`x = L x'`, `s'(x') = L^T s(L x')`).

    **Arguments:**

    - `samples`: the samples, `(n, ...)`, real.
    - `score`: the score of the target: a function of one sample, or its values at the samples, of their shape.
    - `kernel`: `InverseMultiquadric()` or `GaussianKernel()`. Without a bandwidth of its own, the median heuristic:
      `bandwidth^2` is the median of the squared distances between all pairs of the samples, or of a thousand of them,
      evenly spaced, if there are more; it is not differentiated. Pass a bandwidth to compare several sets.
    - `unbiased`: whether pairs `i = j` are left out (the U-statistic, whose expectation is exact, and which may be
      negative) or not (the V-statistic, which is never negative); static.

    **Returns:** a scalar; NaN if a sample or a score is not finite.

    **Raises:** `ValueError` for complex samples or integers, scores of another shape, and fewer than two samples of the
    U-statistic.

    **Reference:** Liu, Lee, Jordan, A Kernelized Stein Discrepancy for Goodness-of-fit Tests, 2016; Gorham, Mackey,
    Measuring Sample Quality with Kernels, 2017.

    !!! example
        ```python
        import jax
        from jaxinv import metrics
        samples = jax.random.normal(jax.random.key(0), (500, 8))
        exact = metrics.kernel_stein_discrepancy(samples, lambda x: -x)
        shifted = metrics.kernel_stein_discrepancy(samples + 0.5, lambda x: -x)
        assert abs(exact) < 0.05 < shifted
        ```
    """
    check_flag(unbiased, "unbiased")
    samples, scores = _prepare(samples, score, "kernel_stein_discrepancy", 2 if unbiased else 1)
    ones = jnp.ones((len(samples), 1), samples.dtype)
    return _statistics(samples, scores, kernel, ones, unbiased)[0]


class SteinTest(Module):
    """The result of `stein_test`.

    - `discrepancy`: the squared kernel Stein discrepancy, the U-statistic.
    - `p_value`: the probability of a discrepancy as large, if the samples were independent draws of the target.
    - `floor`: the discrepancy that independent draws exceed in 5 % of cases.
    """

    discrepancy: Float[Array, ""]
    p_value: Float[Array, ""]
    floor: Float[Array, ""]


@verb
def stein_test(
    samples: State,
    score: Checked[Callable[[Array], Array] | ArrayLike],
    *,
    key: Key,
    kernel: Checked[AbstractRadialKernel] = InverseMultiquadric(),  # noqa: B008
    num_draws: IntLike = 1000,
) -> SteinTest:
    """Test whether independent samples are from the density whose score is given, by the kernel Stein discrepancy.

    The wild bootstrap gives the law of the discrepancy of exact draws: the same mean over pairs, each sample with a
    random sign. The samples must be independent: thin a chain first, since the test takes correlated samples for wrong
    ones.

    **Arguments:**

    - `samples`: the samples, `(n, ...)`, real, at least two; some hundreds for power.
    - `score`: as for `kernel_stein_discrepancy`.
    - `key`: a typed key for the signs.
    - `kernel`: as for `kernel_stein_discrepancy`.
    - `num_draws`: the number of draws of the signs, static. The smallest possible p-value is `1 / (num_draws + 1)`.

    **Returns:** a `SteinTest`; its numbers are NaN if a sample or a score is not finite.

    **Raises:** as `kernel_stein_discrepancy`, and for a `num_draws` that is not a positive integer.

    **Reference:** Chwialkowski, Strathmann, Gretton, A Kernel Test of Goodness of Fit, 2016.

    !!! example
        ```python
        import jax
        from jaxinv import metrics
        samples = jax.random.normal(jax.random.key(0), (300, 8))
        exact = metrics.stein_test(samples, lambda x: -x, key=jax.random.key(1))
        narrow = metrics.stein_test(0.75 * samples, lambda x: -x, key=jax.random.key(1))
        print(exact.p_value, narrow.p_value)
        ```
    """
    check_key(key)
    check_count(num_draws, "num_draws")
    samples, scores = _prepare(samples, score, "stein_test", 2)
    signs = jax.random.rademacher(key, (num_draws, len(samples)), samples.dtype).T
    weights = jnp.concatenate([jnp.ones((len(samples), 1), samples.dtype), signs], axis=1)
    values = _statistics(samples, scores, kernel, weights, True)
    finite = jnp.all(jnp.isfinite(values))
    p_value = (1 + jnp.sum(values[1:] >= values[0])) / (num_draws + 1)
    spoilt = nan_unless(finite, samples.dtype)
    # A statistic exceeds it where the p-value is at most .05.
    place = min(num_draws, math.ceil(0.95 * (num_draws + 1))) - 1
    floor = jnp.sort(values[1:])[place]
    return SteinTest(values[0], p_value.astype(samples.dtype) + spoilt, floor + spoilt)


def _prepare(samples: Any, score: Any, metric: str, least: int) -> tuple[Array, Array]:
    """Samples and scores as arrays `(n, d)` of one dtype."""
    samples = check_set(samples, metric, "samples", least)
    scores = jax.vmap(lambda x: jnp.asarray(score(x)))(samples) if callable(score) else as_array(score)
    if scores.shape != samples.shape:
        raise ValueError(
            f"`{metric}` takes a `score` of the shape of the samples: a function of one sample, which returns its "
            f"shape {samples.shape[1:]}, or an array {samples.shape}; got "
            f"{scores.shape[1:] if callable(score) else scores.shape}."
        )
    dtype = real_dtype_of(metric, samples, scores)
    flat = lambda array: array.reshape(len(samples), -1).astype(dtype)
    return flat(samples), flat(scores)


def _statistics(samples: Array, scores: Array, kernel: Any, weights: Array, unbiased: bool) -> Float[Array, " k"]:
    """For each column of weights, the mean over pairs of `w_i w_j u_ij`."""
    kernel = check_instance(kernel, AbstractRadialKernel, "kernel", InverseMultiquadric())
    n, d = samples.shape
    samples = samples - jnp.mean(samples, axis=0, keepdims=True)
    if kernel.bandwidth is None:
        some = samples[:: -(-n // _FOR_MEDIAN)]
        square = jax.lax.stop_gradient(median_of_pairs(squared_distances(some, some))) if len(some) > 1 else 0.0
        square = jnp.where(square == 0, 1, square).astype(samples.dtype)
    else:
        square = jnp.asarray(kernel.bandwidth).astype(samples.dtype) ** 2
    # Lengths are in units of the bandwidth. The products `s . (x - y)` are computed from those of scores and samples.
    x, s, index = samples / jnp.sqrt(square), scores * jnp.sqrt(square), jnp.arange(n)
    along = jnp.sum(s * x, axis=1)

    def block(rows: tuple[Array, ...], columns: tuple[Array, ...]) -> Array:
        (x, s, along_x, i), (y, r, along_y, j) = rows, columns
        product = lambda a, b: jnp.matmul(a, b.T, precision=HIGHEST)
        ratio = squared_distances(x, y)
        value, first, second = kernel.derivatives(ratio)
        # (s(y) - s(x)) . (x - y)
        across = product(x, r) - along_y[None, :] - along_x[:, None] + product(s, y)
        pairs = product(s, r) * value + 2 * first * across - 2 * d * first - 4 * ratio * second
        return jnp.where(i[:, None] == j[None, :], 0, pairs) if unbiased else pairs

    both = (x, s, along, index)
    sums = quadratic_forms(block, both, both, weights, weights)
    return sums / (n * (n - 1) if unbiased else n**2) / square
