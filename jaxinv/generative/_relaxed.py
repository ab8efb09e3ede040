"""The image lies near the range of the generator."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from .._prior import AbstractGenerativePrior
from .._types import State
from ..likelihood import Likelihood
from ..operators._base import as_factor
from ..regularisers import L1, AbstractRegulariser
from ._deviation import check_deviation
from ._elimination import enter_with_deviation
from ._method import AbstractMethod
from ._proximal_map import AbstractProximalMap, proximal_map


class Relaxed(AbstractMethod):
    """The image deviates from the range of the generator by a penalised `u`: `x = G(z) + u` with

    `min_{z, u} -log p(y | G(z) + u) + weight * energy(z) + method.weight * deviation(u)`.

    - `deviation`: one of `jaxinv.regularisers`. `L1()`, the default: sparse deviations, as in the paper. `TV()`:
      piecewise constant ones. `Tikhonov()`: short ones. `Gaussian(residual_gaussian(prior, images, rank=50))`: those
      that the generator is known to miss; with a linear operator and Gaussian noise they are eliminated in closed form,
      and only the latent is searched for.
    - `weight`: a positive scalar, in which a wrong value flags the problem.

    What is minimised without an `optimiser`: smooth objectives by Adam, others by `Alternating()`.

    **Raises:** `ValueError` if `deviation` is not a regulariser.

    **Reference:** Dhar, Grover, Ermon, Modeling sparse deviations for compressed sensing using generative models, 2018;
    Duff, Campbell, Ehrhardt, Regularising inverse problems with generative machine learning models, 2023.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian.from_factor(jnp.zeros((8, 8, 1)), jnp.ones((64, 2)) / 8).as_latent()
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((8, 8, 1)), jaxinv.noise.Gaussian(0.1))
        y = jnp.ones((8, 8, 1)).at[3, 3].set(5.0)
        method = jaxinv.generative.Relaxed(jaxinv.regularisers.L1(), 10.0)
        solution = jaxinv.generative.reconstruct(likelihood, prior, y, key=jax.random.key(0), method=method)
        spike = solution.aux["deviation"]
        ```
    """

    deviation: AbstractRegulariser
    weight: Array

    def __init__(self, deviation: Any = None, weight: Any = 1.0):
        self.deviation = check_deviation(L1() if deviation is None else deviation, "Relaxed")
        self.weight = as_factor(weight)

    @property
    def is_smooth(self) -> bool:
        return self.deviation.is_smooth

    def enter(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, result: Any
    ) -> tuple[AbstractMethod, Any]:
        return enter_with_deviation(self, likelihood, prior, y, result)

    def variables(self, prior: AbstractGenerativePrior, z: Array) -> tuple[Array, Array]:
        return z, jnp.zeros(tuple(prior.image_shape), z.dtype)

    def objective(
        self,
        likelihood: Likelihood,
        prior: AbstractGenerativePrior,
        y: State,
        weight: Array,
        variables: tuple[Array, Array],
    ) -> tuple[Array, Array | float]:
        fit = likelihood.negative_log_likelihood(self.image(prior, variables), y)
        smooth, penalty = fit + weight * prior.energy(variables[0]), self.weight * self.deviation(variables[1])
        return (smooth + penalty, 0.0) if self.proximal_map() is None else (smooth, penalty)

    def proximal_map(self) -> AbstractProximalMap | None:
        return proximal_map(self.deviation, self.weight)

    def image(self, prior: AbstractGenerativePrior, variables: tuple[Array, Array]) -> Array:
        return prior.decode(variables[0]) + variables[1]

    def latent(self, variables: tuple[Array, Array]) -> Array:
        return variables[0]
