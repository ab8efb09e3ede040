"""The objectives of a latent reconstruction: the interface, and the hard constraint."""

import abc

from jaxtyping import Array

from .._prior import AbstractGenerativePrior
from .._proximal_map import AbstractProximalMap
from .._solution import RESULTS
from .._types import PyTree, State
from ..likelihood import Likelihood
from ..requirements import Parametric


class AbstractLatentMethod(Parametric):
    """The objective of a latent reconstruction, and its variables: the `method` of `generative.reconstruct`.

    An algorithm (an optimiser of optax, or `Alternating()`) iterates on it. A method of your own implements these
    members and is given as `reconstruct(..., method=...)`. All of them act on one problem, never on a batch.
    """

    @property
    @abc.abstractmethod
    def is_smooth(self) -> bool:
        """Whether the objective is differentiable wherever the likelihood and the generator are."""

    @abc.abstractmethod
    def prepare(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, result: RESULTS
    ) -> tuple["AbstractLatentMethod", RESULTS]:
        """Check the options, and cast the numbers among them, once.

        **Arguments:**

        - `likelihood`, `y`: as prepared for the solve: in its dtype, and finite.
        - `prior`: in the dtype of the solve.
        - `result`: the code so far.

        **Returns:** the method that is run, in the dtype of the solve; it may be another one with the same minimisers.
        And the code: `RESULTS.invalid_parameter` for a number out of its range, where `result` was successful.

        **Raises:** `ValueError` for options that do not fit the problem.
        """

    @abc.abstractmethod
    def init(self, prior: AbstractGenerativePrior, z: Array) -> PyTree[Array]:
        """The first variables.

        **Arguments:**

        - `prior`: in the dtype of the solve.
        - `z`: the first latent, of `prior.latent_shape`.

        **Returns:** a pytree of arrays, in which the latent comes first.
        """

    @abc.abstractmethod
    def objective(
        self,
        likelihood: Likelihood,
        prior: AbstractGenerativePrior,
        y: State,
        weight: Array,
        variables: PyTree[Array],
    ) -> tuple[Array, Array | float]:
        """The objective.

        **Arguments:**

        - `likelihood`, `prior`, `y`: as `prepare` saw them.
        - `weight`: the weight of the energy of the prior.
        - `variables`: as `init` made them.

        **Returns:** its smooth part, and the penalty whose proximal map is `proximal_map()`: 0 where there is none. The
        sum of the two is minimised.
        """

    @abc.abstractmethod
    def proximal_map(self) -> AbstractProximalMap | None:
        """The proximal map of the penalty on the last of the variables.

        **Returns:** the map, or `None` where the gradient of the whole objective is used.
        """

    @abc.abstractmethod
    def image(self, prior: AbstractGenerativePrior, variables: PyTree[Array]) -> Array:
        """The reconstruction.

        **Arguments:**

        - `prior`: in the dtype of the solve.
        - `variables`: as `init` made them.

        **Returns:** an image, of `prior.image_shape`.
        """

    @abc.abstractmethod
    def latent(self, variables: PyTree[Array]) -> Array:
        """The latent among the variables.

        **Arguments:**

        - `variables`: as `init` made them.

        **Returns:** an array of `prior.latent_shape`.
        """

    @abc.abstractmethod
    def scaled(self, factor: Array) -> "AbstractLatentMethod":
        """The method with its own penalties scaled, so that `choose_weight` keeps their balance with the energy.

        **Arguments:**

        - `factor`: a positive scalar.

        **Returns:** a method; itself where it has no penalty of its own.
        """


class AbstractLatentOnly(AbstractLatentMethod):
    """A smooth method whose only variable is the latent."""

    @property
    def is_smooth(self) -> bool:
        return True

    def prepare(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, result: RESULTS
    ) -> tuple[AbstractLatentMethod, RESULTS]:
        del likelihood, prior, y
        return self, result

    def init(self, prior: AbstractGenerativePrior, z: Array) -> Array:
        del prior
        return z

    def proximal_map(self) -> None:
        return None

    def latent(self, variables: Array) -> Array:
        return variables

    def scaled(self, factor: Array) -> AbstractLatentMethod:
        del factor
        return self


class Hard(AbstractLatentOnly):
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
