"""The image is free, and its distance to the range of the generator penalised."""

from typing import Any

from jaxtyping import Array

from .._prior import AbstractGenerativePrior
from .._types import State
from ..likelihood import Likelihood
from ..operators._base import as_factor
from ..regularisers import AbstractRegulariser, Tikhonov
from ._deviation import check_deviation
from ._elimination import enter_with_deviation
from ._method import AbstractMethod


class Soft(AbstractMethod):
    """The image is free, and penalised by its distance to the range of the generator:

    `min_{z, x} -log p(y | x) + weight * energy(z) + method.weight * deviation(x - G(z))`.

    The objective of `Relaxed` with the same deviation, in other variables: here a step in `z` leaves the image where it
    is, there it leaves the deviation.

    - `deviation`: a smooth regulariser: `Tikhonov()`, the default, half the squared distance, or
      `Gaussian(residual_gaussian(prior, images, rank=50))`, the distance by the covariance of what the generator is
      known to miss, which is eliminated as in `Relaxed`.
    - `weight`: a positive scalar. The `l` of `l ||G(z) - x||^2` is `weight = 2 l`.

    **Raises:** `ValueError` if `deviation` is not a smooth regulariser.

    **Reference:** Duff, Campbell, Ehrhardt, Regularising inverse problems with generative machine learning models,
    2023.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian.from_factor(jnp.zeros((8, 8, 1)), jnp.ones((64, 2)) / 8).as_latent()
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((8, 8, 1)), jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(jnp.ones((8, 8, 1)), key=jax.random.key(0))
        method = jaxinv.generative.Soft(weight=10.0)
        image = jaxinv.generative.reconstruct(likelihood, prior, y, key=jax.random.key(1), method=method).value
        ```
    """

    deviation: AbstractRegulariser
    weight: Array

    def __init__(self, deviation: Any = None, weight: Any = 1.0):
        self.deviation = check_deviation(Tikhonov() if deviation is None else deviation, "Soft")
        if not self.deviation.is_smooth:
            raise ValueError(
                f"Soft(deviation): {type(self.deviation).__name__} is not smooth, so the distance would not be smooth "
                "in the latent. `Relaxed(deviation, weight)` has the same objective and takes it; or take Tikhonov(), "
                "Gaussian(prior) or TV(Smoothed(eps))."
            )
        self.weight = as_factor(weight)

    @property
    def is_smooth(self) -> bool:
        return True

    def enter(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, result: Any
    ) -> tuple[AbstractMethod, Any]:
        return enter_with_deviation(self, likelihood, prior, y, result)

    def variables(self, prior: AbstractGenerativePrior, z: Array) -> tuple[Array, Array]:
        return z, prior.decode(z)

    def objective(
        self,
        likelihood: Likelihood,
        prior: AbstractGenerativePrior,
        y: State,
        weight: Array,
        variables: tuple[Array, Array],
    ) -> tuple[Array, Array | float]:
        z, x = variables
        distance = self.deviation(x - prior.decode(z))
        return likelihood.negative_log_likelihood(x, y) + weight * prior.energy(z) + self.weight * distance, 0.0

    def proximal_map(self) -> None:
        return None

    def image(self, prior: AbstractGenerativePrior, variables: tuple[Array, Array]) -> Array:
        del prior
        return variables[1]

    def latent(self, variables: tuple[Array, Array]) -> Array:
        return variables[0]
