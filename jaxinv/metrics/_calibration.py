"""Tests of the calibration of posterior samples against true images; `plotting.calibration` draws their histograms."""

from collections.abc import Callable

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from .._checks import checked
from .._jit import compiled_method
from .._types import Scalar, State
from ._checks import check_samples


@compiled_method
def coverage(samples: State, truth: State, *, level: Scalar = 0.9) -> Float[Array, ""]:
    """The share of the entries of one true image that lie within the central credible interval of posterior samples.

    The interval of an entry reaches from the quantile `(1 - level) / 2` of its samples to `(1 + level) / 2`, both
    included, interpolated linearly as `numpy.quantile` does.

    Entries of one image depend on each other, so one value says little. Over many problems, whose truths are draws of
    the prior, the mean of `jax.vmap(coverage)(samples, truths)` is near `level` for exact posteriors: within two
    standard errors `std / sqrt(problems)` of `level (n - 1) / (n + 1)`, which is what `n` samples of the exact
    posterior cover. Less is overconfidence.

    **Arguments:**

    - `samples`: samples of the posterior of one problem, `(n, *shape)`, real.
    - `truth`: the true image of that problem, of shape `shape`.
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


@checked()
def calibration_ranks(
    samples: State, truth: State, quantity: Callable[[Array], Array] | None = None
) -> Integer[Array, "..."]:
    """The rank of a true image among posterior samples: how many of `n` have a smaller value of a test quantity.

    Over many problems, whose truths are draws of the prior, `jax.vmap(calibration_ranks)(samples, truths)` is uniform
    on `0, ..., n` for exact posteriors with independent samples: draw its histogram. A peak in the middle indicates a
    posterior that is too wide, peaks at both ends one that is too narrow, and a peak at one end a bias. Thin the
    samples of a chain first.

    **Arguments:**

    - `samples`: samples of the posterior of one problem, `(n, *shape)`, real.
    - `truth`: the true image of that problem, of shape `shape`.
    - `quantity`: a function of one image, to a scalar or an array; by default the image itself, with a rank for each
      entry. Single entries test little of the dependence between entries: use also `jnp.sum`, the energy of the prior,
      and `lambda x: likelihood.negative_log_likelihood(x, y)`, which detects a posterior that ignores the data.

    **Returns:** integers between 0 and `n`, of the shape of the quantity; -1 where the truth or a sample is not
    finite. Samples equal to the truth count as not smaller.

    **Raises:** `ValueError` if the shapes do not match, or for complex numbers or integers.

    **Reference:** Talts, Betancourt, Simpson, Vehtari, Gelman, Validating Bayesian Inference Algorithms with
    Simulation-Based Calibration, 2018; Modrák et al., Simulation-Based Calibration Checking for Bayesian Computation:
    The Choice of Test Quantities Shapes Sensitivity, 2023.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import metrics
        truths = jax.random.normal(jax.random.key(0), (500, 4, 4, 1))
        samples = jax.random.normal(jax.random.key(1), (500, 9, 4, 4, 1))
        ranks = jax.vmap(lambda s, x: metrics.calibration_ranks(s, x, jnp.sum))(samples, truths)
        counts = jnp.bincount(ranks, length=10)  # about 50 of each
        ```
    """
    samples, truth = check_samples(samples, truth, "calibration_ranks")
    if quantity is None:
        values, value = samples, truth
    else:
        values, value = jax.vmap(quantity)(samples), jnp.asarray(quantity(truth))
        if jnp.iscomplexobj(value):
            raise ValueError(f"`quantity` must be real, to be ranked; got dtype {value.dtype}.")
    finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(values), axis=0)
    return jnp.where(finite, jnp.sum(values < value[None], axis=0), -1)
