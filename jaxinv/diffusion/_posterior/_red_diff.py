"""Regularisation by denoising diffusion (RED-diff), a method of `posterior_sample`."""

from typing import Any

import equinox as eqx
import jax
import optax
from jaxtyping import Array

from ..._arrays import as_parameter, standard_promotion
from ..._conjugate_gradients import conjugate_gradients
from ..._method import advance
from ..._score import AbstractProcess, AbstractScore
from ..._solution import RESULTS
from ..._types import Checked, IntLike, Key, PyTree, State, Stats
from ...likelihood import Likelihood
from ...operators import AbstractLinearOperator
from ...requirements import Requirement, not_negative, positive
from .._processes._schedule import AbstractSchedule, UniformTime
from .._samplers._sampler import check_steps
from ._dps import residual_square
from ._method import AbstractPosteriorMethod, first_failure
from ._problem import AbstractProblem, Problem, any_problem, linear_problem

# The decay rates of Adam in the authors' code.
_MOMENTUM, _SQUARES = 0.9, 0.99
# Conjugate gradients for the start stop early, which regularises.
_START_STEPS, _START_RTOL = 10, 1e-3


class StartedProblem(AbstractProblem):
    """A problem, and the initial image of the descent; `None` for a random one."""

    score: AbstractScore
    problem: Problem
    start: Array | None
    image: jax.ShapeDtypeStruct = eqx.field(static=True)


class REDDiff(AbstractPosteriorMethod[StartedProblem, tuple]):
    """RED-diff: Adam on `||y - A mu||^2 + weight (std / scale) <E[n | x_t] - n, mu>` with `x_t = scale mu + std n`.

    Each step draws a new `n`, while `t` decreases from `t_max`; the bracket, which is not differentiated, is the
    gradient `mu - E[x_0 | x_t]`, a pull towards the denoised image. **The results are not samples of the posterior**:
    they are modes of a regularised objective, and differ only by the effects of the noise of the steps and of the modes
    of the prior.

    It accepts any differentiable operator and any noise. As in the paper the square does not depend on the noise level,
    so choose `weight` for the level (with noise of std `s` a Gaussian likelihood times `2 s^2` is this square). For
    photon noise, and for levels that differ between entries, residuals are in units of the noise times its root mean
    square, by `noise.linearise`; the noise must be positive. It starts, as in the paper, from the pseudo-inverse of the
    measurement (a few conjugate gradients), and for a non-linear operator from a standard normal image. It costs one
    evaluation per step, and no vector-Jacobian products.

    - `num_steps`: the number of steps, static.
    - `weight`: the weight of the regulariser, not negative; choose it for the noise level.
    - `learning_rate`: the learning rate of Adam, in the unit of the image, positive.
    - `schedule`: the times at which it denoises.

    **Reference:** Mardani, Song, Kautz, Vahdat, A variational perspective on solving inverse problems with diffusion
    models, 2023, Algorithm 1.

    Measured for a Gaussian prior (benchmarks, posterior gaussian: a row of 16 pixels blurred, every fourth of them):
    Wasserstein-2 to the posterior 1.80 and .56 of its size, where exact draws have .015 and .013; .038 and .22 of its
    variance.
    """

    num_steps: IntLike = eqx.field(default=1000, static=True)
    weight: Array = eqx.field(default=0.25, converter=as_parameter)
    learning_rate: Array = eqx.field(default=0.1, converter=as_parameter)
    schedule: Checked[AbstractSchedule] = UniformTime()

    def __check_init__(self):
        check_steps(self.num_steps, self.schedule)

    def requirements(self) -> tuple[Requirement, ...]:
        return (not_negative("weight", self.weight), positive("learning_rate", self.learning_rate))

    def times(self, process: AbstractProcess) -> Array:
        return self.schedule.times(process, self.num_steps)

    def prepare(self, likelihood: Likelihood, score: AbstractScore, y: State) -> tuple[StartedProblem, RESULTS]:
        problem, code = any_problem(likelihood, score, y)
        start = None
        if isinstance(likelihood.operator, AbstractLinearOperator):
            start, start_code = _pseudo_inverse(likelihood, score, y)
            code = first_failure(code, start_code)
        return StartedProblem(score=score, problem=problem, start=start, image=problem.image), code

    def init(self, problem: StartedProblem, *, key: Key) -> tuple[Array, PyTree]:
        mu = problem.start
        if mu is None:
            mu = jax.random.normal(key, problem.image.shape, problem.image.dtype)
        return mu, self._adam(mu.dtype).init(mu)

    def step(
        self, problem: StartedProblem, state: tuple[Array, PyTree], t: Array, t_next: Array, *, key: Key
    ) -> tuple[tuple[Array, PyTree], Array, RESULTS]:
        del t_next
        mu, moments = state
        scale, std = problem.process.marginal(t)
        noise = jax.random.normal(key, mu.shape, mu.dtype)
        image = problem.score.denoiser(t, scale * mu + std * noise)
        misfit = lambda mu: residual_square(problem.problem, mu)
        gradient = jax.grad(misfit)(mu) + self.weight.astype(mu.dtype) * (mu - image)
        with standard_promotion():
            updates, moments = self._adam(mu.dtype).update(gradient, moments)
        return advance((optax.apply_updates(mu, updates), moments), state)

    def finish(self, problem: StartedProblem, state: tuple[Array, PyTree], *, key: Key) -> tuple[Array, Stats]:
        del problem, key
        return state[0], {}

    def _adam(self, dtype: Any) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate.astype(dtype), b1=_MOMENTUM, b2=_SQUARES)


def _pseudo_inverse(likelihood: Likelihood, score: AbstractScore, y: State) -> tuple[Array, RESULTS]:
    """The least-squares image of a linear problem, regularised by few steps of conjugate gradients, and their code."""
    linear, _ = linear_problem(likelihood, score, y, "REDDiff")
    solved = conjugate_gradients(
        lambda v, operator: operator.normal(v),
        linear.operator.adjoint(linear.data),
        linear.operator,
        rtol=_START_RTOL,
        max_steps=_START_STEPS,
        exhausted=RESULTS.successful,
    )
    return solved.x, solved.result
