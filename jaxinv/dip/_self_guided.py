"""The self-guided deep image prior."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._checks import check_count
from .._types import Key
from ..likelihood import prepare_parameter
from ..operators._base import as_parameter
from ._method import AbstractMethod, Evaluation, Problem


class SelfGuided(AbstractMethod):
    """The input is an unknown too, and the network its denoiser: no early stop, no clean image needed.

    `min_{theta, z} -log p(y | x) + weight/2 ||x - z||^2 + R` with `x = E F_theta(z + n)`, a mean over noise `n` that is
    drawn anew in each step, normal with the standard deviation `level` times the largest modulus of `z`. `z` begins as
    the start: take `FromAdjoint()` or `FromFBP()`. The network's input must have the shape of its image, as that of a
    `SkipUNet`. The optimiser acts on a dict of `weights` and `input`; `jitter` is not used.

    - `weight`: of the distance between input and image, not negative. Theirs, `a` in
        `||A x - y||^2 + a ||x - z||^2`, is `weight = a / std^2`.
    - `level`: not negative.
    - `num_samples`: static, of the noise in a step.

    **Raises:** in `reconstruct`, `ValueError` if input and image differ in shape.

    **Reference:** Liang, Bell, Qu, Wang, Ravishankar, Analysis of deep image prior and exploiting self-guidance for
    image reconstruction, 2024.
    """

    weight: Array = eqx.field(default=1.0, converter=as_parameter)
    level: Array = eqx.field(default=0.25, converter=as_parameter)
    num_samples: Any = eqx.field(default=2, static=True)

    def __check_init__(self):
        check_count(self.num_samples, "num_samples")

    def enter(self, problem: Problem, z0: Array, result: Any) -> tuple["SelfGuided", Any]:
        operator = problem.likelihood.operator
        if z0.shape != tuple(operator.domain.shape):
            raise ValueError(
                f"`SelfGuided` compares the input of the network with its image, of shape "
                f"{tuple(operator.domain.shape)}; the input has shape {z0.shape}."
            )
        weight, result = prepare_parameter(self.weight, operator, result, name="SelfGuided.weight")
        level, result = prepare_parameter(self.level, operator, result, name="SelfGuided.level")
        return SelfGuided(weight, level, self.num_samples), result

    def variables(self, weights: dict[str, Array], z0: Array) -> dict[str, Any]:
        return {"weights": weights, "input": z0}

    def weights(self, variables: dict[str, Any]) -> dict[str, Array]:
        return variables["weights"]

    def input(self, variables: dict[str, Any], z0: Array) -> Array:
        del z0
        return variables["input"]

    def memory(self, problem: Problem) -> None:
        del problem

    def loss(
        self, problem: Problem, variables: dict[str, Any], memory: PyTree[Array], z: Array, *, key: Key
    ) -> tuple[Array, Evaluation]:
        # The input is a variable, and its noise is of the method.
        del memory, z
        image = self._image(problem, variables, key=key)
        fit, penalty = problem.fit(image), problem.penalty(image)
        distance = 0.5 * self.weight * jnp.sum(jnp.abs(image - variables["input"]) ** 2)
        return fit + distance + penalty, Evaluation(image, fit + penalty)

    def update(self, problem: Problem, memory: PyTree[Array], image: Array, index: Array) -> None:
        del problem, memory, image, index

    def _image(self, problem: Problem, variables: dict[str, Any], *, key: Key) -> Array:
        z = variables["input"]
        size = self.level * jax.lax.stop_gradient(jnp.max(jnp.abs(z)))
        noise = jax.random.normal(key, (self.num_samples, *z.shape), z.dtype)
        return jnp.mean(problem.images(variables["weights"], z[None] + size * noise), axis=0)
