"""What a run of the deep image prior minimises."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._types import Key, State
from ..likelihood import Likelihood
from ..regularisers import AbstractRegulariser
from ..training._chunk import Split


class Problem(eqx.Module):
    """A measurement, and a network whose weights are its unknowns.

    - `likelihood`, `y`: what is fitted.
    - `network`: without its weights; `frozen`: those that stay as they are.
    """

    likelihood: Likelihood
    y: State
    regulariser: AbstractRegulariser | None
    weight: Array
    network: Split
    frozen: dict[str, Array]

    def image(self, weights: dict[str, Array], z: Array) -> Array:
        """The image that the network makes of one input."""
        return self.images(weights, z[None])[0]

    def images(self, weights: dict[str, Array], z: Array) -> Array:
        """The images that it makes of a batch of inputs."""
        return self.network.merge({**self.frozen, **weights})(z).astype(self.likelihood.operator.domain.dtype)

    def fit(self, image: Array) -> Array:
        """`-log p(y | image)`."""
        return self.likelihood.negative_log_likelihood(image, self.y)

    def penalty(self, image: Array) -> Array:
        """`weight * R(image)`."""
        return jnp.zeros_like(self.weight) if self.regulariser is None else self.weight * self.regulariser(image)


class Input(eqx.Module):
    """What a network is fed, and the noise added to it in each step.

    - `jitter`: the standard deviation of that noise.
    """

    z0: Array
    jitter: Array

    def draw(self, still: Array, *, key: Key) -> Array:
        """The input of one step; where it is `still`, without noise."""
        shape, dtype = self.z0.shape, self.z0.dtype
        # A draw of the size of an image costs as much as a layer of a thin network.
        added = lambda: self.z0 + self.jitter * jax.random.normal(key, shape, dtype)
        noisy = jax.lax.cond(self.jitter > 0, added, lambda: self.z0 + self.jitter)
        return jnp.where(still, self.z0, noisy)


class Evaluation(NamedTuple):
    """What a step finds at its variables.

    - `image`: what the network makes.
    - `objective`: `-log p(y | image) + weight * R(image)`, whatever the method descends on.
    """

    image: Array
    objective: Array


class AbstractMethod(eqx.Module):
    """The variables of a run, and what is descended on."""

    @abc.abstractmethod
    def enter(self, problem: Problem, z0: Array, result: Any) -> tuple["AbstractMethod", Any]:
        """The method with its parameters in the dtype of the problem, and the code.

        **Raises:** `ValueError` if it cannot solve such a problem.
        """

    @abc.abstractmethod
    def variables(self, weights: dict[str, Array], z0: Array) -> PyTree[Array]:
        """The variables at first."""

    @abc.abstractmethod
    def weights(self, variables: PyTree[Array]) -> dict[str, Array]:
        """The weights among the variables."""

    @abc.abstractmethod
    def input(self, variables: PyTree[Array], z0: Array) -> Array:
        """The input of the network, which began as `z0`."""

    @abc.abstractmethod
    def memory(self, problem: Problem) -> PyTree[Array]:
        """What is carried from step to step, at first."""

    @abc.abstractmethod
    def loss(
        self, problem: Problem, variables: PyTree[Array], memory: PyTree[Array], z: Array, *, key: Key
    ) -> tuple[Array, Evaluation]:
        """What is descended on, and what was found on the way, with `z` for the input of the network.

        The only place where a run evaluates the network: after the last step it is called once more, for its image.
        """

    @abc.abstractmethod
    def update(self, problem: Problem, memory: PyTree[Array], image: Array, index: Array) -> PyTree[Array]:
        """The memory after step number `index`, at which the network made `image`."""


class AbstractOfWeights(AbstractMethod):
    """The methods whose variables are the weights, and nothing else."""

    def variables(self, weights: dict[str, Array], z0: Array) -> dict[str, Array]:
        del z0
        return weights

    def weights(self, variables: dict[str, Array]) -> dict[str, Array]:
        return variables

    def input(self, variables: dict[str, Array], z0: Array) -> Array:
        del variables
        return z0
