"""Draws from a Gaussian around an image, given a measurement."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._checks import check_count
from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import Key, State
from ...likelihood import Likelihood
from ...noise import AbstractGaussianNoise
from ...operators import AbstractLinearOperator
from ...operators._base import as_parameter
from ._curved_problem import CurvedProblem, check_step_size, enter_curved
from ._langevin import langevin
from ._method import finite_or
from ._problem import LinearProblem, enter_linear
from ._white_noise import white_noise


class AbstractLikelihoodDraw(eqx.Module):
    """How a draw from `N(x; centre, variance I) p(y | x)` is made."""

    @abc.abstractmethod
    def enter(self, score: AbstractScore, likelihood: Likelihood, y: State, name: str) -> tuple[PyTree, Any]:
        """As that of a posterior method, called `name`."""

    @abc.abstractmethod
    def draw(self, problem: PyTree, centre: Array, variance: Array, *, key: Key) -> tuple[Array, Any]:
        """The draw, and the code."""


class Exact(AbstractLikelihoodDraw):
    """Perturbation and conjugate gradients: `x' + v A^T (v A A^T + S)^{-1} (y + n - A x')`, `x' ~ N(centre, v I)`.

    Here `n ~ N(0, S)` and `v` is the variance. Linear operators and Gaussian noise of any covariance `S`; photon noise
    by its approximation (`noise.linearise`).

    - `solver_steps`, `rtol`: of conjugate gradients, the most, static, and the relative residual at which they stop.

    **Reference:** Papandreou, Yuille, Gaussian sampling by local perturbations, 2010.
    """

    solver_steps: Any = eqx.field(default=100, static=True)
    rtol: float = eqx.field(default=1e-4, static=True)

    def __check_init__(self):
        check_count(self.solver_steps, "solver_steps")

    def enter(self, score: AbstractScore, likelihood: Likelihood, y: State, name: str) -> tuple[LinearProblem, Any]:
        return enter_linear(score, likelihood, y, f"{name} with Exact()")

    def draw(self, problem: LinearProblem, centre: Array, variance: Array, *, key: Key) -> tuple[Array, Any]:
        prior_key, noise_key = (jax.random.fold_in(key, i) for i in range(2))
        x = centre + jnp.sqrt(variance) * jax.random.normal(prior_key, centre.shape, centre.dtype)
        residual = problem.residual(x)
        residual = jax.tree.map(jnp.add, residual, white_noise(residual, noise_key))
        solved = problem.solve_isotropic(residual, variance, self.rtol, self.solver_steps)
        return finite_or(x + variance * problem.operator.adjoint(solved), x, RESULTS.successful)


class Langevin(AbstractLikelihoodDraw):
    """Langevin steps from the centre: any differentiable operator, any noise.

    `x - h grad(-log p(y | x) + ||x - centre||^2 / (2 v)) + sqrt(2 h) z` with `h = step_size / (1/v + L)`; `v` is the
    variance and `L` the curvature of the negative log-likelihood at the centre, `||S^{-1/2} A'||^2` by a power
    iteration. Its bias: the variance is too large by a factor of up to `1/(1 - step_size/2)` where it is reached, and
    too small in directions of which the measurement says little, in which it takes some `(1 + L v) / step_size` steps.

    - `num_steps`: static; a gradient of the likelihood each.
    - `step_size`: positive and below 2.

    **Reference:** Zhang, Chu, Berner, Meng, Anandkumar, Song, Improving diffusion inverse problem solving with
    decoupled noise annealing, 2024, section 3.2.
    """

    num_steps: Any = eqx.field(default=100, static=True)
    step_size: Array = eqx.field(default=0.2, converter=as_parameter)

    def __check_init__(self):
        check_count(self.num_steps, "num_steps")
        check_step_size(self.step_size, 2.0)

    def enter(self, score: AbstractScore, likelihood: Likelihood, y: State, name: str) -> tuple[CurvedProblem, Any]:
        del name
        return enter_curved(score, likelihood, y)

    def draw(self, problem: CurvedProblem, centre: Array, variance: Array, *, key: Key) -> tuple[Array, Any]:
        length = self.step_size.astype(centre.dtype) / (1 / variance + problem.curvature(centre))
        return langevin(_gradient, centre, (problem, centre, variance), length, self.num_steps, key=key)


def enter_drawing(
    inner: AbstractLikelihoodDraw | None, score: AbstractScore, likelihood: Likelihood, y: State, name: str
) -> tuple[tuple[AbstractLikelihoodDraw, PyTree], Any]:
    """How the method called `name` draws, `choose(inner, likelihood)`, with the problem as that sees it."""
    inner = choose(inner, likelihood)
    problem, result = inner.enter(score, likelihood, y, name)
    return (inner, problem), result


def choose(inner: AbstractLikelihoodDraw | None, likelihood: Likelihood) -> AbstractLikelihoodDraw:
    """`inner`, or where it is `None` the exact draw if there is one."""
    if inner is not None:
        return inner
    linear = isinstance(likelihood.operator, AbstractLinearOperator)
    return Exact() if linear and isinstance(likelihood.noise, AbstractGaussianNoise) else Langevin()


def _gradient(x: Array, args: Any) -> Array:
    problem, centre, variance = args
    return (centre - x) / variance - problem.slope(x)


def check_inner(inner: Any) -> None:
    """Raise unless this says how a draw is made, or leaves it open."""
    if not (inner is None or isinstance(inner, AbstractLikelihoodDraw)):
        raise ValueError(f"`inner` must be `Exact()` or `Langevin()` of `jaxinv.diffusion`; got {inner!r}.")
