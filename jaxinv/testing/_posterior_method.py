"""The check of posterior methods: the law of what they draw given a measurement, and what holds for every verb."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import diffusion
from .._solution import RESULTS
from .._types import Checked, Key
from ..likelihood import Likelihood
from ..noise import Gaussian as GaussianNoise
from ..operators import Matrix
from ..oracles import Gaussian
from ._compare import (
    difference,
    generator,
    is_double,
    keys_of,
    lane,
    name_of,
    require,
    require_array_leaves,
    require_law,
)
from ._sampler import require_same_solution

# The covariances are not aligned with the axes, and there are two measurements of four entries.
_MEAN = np.array([1.0, -0.5, 0.2, 0.0])
_FACTOR = np.array([[0.8, 0, 0, 0], [0.3, 0.6, 0, 0], [-0.2, 0.1, 0.5, 0], [0.1, 0.2, -0.3, 0.7]])
_MATRIX = np.array([[1.0, 0.5, 0.0, -0.5], [0.0, 1.0, -1.0, 0.5]])


def check_posterior_method(
    method: Checked[diffusion.AbstractPosteriorMethod[Any, Any]],
    *,
    key: Key,
    process: Checked[diffusion.AbstractProcess | None] = None,
    noise_std: float = 0.3,
    num_samples: int = 1000,
    deviations: float = 5.0,
    allowance: float = 0.1,
    tolerance: float | None = None,
) -> None:
    """Check everything that the package relies on in a posterior method, a `method` of `diffusion.posterior_sample`.

    On a linear problem with a Gaussian prior in four dimensions and its exact score, of which two numbers are measured,
    it checks that samples have the mean and the covariance of the exact posterior; that a sample depends on the key
    and its number alone, and not on how many there are; that `jax.vmap` over keys and measurements equals a loop, with
    equal counts of steps; and that a measurement or a noise level that is NaN is flagged, leaves finite values, and
    changes no bit of the others of its batch.

    **Arguments:**

    - `method`: a `diffusion.AbstractPosteriorMethod`, with as many steps or particles as you claim to need.
    - `key`: for the draws.
    - `process`: the noising process; the default is `diffusion.VP()`.
    - `noise_std`: the standard deviation of the noise, where the measured numbers have one of about 1.
    - `num_samples`: how many samples the law is checked by; at most the particles of a particle method.
    - `deviations`: how many standard errors of so many independent samples mean and covariance may be off by.
    - `allowance`: what is allowed on top of these for the bias, in units of the exact posterior standard deviations for
        the mean and of the variances for the covariance. The default, .1, is that of a method without a bias of
        its own; a method that approximates states its own number, and particles depend on each other.
    - `tolerance`: how far a batch may be from a loop, relative to the size of a sample. The default is 1e-5 in single
        precision and 1e-10 in double. A method that accepts, rejects or resamples is checked in double precision.

    **Raises:** `AssertionError` that says which promise is broken, and by how much.

    !!! example
        ```python
        import jax, jaxinv
        method = jaxinv.diffusion.MomentMatching()
        jaxinv.testing.check_posterior_method(method, key=jax.random.key(0), num_samples=500)
        ```
    """
    name = name_of(method)
    random = generator(key)
    require(
        isinstance(method, diffusion.AbstractPosteriorMethod),
        f"{name} is not a `diffusion.AbstractPosteriorMethod`. Inherit from that class.",
    )
    require_array_leaves(method, numbers=True)
    process, dtype = diffusion.VP() if process is None else process, jnp.result_type(float)
    shape = (2, 2, 1)
    prior = Gaussian(jnp.asarray(_MEAN.reshape(shape), dtype), jnp.asarray(_FACTOR @ _FACTOR.T, dtype))
    operator, score = Matrix(jnp.asarray(_MATRIX, dtype), shape), prior.score(process)
    # Each is a measurement of a draw from the prior.
    images = _MEAN + random.normal(size=(3, 4)) @ _FACTOR.T
    ys = jnp.asarray(images @ _MATRIX.T + noise_std * random.normal(size=(3, 2)), dtype)
    likelihood = Likelihood(operator, GaussianNoise(jnp.asarray(noise_std, dtype)))

    run = jax.jit(
        lambda method, y, std, key, number: diffusion.posterior_sample(
            Likelihood(operator, GaussianNoise(std)), score, y, key=key, method=method, num_samples=number
        ),
        static_argnums=4,
    )
    gaussian: Any = likelihood.noise
    std = gaussian.std
    many = jax.device_get(run(method, ys[0], std, key, num_samples))
    require(
        many.value.shape == (num_samples, *shape),
        f"{name} returns samples of shape {many.value.shape}; they must have {(num_samples, *shape)}.",
    )
    require(
        bool(many.result == RESULTS.successful),
        f"{name} does not call the samples of a well-posed Gaussian problem successful: {RESULTS[many.result]}",
    )
    for count in ("num_steps", "network_evaluations"):
        require(count in many.stats, f"{name} does not count `{count}` in `stats`.")
    exact = prior.posterior(likelihood, ys[0])
    require_law(
        many.value,
        exact.mean,
        exact.covariance,
        deviations=deviations,
        allowance=allowance,
        what=f"the samples of {name}, given a measurement,",
        advice="Take more steps or particles, or state the bias as `allowance`.",
    )
    tolerance = (1e-10 if is_double(many.value) else 1e-5) if tolerance is None else tolerance
    few, more = (jax.device_get(run(method, ys[0], std, key, number)) for number in (2, 3))
    gap = difference(few.value, more.value[:2])
    require(
        gap <= tolerance,
        f"The first samples of {name} change by {gap:.1e} with the number of samples; sample `i` may depend on the key "
        "and `i` alone.",
    )

    keys, stds = keys_of(key, 3), jnp.stack([std, 2 * std, std])
    mapped = jax.jit(jax.vmap(lambda y, std, key: run(method, y, std, key, 2)))
    clean = jax.device_get(mapped(ys, stds, keys))
    for i in range(3):
        expected = jax.device_get(run(method, ys[i], stds[i], keys[i], 2))
        require_same_solution(lane(clean, i), expected, tolerance, f"{name}: problem {i}")
    bad = jax.device_get(mapped(ys.at[0].set(jnp.nan), stds.at[1].set(jnp.nan), keys))
    for i, what, code in (
        (0, "a measurement", RESULTS.nonfinite_measurement),
        (1, "a noise level", RESULTS.invalid_parameter),
    ):
        require(
            bool(lane(bad, i).result == code),
            f'{name} does not flag {what} that is NaN by the code it has: "{RESULTS[code]}"',
        )
        require(
            np.isfinite(lane(bad, i).value).all(), f"{name} returns values that are not finite for {what} that is NaN."
        )
    require_same_solution(lane(bad, 2), lane(clean, 2), 0.0, f"{name}: beside problems that failed, another")
