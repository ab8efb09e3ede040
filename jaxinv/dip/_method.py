"""The methods of the deep image prior: the interface of a loss and its variables, and the plain one."""

import abc
import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._solution import RESULTS
from .._types import Key, Network, PyTree, State
from ..likelihood import Likelihood
from ..regularisers import AbstractRegulariser
from ..regularisers._constraints import projected
from ..requirements import Parametric
from ..training._chunk import Split


class Problem(eqx.Module):
    """A measurement, and a network whose weights are its unknowns.

    - `likelihood`, `y`: what the image is to fit.
    - `regulariser`, `weight`: the penalty on the image.
    - `network`: the network without its weights; `frozen`: those of its weights that stay as they are.
    - `z0`: the input of the network, without a batch axis.
    - `parameters`: what the method's `prepare` adds for its own use.
    - `constraint`: a regulariser whose `prox` is the projection that ends the network, or `None`.
    """

    likelihood: Likelihood
    y: State
    regulariser: AbstractRegulariser | None
    weight: Array
    network: Split
    frozen: dict[str, Array]
    z0: Array
    parameters: PyTree = None
    constraint: AbstractRegulariser | None = None

    def with_parameters(self, parameters: PyTree) -> "Problem":
        """The problem with the parameters of a method."""
        return dataclasses.replace(self, parameters=parameters)

    def merge(self, weights: dict[str, Array]) -> Network:
        """The network with these weights."""
        return self.network.merge({**self.frozen, **weights})

    def image(self, weights: dict[str, Array], z: Array) -> Array:
        """The image that the network makes of one input."""
        return self.images(weights, z[None])[0]

    def images(self, weights: dict[str, Array], z: Array) -> Array:
        """The images that the network makes of a batch of inputs, within the constraint."""
        return projected(self.constraint, self.merge(weights)(z).astype(self.likelihood.operator.domain.dtype))

    def fit(self, image: Array) -> Array:
        """`-log p(y | image)`."""
        return self.likelihood.negative_log_likelihood(image, self.y)

    def penalty(self, image: Array) -> Array:
        """`weight * R(image)`."""
        return jnp.zeros_like(self.weight) if self.regulariser is None else self.weight * self.regulariser(image)


class Evaluation(NamedTuple):
    """The outcome of one evaluation of the network.

    - `image`: the image that the network makes.
    - `objective`: `-log p(y | image) + weight * R(image)`, whatever the method descends on.
    """

    image: Array
    objective: Array


class AbstractMethod(Parametric):
    """The variables of a run and the loss that its optimiser descends on: the `method` of `dip.reconstruct`.

    A method of your own implements these members. All of them act on one problem, never on a batch.
    """

    @abc.abstractmethod
    def prepare(self, problem: Problem, result: RESULTS) -> tuple[Problem, RESULTS]:
        """Check the options, and cast the numbers among them, once.

        **Arguments:**

        - `problem`: the run, in the dtype of the solve.
        - `result`: the code so far.

        **Returns:** the problem, `problem.with_parameters(...)` where the method has numbers of its own; and the code:
        `RESULTS.invalid_parameter` for a number out of its range, where `result` was successful.

        **Raises:** `ValueError` if the method cannot solve such a problem.
        """

    @abc.abstractmethod
    def init(self, problem: Problem, weights: dict[str, Array]) -> tuple[PyTree[Array], PyTree[Array]]:
        """The first variables and the first memory.

        **Arguments:**

        - `problem`: as `prepare` made it.
        - `weights`: those weights of the network that are tuned, by name.

        **Returns:** the variables, on which the optimiser acts; and the memory, which `step` changes: `None` for a
        method without.
        """

    @abc.abstractmethod
    def loss(
        self, problem: Problem, variables: PyTree[Array], memory: PyTree[Array], z: Array, *, key: Key
    ) -> tuple[Array, Evaluation]:
        """The loss that the optimiser descends on.

        It is the only place where a run evaluates the network: after the last step it is called once more, for its
        image.

        **Arguments:**

        - `problem`, `variables`, `memory`: as `prepare`, the optimiser and `step` made them.
        - `z`: the input of the network in this step, `problem.z0` with the run's jitter.
        - `key`: for this step alone.

        **Returns:** the loss, a real scalar, and the evaluation of the network.
        """

    @abc.abstractmethod
    def step(self, problem: Problem, memory: PyTree[Array], image: Array, index: Array) -> PyTree[Array]:
        """The memory after a step of the optimiser.

        **Arguments:**

        - `problem`, `memory`: as above.
        - `image`: the image that the network made in this step.
        - `index`: the number of the step, from 0 on.

        **Returns:** the next memory.
        """

    @abc.abstractmethod
    def finish(self, problem: Problem, variables: PyTree[Array]) -> tuple[dict[str, Array], Array]:
        """The network that the variables stand for.

        **Arguments:**

        - `problem`, `variables`: as above.

        **Returns:** the tuned weights by name, and the input of the network.
        """


class AbstractWeightsMethod(AbstractMethod):
    """A method whose only variables are the weights, and whose input stays as it is."""

    def finish(self, problem: Problem, variables: dict[str, Array]) -> tuple[dict[str, Array], Array]:
        return variables, problem.z0


class Plain(AbstractWeightsMethod):
    """Descent on the objective in the weights: `min_theta -log p(y | F_theta(z0)) + weight * R(F_theta(z0))`.

    A regulariser that is not smooth enters by a subgradient: where a difference is exactly 0, that of total variation
    is 0.

    **Reference:** Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, 2018; Baguer, Leuschner, Schmidt, Computed tomography
    reconstruction using deep image prior and learned reconstruction methods, 2020.
    """

    def prepare(self, problem: Problem, result: RESULTS) -> tuple[Problem, RESULTS]:
        return problem, result

    def init(self, problem: Problem, weights: dict[str, Array]) -> tuple[dict[str, Array], None]:
        del problem
        return weights, None

    def loss(
        self, problem: Problem, variables: dict[str, Array], memory: PyTree[Array], z: Array, *, key: Key
    ) -> tuple[Array, Evaluation]:
        del memory, key
        image = problem.image(variables, z)
        objective = problem.fit(image) + problem.penalty(image)
        return objective, Evaluation(image, objective)

    def step(self, problem: Problem, memory: None, image: Array, index: Array) -> None:
        del problem, memory, image, index
