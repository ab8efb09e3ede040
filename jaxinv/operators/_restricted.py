"""An operator with fewer measured entries, for methods that hold some of them out."""

from jaxtyping import Array

from .._types import PyTree, State, Struct
from ._base import AbstractLinearOperator, AbstractOperator


class Restricted(AbstractOperator):
    """An operator with other weights of its measured entries.

    - `operator`: the operator.
    - `weights`: the weights, of the structure of its own.
    """

    operator: AbstractOperator
    weights: PyTree[Array]

    @property
    def domain(self) -> Struct:
        return self.operator.domain

    @property
    def codomain(self) -> Struct:
        return self.operator.codomain

    @property
    def measured(self) -> PyTree[Array]:
        return self.weights

    def __call__(self, x: State) -> State:
        return self.operator(x)

    def linearise(self, x: State) -> "LinearRestricted":
        return LinearRestricted(self.operator.linearise(x), self.weights)


class LinearRestricted(AbstractLinearOperator):
    """A linear operator with other weights of its measured entries; the fields are those of `Restricted`."""

    operator: AbstractLinearOperator
    weights: PyTree[Array]

    @property
    def domain(self) -> Struct:
        return self.operator.domain

    @property
    def codomain(self) -> Struct:
        return self.operator.codomain

    @property
    def measured(self) -> PyTree[Array]:
        return self.weights

    def __call__(self, x: State) -> State:
        return self.operator(x)

    def adjoint(self, y: State) -> State:
        return self.operator.adjoint(y)
