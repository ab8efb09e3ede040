"""Annealed Langevin dynamics."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._checks import check_count
from ..._loop import iterate
from ..._score import AbstractScore
from ..._solution import RESULTS
from ..._types import Key, State
from ...likelihood import Likelihood
from ...operators._base import as_parameter
from .._processes._schedule import UniformLogSNR
from .._samplers._sampler import check_steps
from ._curved_problem import CurvedProblem, check_step_size, enter_curved
from ._loops import repeat
from ._method import AbstractIndependent, Draws, counts
from ._problem import ratio


class AnnealedLangevin(AbstractIndependent):
    """Annealed Langevin: `u + a/2 (score + grad log p(y | u) / (1 + r^2 L)) + sqrt(a) z`, `a = step_size r^2`.

    In `u = x / scale`, where the process only adds noise, of level `r = std/scale`; so many steps at each level, then
    the next. `L` is the curvature of `-log p(y | u)`, `||S^{-1/2} A'||^2` by a power iteration: the covariance `S` of
    the noise is enlarged to `(1 + r^2 L) S`, which for `A A^T = I` and white noise is the `s^2 + r^2` of the second
    reference. Any differentiable operator and any noise; of operators that are not linear `L` is found at each level.
    A noise level of 0 is `invalid_parameter`. A step is one evaluation, without vector-Jacobian products of the score;
    one more evaluation denoises the end.

    Its bias: too few steps end before the measurement has drawn the mean all the way, and long ones have too much
    variance, a factor of up to `1/(1 - step_size/2)`; and where modes are far apart their weights are those of the
    first levels, as Langevin steps do not move between them.

    Measured for a Gaussian prior (benchmarks, posterior gaussian: a row of 16 pixels blurred, every fourth of them):
    Wasserstein-2 to the posterior .039 and .19 of its size, where exact draws have .015 and .013; 1.05 and 1.15 of its
    variance.

    - `num_levels`, `steps_per_level`: static.
    - `step_size`: positive and below 2; .2 in the first reference, where more steps are taken.
    - `schedule`: of the levels, which are its times after the first.

    **Reference:** Song, Ermon, Generative modeling by estimating gradients of the data distribution, 2019, Algorithm 1;
    Jalal, Arvinte, Daras, Price, Dimakis, Tamir, Robust compressed sensing MRI with deep generative priors, 2021.
    """

    num_levels: Any = eqx.field(default=100, static=True)
    steps_per_level: Any = eqx.field(default=5, static=True)
    step_size: Array = eqx.field(default=1.0, converter=as_parameter)
    schedule: Any = UniformLogSNR()

    def __check_init__(self):
        check_steps(self.num_levels, self.schedule)
        check_count(self.steps_per_level, "steps_per_level")
        check_step_size(self.step_size, 2.0)

    def enter(self, score: AbstractScore, likelihood: Likelihood, y: State) -> tuple[CurvedProblem, Any]:
        return enter_curved(score, likelihood, y)

    def one(self, problem: CurvedProblem, *, key: Key, result: Any, progress: Any) -> Draws:
        process, image = problem.process, problem.image
        start, moving = (jax.random.fold_in(key, i) for i in range(2))
        u = process.prior_sample(image.shape, key=start, dtype=image.dtype) / process.marginal(process.t_max)[0]
        times = self.schedule.times(process, self.num_levels)[1:]
        # The last level once more, for a step that denoises.
        times = jnp.append(times, times[-1:])
        step = lambda index, u, args: _level(self, index, u, args)
        args = (problem, times, self.step_size.astype(image.dtype), moving)
        u, taken, result = repeat(step, u, args, self.num_levels + 1, result, progress)
        num_levels = jnp.minimum(taken, self.num_levels)
        num_steps = self.steps_per_level * num_levels
        return Draws(u, result, counts(num_steps, num_steps + taken - num_levels, 0))


def _level(method: AnnealedLangevin, index: Array, u: Array, args: PyTree) -> tuple[Array, Any]:
    problem, times, step_size, key = args
    t = times[index]
    square = ratio(problem.process, t) ** 2
    args = (problem, t, square, 1 / (1 + square * problem.curvature(u)), 0.5 * step_size * square)
    args = (*args, index == method.num_levels, jax.random.fold_in(key, index))
    u, _, code = iterate(_step, u, args, max_steps=method.steps_per_level, exhausted=RESULTS.successful)
    return u, code


def _step(index: Array, u: Array, args: PyTree) -> tuple[Array, Array, Any]:
    problem, t, square, weight, length, last, key = args
    image, _ = problem.score.predict(t, problem.process.marginal(t)[0] * u)
    gradient = (image - u) / square - weight * problem.slope(u)
    z = jax.random.normal(jax.random.fold_in(key, index), u.shape, u.dtype)
    moved = u + length * gradient + jnp.sqrt(2 * length) * z
    return jnp.where(last, image, moved), last, RESULTS.successful
