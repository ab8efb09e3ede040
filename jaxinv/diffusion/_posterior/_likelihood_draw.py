"""Draws from a Gaussian around an image, given a measurement: the inner step of `DAPS` and `PnPDM`."""

import abc
from typing import Any, Generic

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import as_leaf, as_parameter, check_count, subkeys
from ..._loop import iterate
from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import IntLike, Key, PyTree, Scalar, State
from ...likelihood import Likelihood
from ...noise import AbstractGaussianNoise
from ...operators import AbstractLinearOperator
from ...requirements import Parametric, Requirement, not_negative
from ._method import Problem
from ._problem import (
    AbstractProblem,
    CurvedProblem,
    LinearProblem,
    curved_problem,
    linear_problem,
    step_size,
    white_noise,
)


class AbstractLikelihoodDraw(Parametric, Generic[Problem]):
    """A method to draw from `N(x; centre, variance I) p(y | x)`."""

    @abc.abstractmethod
    def prepare(self, likelihood: Likelihood, score: AbstractScore, y: State, name: str) -> tuple[Problem, RESULTS]:
        """Prepare the problem for these draws.

        **Arguments:** as for `AbstractPosteriorMethod.prepare`, with `name`, the name of the method for error messages.

        **Returns:** the problem, and its code.
        """

    @abc.abstractmethod
    def draw(self, problem: Problem, centre: Array, variance: Array, *, key: Key) -> tuple[Array, RESULTS]:
        """Draw one image.

        **Arguments:**

        - `problem`: the problem that `prepare` returned.
        - `centre`, `variance`: the mean image of the Gaussian, and its scalar variance.
        - `key`: a key for this draw alone.

        **Returns:** the draw, and its code. With a code of failure the draw may be any finite image.
        """


class Exact(AbstractLikelihoodDraw[LinearProblem]):
    """Perturbation and conjugate gradients: `x' + v A^T (v A A^T + S)^{-1} (y + n - A x')`, `x' ~ N(centre, v I)`.

    Here `n ~ N(0, S)` and `v` is the variance. It accepts linear operators and Gaussian noise of any covariance `S`;
    photon noise by its approximation (`noise.linearise`).

    - `solver_steps`, `rtol`: the largest number of steps of conjugate gradients, static, and the relative residual at
        which they stop, not negative.

    **Reference:** Papandreou, Yuille, Gaussian sampling by local perturbations, 2010.
    """

    solver_steps: IntLike = eqx.field(default=100, static=True)
    rtol: Scalar = eqx.field(default=1e-4, converter=as_leaf)

    def __check_init__(self):
        check_count(self.solver_steps, "solver_steps")

    def requirements(self) -> tuple[Requirement, ...]:
        return (not_negative("rtol", self.rtol),)

    def prepare(
        self, likelihood: Likelihood, score: AbstractScore, y: State, name: str
    ) -> tuple[LinearProblem, RESULTS]:
        return linear_problem(likelihood, score, y, f"{name} with Exact()")

    def draw(self, problem: LinearProblem, centre: Array, variance: Array, *, key: Key) -> tuple[Array, RESULTS]:
        prior_key, noise_key = subkeys(key, 2)
        x = centre + jnp.sqrt(variance) * jax.random.normal(prior_key, centre.shape, centre.dtype)
        residual = problem.residual(x)
        residual = jax.tree.map(jnp.add, residual, white_noise(residual, noise_key))
        solved, code = problem.solve_isotropic(residual, variance, self.rtol, self.solver_steps)
        drawn = x + variance * problem.operator.adjoint(solved)
        finite = jnp.all(jnp.isfinite(drawn))
        code = RESULTS.where((code == RESULTS.successful) & ~finite, RESULTS.nonfinite, code)
        return jnp.where(finite, drawn, centre), code


