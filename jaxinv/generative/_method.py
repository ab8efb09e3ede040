"""What a method of latent reconstruction minimises."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, PyTree

from .._prior import AbstractGenerativePrior
from .._types import State
from ..likelihood import Likelihood
from ._proximal_map import AbstractProximalMap


class AbstractMethod(eqx.Module):
    """The variables and the objective of a latent reconstruction."""

    @property
    @abc.abstractmethod
    def is_smooth(self) -> bool:
        """Whether the objective is differentiable wherever likelihood and generator are."""

    @abc.abstractmethod
    def enter(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, result: Any
    ) -> tuple["AbstractMethod", Any]:
        """The method that is run on a prepared measurement, its parameters in the dtype of the solve, and the code."""

    @abc.abstractmethod
    def variables(self, prior: AbstractGenerativePrior, z: Array) -> PyTree[Array]:
        """The variables to optimise, from a first latent; the latent is the first of them."""

    @abc.abstractmethod
    def objective(
        self,
        likelihood: Likelihood,
        prior: AbstractGenerativePrior,
        y: State,
        weight: Array,
        variables: PyTree[Array],
    ) -> tuple[Array, Array | float]:
        """What is minimised, as a smooth part and the penalty that `proximal_map` stands for, 0 where there is none."""

    @abc.abstractmethod
    def proximal_map(self) -> AbstractProximalMap | None:
        """The proximal map of a penalty on the last of the variables, if it has one."""

    @abc.abstractmethod
    def image(self, prior: AbstractGenerativePrior, variables: PyTree[Array]) -> Array:
        """The reconstruction."""

    @abc.abstractmethod
    def latent(self, variables: PyTree[Array]) -> Array:
        """The latent among the variables."""


class AbstractLatentMethod(AbstractMethod):
    """A smooth method whose variables are the latent alone."""

    @property
    def is_smooth(self) -> bool:
        return True

    def enter(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, result: Any
    ) -> tuple["AbstractLatentMethod", Any]:
        del likelihood, prior, y
        return self, result

    def variables(self, prior: AbstractGenerativePrior, z: Array) -> Array:
        del prior
        return z

    def proximal_map(self) -> None:
        return None

    def latent(self, variables: Array) -> Array:
        return variables
