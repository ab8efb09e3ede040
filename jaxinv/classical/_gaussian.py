"""The posterior mean under a Gaussian prior."""

import jax.numpy as jnp

from .._differentiation import Implicit, Unrolled, check_differentiate
from .._jit import verb
from .._solution import RESULTS, Solution
from .._types import Checked, State
from ..likelihood import Likelihood, gaussian_approximation, prepare
from ..oracles import Gaussian


@verb
def gaussian(
    likelihood: Likelihood,
    prior: Checked[Gaussian],
    y: State,
    *,
    differentiate: Checked[Unrolled | Implicit | None] = None,
) -> Solution:
    """The exact posterior mean `E[x | y]` under a Gaussian prior, linear operator and Gaussian noise.

    With the mean and covariance of a training set it is the best affine reconstruction, in mean squared error: the
    baseline that a learned prior has to beat. Photon noise enters by its Gaussian approximation (`noise.linearise`).

    **Arguments:**

    - `likelihood`: a linear operator and its noise.
    - `prior`: an `oracles.Gaussian`, on images of the operator's domain.
    - `y`: one measurement.
    - `differentiate`: any; the solve is direct, and its derivatives are exact.

    **Returns:** a `Solution`; `aux` is the posterior, again an `oracles.Gaussian` (samples, variances, density).

    **Raises:** `ValueError` if the operator is not linear or the shapes differ.

    **Reference:** Tarantola, Inverse problem theory, 2005.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian(jnp.zeros((4, 4, 1)), jnp.eye(16))
        likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((4, 4, 1), 2), jaxinv.noise.Gaussian(0.1))
        solution = jaxinv.classical.gaussian(likelihood, prior, jnp.ones((2, 2, 1)))
        mean, std = solution.value, solution.aux.variance**0.5
        ```
    """
    check_differentiate(differentiate)
    if not isinstance(prior, Gaussian):
        raise ValueError(f"`prior` must be a `jaxinv.oracles.Gaussian`; got {type(prior).__name__}.")
    prepared, data, result = prepare(likelihood, y)
    approximation, data = gaussian_approximation(prepared, data)
    posterior = prior.posterior(approximation, data)
    finite = jnp.all(jnp.isfinite(posterior.mean))
    result = RESULTS.where((result == RESULTS.successful) & ~finite, RESULTS.breakdown, result)
    value = jnp.where(result == RESULTS.successful, posterior.mean, jnp.zeros_like(posterior.mean))
    return Solution(value, result, {}, posterior)
