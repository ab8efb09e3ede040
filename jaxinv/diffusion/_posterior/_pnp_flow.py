"""Plug-and-play flow matching."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._checks import check_count
from ..._score import AbstractScore
from ..._types import Key, State
from ...likelihood import Likelihood
from ...operators._base import as_parameter
from .._samplers._sampler import check_not_negative
from ._curved_problem import CurvedProblem, check_step_size, enter_curved
from ._loops import run
from ._method import AbstractIndependent, Draws, counts
from ._problem import ratio
from ._straight_path import straight_times


class PnPFlow(AbstractIndependent):
    """PnP-Flow: `z = x - h grad(-log p(y | x))`, then `E[x_0 | x_t = scale z + std n]`, as the noise shrinks.

    `h = step_size tau^alpha / L` with `tau = std / (scale + std)`, the time of flow matching, and `L` the curvature of
    `-log p(y | x)`, `||S^{-1/2} A'||^2` by a power iteration. For `FlowMatching()` this is the paper's method; any
    other process is that path after division by `scale + std`, and is followed in the same steps. Any differentiable
    operator and any noise; of operators that are not linear `L` is found at each step. A noise level of 0 is
    `invalid_parameter`. `num_noises` evaluations a step, without vector-Jacobian products of the score.

    Its bias: this restores one image and is no sampler: samples differ less than the posterior allows. The noise level
    has no part in it, as the steps are relative to `L`: `step_size` and `alpha` weigh measurement against prior.

    Measured for a Gaussian prior (benchmarks, posterior gaussian: a row of 16 pixels blurred, every fourth of them):
    Wasserstein-2 to the posterior .48 and .37 of its size, where exact draws have .015 and .013; .32 and .54 of its
    variance.

    - `num_steps`: static.
    - `num_noises`: draws of the noise that each denoised image is the mean of (5 in the paper); static.
    - `step_size`: positive and below 2.
    - `alpha`: the power, not negative; the paper tunes it to the problem, .01 to 1.

    **Reference:** Martin, Gagneux, Hagemann, Steidl, PnP-Flow: plug-and-play image restoration with flow matching,
    2025, Algorithm 3.
    """

    num_steps: Any = eqx.field(default=100, static=True)
    num_noises: Any = eqx.field(default=1, static=True)
    step_size: Array = eqx.field(default=1.0, converter=as_parameter)
    alpha: Array = eqx.field(default=0.5, converter=as_parameter)

    def __check_init__(self):
        check_count(self.num_steps, "num_steps")
        check_count(self.num_noises, "num_noises")
        check_step_size(self.step_size, 2.0)
        check_not_negative(self.alpha, "alpha")

    def enter(self, score: AbstractScore, likelihood: Likelihood, y: State) -> tuple[CurvedProblem, Any]:
        return enter_curved(score, likelihood, y)

    def one(self, problem: CurvedProblem, *, key: Key, result: Any, progress: Any) -> Draws:
        image = problem.image
        times = straight_times(problem.process, jnp.ones((), image.dtype), self.num_steps)
        sizes = (self.step_size.astype(image.dtype), self.alpha.astype(image.dtype))
        # Where it begins is of no matter: at the first time noise drowns it.
        x = jnp.zeros(image.shape, image.dtype)
        step = lambda index, x, args: _step(self.num_noises, index, x, args)
        x, num_steps, result = run(step, x, (problem, times, sizes, key), self.num_steps, result, progress)
        return Draws(x, result, counts(num_steps, self.num_noises * num_steps, 0))


def _step(num_noises: int, index: Array, x: Array, args: PyTree) -> Array:
    problem, times, (step_size, alpha), key = args
    t, process = times[index], problem.process
    scale, std = process.marginal(t)
    r, curvature = ratio(process, t), problem.curvature(x)
    # Where nothing is measured there is nothing to step along.
    length = step_size * (r / (1 + r)) ** alpha / jnp.where(curvature > 0, curvature, 1)
    z = x - length * problem.slope(x)
    noises = jax.random.normal(jax.random.fold_in(key, index), (num_noises, *x.shape), x.dtype)
    images = jax.vmap(lambda n: problem.score.predict(t, scale * z + std * n)[0])(noises)
    return jnp.mean(images, axis=0)
