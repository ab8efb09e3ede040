"""The image lies in the range of the generator."""

from typing import Any

from jaxtyping import Array

from .._prior import AbstractGenerativePrior
from .._types import State
from ..likelihood import Likelihood
from ._method import AbstractMethod


class Hard(AbstractMethod):
    """The image lies in the range of the generator: `min_z -log p(y | G(z)) + weight * energy(z)`.

    **Reference:** Bora, Jalal, Price, Dimakis, Compressed sensing using generative models, 2017.
    """

    @property
    def is_smooth(self) -> bool:
        return True

    def enter(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, result: Any
    ) -> tuple["Hard", Any]:
        del likelihood, prior, y
        return self, result

    def variables(self, prior: AbstractGenerativePrior, z: Array) -> Array:
        del prior
        return z

    def objective(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, weight: Array, variables: Array
    ) -> tuple[Array, Array | float]:
        fit = likelihood.negative_log_likelihood(prior.decode(variables), y)
        return fit + weight * prior.energy(variables), 0.0

    def proximal_map(self) -> None:
        return None

    def image(self, prior: AbstractGenerativePrior, variables: Array) -> Array:
        return prior.decode(variables)

    def latent(self, variables: Array) -> Array:
        return variables
