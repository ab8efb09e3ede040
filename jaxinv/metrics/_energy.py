"""The continuous ranked probability score, and the energy distance: the same integral, of numbers and of vectors."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import nan_unless, safe_sqrt
from .._jit import compiled_method
from .._types import BoolLike, State
from ._checks import check_flag, check_samples, check_sets
from ._pairs import quadratic_forms


@compiled_method
def crps(samples: State, truth: State, *, unbiased: BoolLike = True) -> Float[Array, ""]:
    """The continuous ranked probability score of posterior samples, the mean over the entries of one true image.

    For one entry with the value `x`, and `X`, `X'` independent draws of the posterior, it is
    `E|X - x| - 1/2 E|X - X'|`, the squared distance of the posterior's distribution function to that of the truth. It
    is in the unit of the image, and smaller is better: on average over problems, no posterior has a smaller one than
    the exact posterior. For a single sample it is the absolute error.

    **Arguments:**

    - `samples`: samples of the posterior of one problem, `(n, *shape)`, real.
    - `truth`: the true image of that problem, of shape `shape`.
    - `unbiased`: whether the second mean is over pairs of different samples (the "fair" score, whose expectation does
      not depend on `n`; it needs two samples, and may be slightly negative), or over all `n^2` pairs (the score of the
      empirical law of the samples); static.

    **Returns:** a scalar; NaN if a sample or the truth is not finite.

    **Raises:** `ValueError` if the shapes do not match, for complex numbers or integers, and for one sample where
    `unbiased`.

    **Reference:** Gneiting, Raftery, Strictly Proper Scoring Rules, Prediction, and Estimation, 2007; Ferro, Fair
    scores for ensemble forecasts, 2014.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import metrics
        samples = jax.random.normal(jax.random.key(0), (2000, 1))
        score = metrics.crps(samples, jnp.zeros(1))
        assert abs(score - 0.2337) < 0.02  # (sqrt(2) - 1) / sqrt(pi) for the standard normal and the truth 0
        ```
    """
    check_flag(unbiased, "unbiased")
    samples, truth = check_samples(samples, truth, "crps")
    n = len(samples)
    if unbiased and n < 2:
        raise ValueError("`crps` needs at least two samples for its unbiased estimate; take `unbiased=False` for one.")
    errors = samples - truth[None]
    finite = jnp.all(jnp.isfinite(errors))
    # Half the sum over pairs of |x_i - x_j| is, of sorted numbers, the sum of (2 i - n - 1) x_(i), i = 1, ..., n.
    factors = jnp.arange(1 - n, n, 2, dtype=errors.dtype).reshape(-1, *[1] * truth.ndim)
    spread = jnp.sum(factors * jnp.sort(errors, axis=0), axis=0) / (n * (n - 1) if unbiased else n**2)
    return jnp.mean(jnp.mean(jnp.abs(errors), axis=0) - spread) + nan_unless(finite, errors.dtype)


@compiled_method
def energy_distance(a: State, b: State, *, unbiased: BoolLike = True) -> Float[Array, ""]:
    """The energy distance of two sets of samples, `2 E|X - Y| - E|X - X'| - E|Y - Y'|` in Euclidean norms.

    It is 0 only for equal laws, has no parameter, and is in the unit of the samples. It takes memory for one block of
    pairs at a time. `scipy.stats.energy_distance` is the square root of the estimate with `unbiased=False`.

    **Arguments:**

    - `a`: the first set of samples, `(n, ...)`, real.
    - `b`: the second set, `(m, ...)`, with samples of the same shape.
    - `unbiased`: whether the means within a set are over pairs of different samples (the expectation is exact, and the
      estimate may be negative; it needs two samples of each), or over all pairs (never negative, and 0 for a set and
      itself); static.

    **Returns:** a scalar; NaN if a sample is not finite.

    **Raises:** `ValueError` if the samples differ in shape, are complex or integers, or are too few.

    **Reference:** Székely, Rizzo, Energy statistics: A class of statistics based on distances, 2013.

    !!! example
        ```python
        import jax
        from jaxinv import metrics
        a, b = jax.random.normal(jax.random.key(0), (2, 500, 8))
        assert abs(metrics.energy_distance(a, b)) < 0.05 < metrics.energy_distance(a, b + 1)
        ```
    """
    check_flag(unbiased, "unbiased")
    a, b = check_sets(a, b, "energy_distance", ("a", "b"), least=2 if unbiased else 1)
    n, m = len(a), len(b)
    both = jnp.concatenate([a, b])
    of_a = (jnp.arange(n + m) < n)[:, None].astype(both.dtype)
    of_b = 1 - of_a
    left = jnp.concatenate([2 * of_a / (n * m), -of_a, -of_b], axis=1)
    within = (lambda size: size * (size - 1)) if unbiased else (lambda size: size**2)
    right = jnp.concatenate([of_b, of_a / within(n), of_b / within(m)], axis=1)
    total = jnp.sum(quadratic_forms(distances, both, both, left, right, width=both.shape[1]))
    return total + nan_unless(jnp.all(jnp.isfinite(both)), both.dtype)


def distances(a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """`|a_i - b_j|`, by differences, exact for neighbours too."""
    return safe_sqrt(jnp.sum((a[:, None] - b[None, :]) ** 2, axis=2))
