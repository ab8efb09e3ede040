"""Metrics of sets of samples, against other samples or against modes, and of densities."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._arrays import as_parameter, check_count, check_key
from .._checks import checked
from .._jit import compiled_method
from .._types import Checked, IntLike, Key, Scalar, State
from ._checks import check_positive, check_sets
from ._pairs import median_of_pairs


@compiled_method
def sliced_wasserstein(
    a: State, b: State, *, key: Key, num_slices: int = 200, p: Checked[Scalar] = 1
) -> Float[Array, ""]:
    """The sliced Wasserstein distance of two sets of samples: `(mean over slices of W_p^p)^(1/p)`.

    A slice is the inner product with one random direction of length 1, and `W_p^p` of a slice is the integral of
    `|F_a^{-1}(u) - F_b^{-1}(u)|^p` over the quantiles `u` in [0, 1], exact also for sets of unequal size. It is not 0
    for two sets from one law: compare with that of two sets of exact draws.

    **Arguments:**

    - `a`: the first set of samples, `(n, ...)`, real.
    - `b`: the second set, `(m, ...)`, with samples of the same shape.
    - `key`: a typed key for the directions; use the same one in paired comparisons.
    - `num_slices`: the number of directions; static.
    - `p`: the order, at least 1; a Python number.

    **Returns:** a scalar, in the unit of the samples; it is 0 for a set and itself.

    **Raises:** `ValueError` if the samples differ in shape, are complex or integers, if `num_slices` is not a positive
    integer, or if `p` is less than 1.

    **Reference:** Rabin, Peyré, Delon, Bernot, Wasserstein Barycenter and Its Application to Texture Mixing, 2011.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import metrics
        a = jax.random.normal(jax.random.key(0), (1000, 8))
        shifted = metrics.sliced_wasserstein(a, a[:500] + 3, key=jax.random.key(1))
        assert 0.5 < shifted < 3
        ```
    """
    check_key(key)
    a, b = check_sets(a, b, "sliced_wasserstein", ("a", "b"))
    check_count(num_slices, "num_slices")
    if isinstance(p, bool) or not isinstance(p, int | float) or not 1 <= p < float("inf"):
        raise ValueError(f"`p` must be a Python number of at least 1; got {p!r}.")
    directions = jax.random.normal(key, (a.shape[1], num_slices), a.dtype)
    directions = directions / jnp.sqrt(jnp.sum(directions**2, axis=0, keepdims=True))
    project = lambda x: jnp.sort(jnp.matmul(x, directions, precision=jax.lax.Precision.HIGHEST), axis=0)
    of_a, of_b, widths = _steps(len(a), len(b))
    gaps = jnp.abs(project(a)[of_a] - project(b)[of_b])
    if p == 1:
        return jnp.mean(jnp.sum(gaps * jnp.asarray(widths, a.dtype)[:, None], axis=0))
    # Compute in units of the largest gap, whose power may overflow.
    unit = jax.lax.stop_gradient(jnp.max(gaps))
    unit = jnp.where(unit == 0, 1, unit)
    power = jnp.mean(jnp.sum((gaps / unit) ** p * jnp.asarray(widths, a.dtype)[:, None], axis=0))
    same = power == 0
    return jnp.where(same, 0, unit * jnp.where(same, 1, power) ** (1 / p))


def _steps(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Both quantile functions are steps, of widths 1/n and 1/m. Both are constant between the jumps of either, which are
    # integers in units of 1/(n m).
    starts = np.unique(np.concatenate([np.arange(n, dtype=np.int64) * m, np.arange(m, dtype=np.int64) * n]))
    widths = np.diff(starts, append=n * m) / (n * m)
    return starts // m, starts // n, widths


@compiled_method
def mmd(a: State, b: State, *, bandwidth: Scalar | None = None) -> Float[Array, ""]:
    """The squared maximum mean discrepancy of two sets of samples, the unbiased estimate.

    With the kernel `k(x, y) = exp(-|x - y|^2 / (2 bandwidth^2))`, it is the mean of `k(a_i, a_j)` over `i != j`, plus
    that of `k(b_i, b_j)` over `i != j`, minus twice that of `k(a_i, b_j)` over all pairs. Its expectation is 0 for two
    sets from one law, so that it may be negative. It takes memory for `(n + m)^2` numbers.

    **Arguments:**

    - `a`: the first set of at least two samples, `(n, ...)`, real.
    - `b`: the second set of at least two, `(m, ...)`, with samples of the same shape.
    - `bandwidth`: the bandwidth of the kernel, in the unit of the samples. By default the median heuristic:
      `bandwidth^2` is the median of the squared Euclidean distances between all `(n + m)(n + m - 1) / 2` pairs of the
      pooled samples (and is not differentiated). Pass a value to compare several pairs of sets.

    **Returns:** a scalar.

    **Raises:** `ValueError` if the samples differ in shape, are complex or integers, if there are fewer than two, or
    if `bandwidth` is not positive.

    **Reference:** Gretton, Borgwardt, Rasch, Schölkopf, Smola, A Kernel Two-Sample Test, 2012.

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
    # Centre the samples, since |x|^2 + |y|^2 - 2 <x, y> loses digits if |x| is large compared with |x - y|.
    both = both - jnp.mean(both, axis=0, keepdims=True)
    lengths = jnp.sum(both**2, axis=1)
    products = jnp.matmul(both, both.T, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.maximum(lengths[:, None] + lengths[None, :] - 2 * products, 0)
    if bandwidth is None:
        square = jax.lax.stop_gradient(median_of_pairs(squares))
        square = jnp.where(square == 0, 1, square)
    else:
        square = check_positive(bandwidth, both.dtype, "bandwidth") ** 2
    kernel = jnp.exp(-squares / (2 * square))
    within = _mean_of_others(kernel[:n, :n]) + _mean_of_others(kernel[n:, n:])
    return within - 2 * jnp.mean(kernel[:n, n:])


def _mean_of_others(kernel: Array) -> Array:
    size = len(kernel)
    return jnp.sum(jnp.where(jnp.eye(size, dtype=bool), 0, kernel)) / (size * (size - 1))


@compiled_method
def mode_weights(samples: State, means: State) -> Float[Array, " k"]:
    """The share of the samples that is nearest to each of `k` means, in Euclidean distance.

    Half the sum of its absolute differences to the weights of the exact law is the total variation of the mode
    weights.

    **Arguments:**

    - `samples`: the samples, `(n, ...)`, real.
    - `means`: the means of the modes, `(k, ...)`, each of the shape of a sample.

    **Returns:** shares with sum 1, `(k,)`; NaN if a sample or a mean is not finite. Among means at the same distance
    the first one counts.

    **Raises:** `ValueError` if the shapes differ, or for complex numbers or integers.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import metrics
        shares = metrics.mode_weights(jnp.array([[0.1], [0.2], [0.9], [-3.0]]), jnp.array([[0.0], [1.0]]))
        assert jnp.allclose(shares, jnp.array([0.75, 0.25]))
        ```
    """
    samples, means = check_sets(samples, means, "mode_weights", ("samples", "means"))
    finite = jnp.all(jnp.isfinite(samples)) & jnp.all(jnp.isfinite(means))
    centre = jnp.mean(means, axis=0, keepdims=True)
    samples, means = samples - centre, means - centre
    products = jnp.matmul(samples, means.T, precision=jax.lax.Precision.HIGHEST)
    nearest = jnp.argmin(jnp.sum(means**2, axis=1)[None, :] - 2 * products, axis=1)
    counts = jnp.sum(nearest[:, None] == jnp.arange(len(means))[None, :], axis=0)
    return jnp.where(finite, counts.astype(samples.dtype) / len(samples), jnp.nan)


@checked()
def bits_per_dim(
    negative_log_likelihood: Checked[Scalar],
    size: Checked[int | tuple[int, ...]],
    *,
    data_range: Checked[Scalar] = 1.0,
    levels: IntLike = 256,
) -> Float[Array, "..."]:
    """A negative log-likelihood of dequantised images, in bits per dimension: `nll / (size log 2) + log2(levels / r)`.

    The second term converts a density on images of the range `r` to one on the grey values: for images of 8 bits it is
    8 in [0, 1] and 7 in [-1, 1]. If the images were dequantised by uniform noise (`data.dequantise`), the mean over
    them is an upper bound of the bits per dimension of the discrete images. The uniform density has 8.

    **Arguments:**

    - `negative_log_likelihood`: that of the density of images in their own unit, in nats per image; of any shape.
    - `size`: the number of entries of one image, `h w c`, or its shape.
    - `levels`: the number of grey values, a Python integer.
    - `data_range`: `r`, the range of the images: 1 for [0, 1], 2 for [-1, 1]; a Python number.

    **Returns:** bits per dimension, of the shape of `negative_log_likelihood`.

    **Raises:** `ValueError` if `size`, `data_range` or `levels` is not positive.

    **Reference:** Theis, van den Oord, Bethge, A Note on the Evaluation of Generative Models, 2016.

    !!! example
        ```python
        from jaxinv import metrics
        assert metrics.bits_per_dim(0.0, (28, 28, 1)) == 8  # the uniform density on [0, 1]
        ```
    """
    size = math.prod(size) if isinstance(size, tuple | list) else size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"`size` must be the number of entries of an image, or its shape; got {size!r}.")
    if isinstance(data_range, bool) or not isinstance(data_range, int | float) or not 0 < data_range < math.inf:
        raise ValueError(f"`data_range` must be a positive Python number, such as 1 for [0, 1]; got {data_range!r}.")
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
        raise ValueError(f"`levels` must be a positive Python integer, such as 256 for 8 bits; got {levels!r}.")
    # Half precision would keep three digits, so the products are in single precision at least.
    return as_parameter(negative_log_likelihood) / (size * math.log(2)) + math.log2(levels / data_range)
