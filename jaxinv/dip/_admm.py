"""The deep image prior by variable splitting."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_parameter, check_count
from .._proximal_map import AbstractProximalMap
from .._solution import RESULTS
from .._types import IntLike, Key, PyTree
from ..likelihood import prepare_parameter
from ..requirements import Requirement, positive
from ._method import AbstractWeightsMethod, Evaluation, Problem


class _Parameters(NamedTuple):
    penalty: Array
    proximal: AbstractProximalMap


class _Memory(NamedTuple):
    """The state of the splitting.

    - `copy`: `v`; `dual`: `u`.
    - `proximal`: the state of the proximal map.
    - `penalty`: 0 before the first update, when there is no copy to which the image could be drawn.
    """

    copy: Array
    dual: Array
    proximal: PyTree[Array]
    penalty: Array


class ADMM(AbstractWeightsMethod):
    """Alternating directions: the regulariser acts by its proximal map on a copy `v` of the image.

    Every `every` steps of descent on `-log p(y | F(z0)) + penalty/2 ||F(z0) - v + u||^2` are followed by
    `v = argmin weight R(v) + penalty/2 ||F(z0) - v + u||^2` and `u <- u + F(z0) - v`. Total variation is not smoothed;
    its proximal map starts each time with the dual at which the last call stopped.

    - `penalty`: positive, in the unit of the weight per unit of the image: at each update, total variation flattens
        differences of about `weight / penalty`. Raise it where the image strays from its copy.
    - `every`: static, the number of steps of descent between two updates.

    **Raises:** in `reconstruct`, `ValueError` for a regulariser without a proximal map.

    **Reference:** Cascarano, Sebastiani, Comes, Franchini, Porta, Combining weighted total variation and deep image
    prior for natural and medical image restoration via ADMM, 2021.
    """

    penalty: Array = eqx.field(converter=as_parameter)
    every: IntLike = eqx.field(default=10, static=True)

    def __check_init__(self):
        check_count(self.every, "every")

    def requirements(self) -> tuple[Requirement, ...]:
        return (positive("penalty", self.penalty),)

    def prepare(self, problem: Problem, result: RESULTS) -> tuple[Problem, RESULTS]:
        operator, regulariser = problem.likelihood.operator, problem.regulariser
        penalty, result = prepare_parameter(self.penalty, operator, result, positive=True, name="penalty")
        proximal = None if regulariser is None else regulariser.proximal_map(problem.weight)
        if proximal is None:
            raise ValueError(
                f"`ADMM` needs a regulariser with a proximal map, TV(), L1(), Tikhonov() or Gaussian(prior); got "
                f"{regulariser}. Smooth ones, and sums, are for `Plain()`."
            )
        return problem.with_parameters(_Parameters(penalty, proximal)), result

    def init(self, problem: Problem, weights: dict[str, Array]) -> tuple[dict[str, Array], _Memory]:
        domain, parameters = problem.likelihood.operator.domain, problem.parameters
        zeros = jnp.zeros(domain.shape, domain.dtype)
        return weights, _Memory(zeros, zeros, parameters.proximal.init(zeros), jnp.zeros_like(parameters.penalty))

    def loss(
        self, problem: Problem, variables: dict[str, Array], memory: _Memory, z: Array, *, key: Key
    ) -> tuple[Array, Evaluation]:
        del key
        image = problem.image(variables, z)
        fit = problem.fit(image)
        coupling = 0.5 * memory.penalty * jnp.sum(jnp.abs(image - memory.copy + memory.dual) ** 2)
        return fit + coupling, Evaluation(image, fit + problem.penalty(image))

    def step(self, problem: Problem, memory: _Memory, image: Array, index: Array) -> _Memory:
        penalty, proximal = problem.parameters

        def update() -> _Memory:
            copy, state = proximal(image + memory.dual, 1 / penalty, memory.proximal)
            return _Memory(copy, memory.dual + image - copy, state, penalty)

        return jax.lax.cond((index + 1) % self.every == 0, update, lambda: memory)
