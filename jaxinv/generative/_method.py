"""What a method of latent reconstruction minimises."""

import abc

import equinox as eqx
from jaxtyping import Array, PyTree

from .._prior import AbstractGenerativePrior
from .._types import State
from ..likelihood import Likelihood


class AbstractMethod(eqx.Module):
    """The variables and the objective of a latent reconstruction."""

    @abc.abstractmethod
    def variables(self, prior: AbstractGenerativePrior, z: Array) -> PyTree[Array]:
        """The variables to optimise, from a first latent."""

    @abc.abstractmethod
    def objective(
        self,
        likelihood: Likelihood,
        prior: AbstractGenerativePrior,
        y: State,
        weight: Array,
        variables: PyTree[Array],
    ) -> Array:
        """What is minimised, a scalar."""

    @abc.abstractmethod
    def image(self, prior: AbstractGenerativePrior, variables: PyTree[Array]) -> Array:
        """The reconstruction."""

    @abc.abstractmethod
    def latent(self, variables: PyTree[Array]) -> Array:
        """The latent among the variables."""


class Hard(AbstractMethod):
    """The image lies in the range of the generator: `min_z -log p(y | G(z)) + weight * energy(z)`.

    **Reference:** Bora, Jalal, Price, Dimakis, Compressed sensing using generative models, 2017.
    """

    def variables(self, prior: AbstractGenerativePrior, z: Array) -> Array:
        del prior
        return z

    def objective(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, weight: Array, variables: Array
    ) -> Array:
        fit = likelihood.negative_log_likelihood(prior.decode(variables), y)
        return fit + weight * prior.energy(variables)

    def image(self, prior: AbstractGenerativePrior, variables: Array) -> Array:
        return prior.decode(variables)

    def latent(self, variables: Array) -> Array:
        return variables