class Langevin(AbstractLikelihoodDraw[CurvedProblem]):
    """Langevin steps from the centre, for any differentiable operator and any noise.

    `x - h grad(-log p(y | x) + ||x - centre||^2 / (2 v)) + sqrt(2 h) z` with `h = step_size / (1/v + L)`; `v` is the
    variance and `L` the curvature of the negative log-likelihood at the centre, `||S^{-1/2} A'||^2` by a power
    iteration. Its bias: where the chain has converged, the variance is too large by a factor of up to
    `1/(1 - step_size/2)`; in directions with little information in the measurement, which need about
    `(1 + L v) / step_size` steps, it is too small.

    - `num_steps`: the number of steps, static; each computes a gradient of the likelihood.
    - `step_size`: the relative step size, positive and below 2; a smaller one has less bias and needs more steps.

    **Reference:** Zhang, Chu, Berner, Meng, Anandkumar, Song, Improving diffusion inverse problem solving with
    decoupled noise annealing, 2024, section 3.2.
    """

    num_steps: IntLike = eqx.field(default=100, static=True)
    step_size: Array = eqx.field(default=0.2, converter=as_parameter)

    def __check_init__(self):
        check_count(self.num_steps, "num_steps")

    def requirements(self) -> tuple[Requirement, ...]:
        return (step_size(self.step_size),)

    def prepare(
        self, likelihood: Likelihood, score: AbstractScore, y: State, name: str
    ) -> tuple[CurvedProblem, RESULTS]:
        del name
        return curved_problem(likelihood, score, y)

    def draw(self, problem: CurvedProblem, centre: Array, variance: Array, *, key: Key) -> tuple[Array, RESULTS]:
        length = self.step_size.astype(centre.dtype) / (1 / variance + problem.curvature(centre))
        args = (problem, centre, variance, length, key)
        drawn, _, code = iterate(_langevin_step, centre, args, max_steps=self.num_steps, exhausted=RESULTS.successful)
        return drawn, code


def _langevin_step(index: Array, x: Array, args: PyTree) -> tuple[Array, Array, RESULTS]:
    problem, centre, variance, length, key = args
    gradient = (centre - x) / variance - problem.slope(x)
    z = jax.random.normal(jax.random.fold_in(key, index), x.shape, x.dtype)
    return x + length * gradient + jnp.sqrt(2 * length) * z, jnp.zeros((), bool), RESULTS.successful


class DrawingProblem(AbstractProblem):
    """A problem, with the method to draw in it."""

    score: AbstractScore
    problem: AbstractProblem
    inner: AbstractLikelihoodDraw
    image: jax.ShapeDtypeStruct = eqx.field(static=True)

    def draw(self, centre: Array, variance: Array, *, key: Key) -> tuple[Array, RESULTS]:
        """A draw from `N(x; centre, variance I) p(y | x)`, and its code."""
        return self.inner.draw(self.problem, centre, variance, key=key)


def drawing_problem(
    inner: AbstractLikelihoodDraw | None, likelihood: Likelihood, score: AbstractScore, y: State, name: str
) -> tuple[DrawingProblem, RESULTS]:
    """The problem of the method called `name`, which draws by `choose(inner, likelihood)`."""
    inner = choose(inner, likelihood)
    problem, code = inner.prepare(likelihood, score, y, name)
    return DrawingProblem(score=score, problem=problem, inner=inner, image=problem.image), code


def choose(inner: AbstractLikelihoodDraw | None, likelihood: Likelihood) -> AbstractLikelihoodDraw:
    """`inner`; if it is `None`, the exact draw where there is one, and otherwise Langevin steps."""
    if inner is not None:
        return inner
    linear = isinstance(likelihood.operator, AbstractLinearOperator)
    return Exact() if linear and isinstance(likelihood.noise, AbstractGaussianNoise) else Langevin()


def check_inner(inner: Any) -> None:
    """Raise unless `inner` is an `AbstractLikelihoodDraw` or `None`."""
    if not (inner is None or isinstance(inner, AbstractLikelihoodDraw)):
        raise ValueError(f"`inner` must be `Exact()` or `Langevin()` of `jaxinv.diffusion`; got {inner!r}.")
