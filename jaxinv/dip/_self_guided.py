"""The self-guided deep image prior."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_parameter, check_count
from .._solution import RESULTS
from .._types import IntLike, Key, PyTree
from ..likelihood import prepare_parameter
from ..requirements import Requirement, not_negative
from ._method import AbstractMethod, Evaluation, Problem


class _Parameters(NamedTuple):
    weight: Array
    level: Array


class SelfGuided(AbstractMethod):
    """The input is an unknown too, and the network its denoiser, so that no early stop and no clean image is needed.

    `min_{theta, z} -log p(y | x) + weight/2 ||x - z||^2 + R` with `x = E F_theta(z + n)`, a mean over noise `n` that is
    drawn anew in each step, normal with the standard deviation `level` times the largest modulus of `z`. `z` begins as
    the start: take `FromAdjoint()` or `FromFBP()`. The network's input must have the shape of its image, as that of a
    `SkipUNet`. The optimiser acts on a dict of `weights` and `input`; `jitter` is not used.

    - `weight`: the weight of the distance between input and image, not negative. The reference has it as `a` in
        `||A x - y||^2 + a ||x - z||^2`, which is `weight = a / std^2`.
    - `level`: the relative standard deviation of the noise, not negative.
    - `num_samples`: static, the number of noisy inputs in a step.

    **Raises:** in `reconstruct`, `ValueError` if input and image differ in shape.

    **Reference:** Liang, Bell, Qu, Wang, Ravishankar, Analysis of deep image prior and exploiting self-guidance for
    image reconstruction, 2024.
    """

    weight: Array = eqx.field(default=1.0, converter=as_parameter)
    level: Array = eqx.field(default=0.25, converter=as_parameter)
    num_samples: IntLike = eqx.field(default=2, static=True)

    def __check_init__(self):
        check_count(self.num_samples, "num_samples")

    def requirements(self) -> tuple[Requirement, ...]:
        return (not_negative("weight", self.weight), not_negative("level", self.level))

    def prepare(self, problem: Problem, result: RESULTS) -> tuple[Problem, RESULTS]:
        operator = problem.likelihood.operator
        if problem.z0.shape != tuple(operator.domain.shape):
            raise ValueError(
                f"`SelfGuided` compares the input of the network with its image, of shape "
                f"{tuple(operator.domain.shape)}; the input has shape {problem.z0.shape}."
            )
        weight, result = prepare_parameter(self.weight, operator, result, name="SelfGuided.weight")
        level, result = prepare_parameter(self.level, operator, result, name="SelfGuided.level")
        return problem.with_parameters(_Parameters(weight, level)), result

    def init(self, problem: Problem, weights: dict[str, Array]) -> tuple[dict[str, PyTree[Array]], None]:
        return {"weights": weights, "input": problem.z0}, None

    def loss(
        self, problem: Problem, variables: dict[str, PyTree[Array]], memory: None, z: Array, *, key: Key
    ) -> tuple[Array, Evaluation]:
        # The input is a variable here, and gets the noise of this method, not the jitter of the run.
        del memory, z
        image = self._image(problem, variables, key=key)
        fit, penalty = problem.fit(image), problem.penalty(image)
        distance = 0.5 * problem.parameters.weight * jnp.sum(jnp.abs(image - variables["input"]) ** 2)
        return fit + distance + penalty, Evaluation(image, fit + penalty)

    def step(self, problem: Problem, memory: None, image: Array, index: Array) -> None:
        del problem, memory, image, index

    def finish(self, problem: Problem, variables: dict[str, PyTree[Array]]) -> tuple[dict[str, Array], Array]:
        del problem
        return variables["weights"], variables["input"]

    def _image(self, problem: Problem, variables: dict[str, PyTree[Array]], *, key: Key) -> Array:
        z = variables["input"]
        size = problem.parameters.level * jax.lax.stop_gradient(jnp.max(jnp.abs(z)))
        noise = jax.random.normal(key, (self.num_samples, *z.shape), z.dtype)
        return jnp.mean(problem.images(variables["weights"], z[None] + size * noise), axis=0)
