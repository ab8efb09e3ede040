"""The form of `Relaxed` and `Soft` in which the image obeys a constraint."""

import jax
from jaxtyping import Array

from .._prior import AbstractGenerativePrior
from .._proximal_map import AbstractProximalMap, ClosedForm
from .._solution import RESULTS
from .._types import State
from ..likelihood import Likelihood, domain_dtype
from ..regularisers import AbstractRegulariser
from ..regularisers._constraints import projected
from ._method import AbstractLatentMethod


class Constrained(AbstractLatentMethod):
    """`min_{z, x} -log p(y | x) + weight * energy(z) + method.weight * deviation(x - G(z))` with `x` in a convex set.

    `Relaxed` has this form too, with `x = G(z) + u`; its proximal map on `u` would not know where `G(z)` is. So the
    image is the variable, and the projection its proximal map.
    """

    deviation: AbstractRegulariser
    weight: Array
    constraint: AbstractRegulariser

    @property
    def is_smooth(self) -> bool:
        return False

    def prepare(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, result: RESULTS
    ) -> tuple[AbstractLatentMethod, RESULTS]:
        del prior, y
        real = domain_dtype(likelihood.operator)
        constraint = jax.tree.map(lambda leaf: leaf.astype(real), self.constraint)
        return Constrained(self.deviation, self.weight, constraint), result

    def init(self, prior: AbstractGenerativePrior, z: Array) -> tuple[Array, Array]:
        return z, self.constraint.prox(prior.decode(z), 1.0)

    def objective(
        self,
        likelihood: Likelihood,
        prior: AbstractGenerativePrior,
        y: State,
        weight: Array,
        variables: tuple[Array, Array],
    ) -> tuple[Array, Array | float]:
        # An optimiser of optax may leave the set, where the objective is that of the projection.
        z, x = variables[0], self.image(prior, variables)
        distance = self.deviation(x - prior.decode(z))
        return likelihood.negative_log_likelihood(x, y) + weight * prior.energy(z) + self.weight * distance, 0.0

    def proximal_map(self) -> AbstractProximalMap | None:
        return ClosedForm(self.constraint, self.weight) if self.deviation.is_smooth else None

    def image(self, prior: AbstractGenerativePrior, variables: tuple[Array, Array]) -> Array:
        del prior
        return projected(self.constraint, variables[1])

    def latent(self, variables: tuple[Array, Array]) -> Array:
        return variables[0]

    def scaled(self, factor: Array) -> "Constrained":
        return Constrained(self.deviation, self.weight * factor.astype(self.weight.dtype), self.constraint)
