"""The coverage of credible intervals."""

import equinox as eqx
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Scalar, State
from ._sets import check_samples


@eqx.filter_jit
def coverage(samples: State, truth: State, *, level: Scalar = 0.9) -> Float[Array, ""]:
    """The share of the entries of one true image that lie within the central credible interval of posterior samples.

    The interval of an entry reaches from the quantile `(1 - level) / 2` of its samples to `(1 + level) / 2`, both
    included, interpolated linearly as `numpy.quantile` does.

    Entries of one image depend on each other, so one value says little. Over many problems, whose truths are draws of
    the prior, the mean of `jax.vmap(coverage)(samples, truths)` is near `level` for exact posteriors: within two
    standard errors `std / sqrt(problems)` of `level (n - 1) / (n + 1)`, which is what `n` samples of the exact
    posterior cover. Less is overconfidence.

    **Arguments:**

    - `samples`: of the posterior of one problem, `(n, *shape)`, real.
    - `truth`: the image that the measurement was made of, `shape`.
    - `level`: the probability of the interval, between 0 and 1.

    **Returns:** a scalar between 0 and 1; NaN if a sample or the truth is not finite.

    **Raises:** `ValueError` if the shapes do not match, for complex numbers or integers, or if `level` is not between 0
    and 1.

    !!! example
        ```python
        import jax
        from jaxinv import metrics
        truths = jax.random.normal(jax.random.key(0), (200, 4, 4, 1))
        samples = jax.random.normal(jax.random.key(1), (200, 100, 4, 4, 1))
        per_problem = jax.vmap(metrics.coverage)(samples, truths)
        assert abs(per_problem.mean() - 0.9 * 99 / 101) < 0.03
        ```
    """
    samples, truth = check_samples(samples, truth, "coverage")
    if jnp.ndim(level) != 0:
        raise ValueError(f"`level` must be one number; got shape {jnp.shape(level)}. Map over several with `jax.vmap`.")
    if not isinstance(level, jax.core.Tracer) and not 0 < float(level) < 1:
        raise ValueError(f"`level` must lie between 0 and 1; got {level}.")
    level = jnp.asarray(level).astype(samples.dtype)
    lower, upper = (jnp.quantile(samples, (1 + sign * level) / 2, axis=0) for sign in (-1, 1))
    finite = jnp.all(jnp.isfinite(samples)) & jnp.all(jnp.isfinite(truth))
    inside = (lower <= truth) & (truth <= upper)
    return jnp.where(finite, jnp.mean(inside.astype(samples.dtype)), jnp.nan)
