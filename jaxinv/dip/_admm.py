"""The deep image prior by variable splitting."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._checks import check_count
from .._proximal_map import AbstractProximalMap
from .._types import Key
from ..likelihood import prepare_parameter
from ..operators._base import as_parameter
from ._method import AbstractOfWeights, Evaluation, Problem


class ADMM(AbstractOfWeights):
    """Alternating directions: the regulariser acts by its proximal map on a copy `v` of the image.

    Every `every` steps of descent on `-log p(y | F(z0)) + penalty/2 ||F(z0) - v + u||^2` are followed by
    `v = argmin weight R(v) + penalty/2 ||F(z0) - v + u||^2` and `u <- u + F(z0) - v`. Total variation is not smoothed;
    its proximal map goes on, from call to call, with the dual where the last one stopped.

    - `penalty`: positive, in the unit of the weight per unit of the image: at each update, total variation flattens
        differences of about `weight / penalty`.
    - `every`: static.

    **Raises:** in `reconstruct`, `ValueError` for a regulariser without a proximal map.

    **Reference:** Cascarano, Sebastiani, Comes, Franchini, Porta, Combining weighted total variation and deep image
    prior for natural and medical image restoration via ADMM, 2021.
    """

    penalty: Array = eqx.field(converter=as_parameter)
    every: Any = eqx.field(default=10, static=True)
    proximal: AbstractProximalMap | None = None

    def __check_init__(self):
        check_count(self.every, "every")

    def enter(self, problem: Problem, z0: Array, result: Any) -> tuple["ADMM", Any]:
        del z0
        operator = problem.likelihood.operator
        penalty, result = prepare_parameter(self.penalty, operator, result, positive=True, name="penalty")
        regulariser = problem.regulariser
        proximal = None if regulariser is None else regulariser.proximal_map(problem.weight)
        if proximal is None:
            raise ValueError(
                f"`ADMM` needs a regulariser with a proximal map, TV(), L1(), Tikhonov() or Gaussian(prior); got "
                f"{regulariser}. Smooth ones, and sums, are for `Plain()`."
            )
        return ADMM(penalty, self.every, proximal), result

    def memory(self, problem: Problem) -> tuple[Array, Array, PyTree[Array], Array]:
        assert self.proximal is not None
        domain = problem.likelihood.operator.domain
        nothing = jnp.zeros(domain.shape, domain.dtype)
        # Before the first update there is no copy that the image could be drawn to.
        return nothing, nothing, self.proximal.init(nothing), jnp.zeros_like(self.penalty)

    def loss(
        self, problem: Problem, variables: dict[str, Array], memory: PyTree[Array], z: Array, *, key: Key
    ) -> tuple[Array, Evaluation]:
        del key
        copy, dual, _, penalty = memory
        image = problem.image(variables, z)
        fit = problem.fit(image)
        coupling = 0.5 * penalty * jnp.sum(jnp.abs(image - copy + dual) ** 2)
        return fit + coupling, Evaluation(image, fit + problem.penalty(image))

    def update(self, problem: Problem, memory: PyTree[Array], image: Array, index: Array) -> PyTree[Array]:
        proximal = self.proximal
        assert proximal is not None

        def moved() -> PyTree[Array]:
            _, dual, state, _ = memory
            copy, state = proximal(image + dual, 1 / self.penalty, state)
            return copy, dual + image - copy, state, self.penalty

        return jax.lax.cond((index + 1) % self.every == 0, moved, lambda: memory)
