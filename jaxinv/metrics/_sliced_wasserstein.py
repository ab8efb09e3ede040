"""The sliced Wasserstein distance of two sets of samples."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._checks import check_count
from .._keys import check_key
from .._types import Key, State
from ._sets import check_sets


@eqx.filter_jit
def sliced_wasserstein(a: State, b: State, *, key: Key, num_slices: int = 200, p: Any = 1) -> Float[Array, ""]:
    """The sliced Wasserstein distance of two sets of samples: `(mean over slices of W_p^p)^(1/p)`.

    A slice is the inner product with one random direction of length 1, and `W_p^p` of a slice is the integral of
    `|F_a^{-1}(u) - F_b^{-1}(u)|^p` over the quantiles `u` in [0, 1], exact also for sets of unequal size. It is not 0
    for two sets from one law: compare with that of two sets of exact draws.

    **Arguments:**

    - `a`: samples, `(n, ...)`, real.
    - `b`: samples, `(m, ...)`, of the same shape each.
    - `key`: a typed key, for the directions; paired comparisons take the same.
    - `num_slices`: the number of directions; static.
    - `p`: the order, at least 1; a Python number.

    **Returns:** a scalar, in the unit of the samples. Of a set and itself it is 0.

    **Raises:** `ValueError` if the samples differ in shape, are complex or integers, if `num_slices` is not a positive
    integer, or if `p` is less than 1.

    Rabin, Peyré, Delon, Bernot, Wasserstein Barycenter and Its Application to Texture Mixing, 2011.

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
    # In units of the largest gap, whose power may overflow.
    unit = jax.lax.stop_gradient(jnp.max(gaps))
    unit = jnp.where(unit == 0, 1, unit)
    power = jnp.mean(jnp.sum((gaps / unit) ** p * jnp.asarray(widths, a.dtype)[:, None], axis=0))
    same = power == 0
    return jnp.where(same, 0, unit * jnp.where(same, 1, power) ** (1 / p))


def _steps(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Both quantile functions are steps, of widths 1/n and 1/m: between the jumps of either, in units of 1/(n m), which
    # are integers, both are constant.
    starts = np.unique(np.concatenate([np.arange(n, dtype=np.int64) * m, np.arange(m, dtype=np.int64) * n]))
    widths = np.diff(starts, append=n * m) / (n * m)
    return starts // m, starts // n, widths
