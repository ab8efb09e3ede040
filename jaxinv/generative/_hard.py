"""The image lies in the range of the generator."""

from jaxtyping import Array

from .._prior import AbstractGenerativePrior
from .._types import State
from ..likelihood import Likelihood
from ._method import AbstractLatentMethod


class Hard(AbstractLatentMethod):
    """The image lies in the range of the generator: `min_z -log p(y | G(z)) + weight * energy(z)`.

    **Reference:** Bora, Jalal, Price, Dimakis, Compressed sensing using generative models, 2017.
    """

    def objective(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, weight: Array, variables: Array
    ) -> tuple[Array, Array | float]:
        fit = likelihood.negative_log_likelihood(prior.decode(variables), y)
        return fit + weight * prior.energy(variables), 0.0

    def image(self, prior: AbstractGenerativePrior, variables: Array) -> Array:
        return prior.decode(variables)
