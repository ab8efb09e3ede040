"""The deep image prior itself."""

from typing import Any

from jaxtyping import Array, PyTree

from .._types import Key
from ._method import AbstractOfWeights, Evaluation, Problem


class Plain(AbstractOfWeights):
    """Descent on the objective in the weights: `min_theta -log p(y | F_theta(z0)) + weight * R(F_theta(z0))`.

    A regulariser that is not smooth enters by a subgradient: where a difference is exactly 0, that of total variation
    is 0.

    **Reference:** Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, 2018; Baguer, Leuschner, Schmidt, Computed tomography
    reconstruction using deep image prior and learned reconstruction methods, 2020.
    """

    def enter(self, problem: Problem, z0: Array, result: Any) -> tuple["Plain", Any]:
        del problem, z0
        return self, result

    def memory(self, problem: Problem) -> None:
        del problem

    def loss(
        self, problem: Problem, variables: dict[str, Array], memory: PyTree[Array], z: Array, *, key: Key
    ) -> tuple[Array, Evaluation]:
        del memory, key
        image = problem.image(variables, z)
        objective = problem.fit(image) + problem.penalty(image)
        return objective, Evaluation(image, objective)

    def update(self, problem: Problem, memory: PyTree[Array], image: Array, index: Array) -> None:
        del problem, memory, image, index
