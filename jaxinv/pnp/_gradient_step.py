"""Descent on an explicit objective whose regulariser a denoiser defines (GS-PnP), a method of `pnp.reconstruct`."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_leaf
from .._solution import RESULTS
from .._types import IntLike, Key, Scalar
from ._method import AbstractProximal, Iterate, Problem, QuadraticData

# A step that lowers the objective by less than `_DECREASE / step ||x - x_old||^2` is tried again, shorter by `_SHRINK`.
_DECREASE = 0.1
_SHRINK = 0.7


class _Memory(NamedTuple):
    """
    - `slope`: the gradient of the potential at the image.
    - `objective`: the objective there; infinite before the first step.
    - `step`: the length of the next step.
    - `accepted`: whether the last step was taken.
    """

    slope: Array
    objective: Array
    step: Array
    accepted: Array


class GradientStep(AbstractProximal[_Memory]):
    """Minimise `-log p(y | x) + weight / sigma^2 g(x, sigma)`, where `D = id - grad g` is a gradient-step denoiser.

    `g` is `denoiser.potential`, by default `1/2 ||x - D(x, sigma)||^2`, for which the network is trained in the
    reference; that of `Proximal` is the Moreau envelope of its regulariser. Each step is
    `x = argmin -log p(y | x) + 1 / (2 step) ||x - x_old + step weight / sigma^2 grad g(x_old)||^2`, with the length of
    the step found by backtracking. So the objective falls in every step, and the images converge to a stationary point,
    whatever the denoiser. It takes linear operators and Gaussian noise; photon noise by its Gaussian approximation. A
    step costs one evaluation of the denoiser with its gradient.

    - `sigma`: positive, the noise level at which it calls the denoiser.
    - `weight`: positive; the larger, the smoother the image.
    - `max_steps`: static; steps that are tried again count.
    - `rtol`: the relative change of the image at which the steps end.
    - `solver_rtol`, `solver_steps`: the relative residual at which conjugate gradients stop, and their largest number
        of steps, static.

    Its `stats` have the `objective`, and `step`, the last length of a step in units of `sigma^2 / weight`.

    **Reference:** Hurault, Leclaire, Papadakis, Gradient step denoiser for convergent plug-and-play, 2022, Algorithm 1.
    """

    sigma: Scalar = eqx.field(converter=as_leaf)
    weight: Scalar = eqx.field(default=1.0, converter=as_leaf)
    max_steps: IntLike = eqx.field(default=200, static=True)
    rtol: Scalar = eqx.field(default=1e-4, converter=as_leaf)
    solver_rtol: Scalar = eqx.field(default=1e-5, converter=as_leaf)
    solver_steps: IntLike = eqx.field(default=100, static=True)

    def begin(self, problem: Problem[QuadraticData]) -> _Memory:
        zero = jnp.zeros_like(problem.start)
        one = jnp.ones((), zero.dtype)
        return _Memory(zero, jnp.inf * one, one, jnp.ones((), bool) & (one > 0))

    def move(
        self, problem: Problem[QuadraticData], x: Array, memory: _Memory, index: Array, *, key: Key | None
    ) -> tuple[Array, _Memory, RESULTS]:
        del index, key
        sigma, weight = problem.options
        penalty = weight / sigma**2
        # The first step begins without the gradient of the potential, as the network stands once in the program.
        new, misfit, code = problem.data.proximal(x - memory.step * memory.slope, penalty / memory.step)
        value, slope = jax.value_and_grad(lambda x: problem.denoiser.potential(x, sigma))(new)
        objective = misfit + penalty * value
        square = jnp.sum((new - x) ** 2)
        # Rounding of the objective must not reject a step.
        slack = 10 * jnp.finfo(objective.dtype).eps * jnp.abs(objective)
        needed = memory.objective - _DECREASE * penalty / memory.step * square + slack
        accepted = objective <= needed
        choose = lambda a, b: jnp.where(accepted, a, b)
        step = choose(memory.step, _SHRINK * memory.step)
        kept = _Memory(choose(slope, memory.slope), choose(objective, memory.objective), step, accepted)
        return choose(new, x), kept, code

    def step(
        self, problem: Problem[QuadraticData], state: Iterate, index: Array, *, key: Key | None = None
    ) -> tuple[Iterate, Array, RESULTS]:
        new, finished, code = super().step(problem, state, index, key=key)
        # An image that did not change because its step was rejected has not converged.
        failed = code != RESULTS.successful
        return new, finished & (failed | new.memory.accepted), code

    def finish(
        self, problem: Problem[QuadraticData], state: Iterate, *, key: Key | None = None
    ) -> tuple[Array, dict[str, Array]]:
        image, stats = super().finish(problem, state, key=key)
        return image, stats | {"objective": state.memory.objective, "step": state.memory.step}
