"""Decoupled annealing posterior sampling."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._checks import check_count
from ..._score import AbstractScore
from ..._types import Key, State
from ...likelihood import Likelihood
from .._processes._schedule import Karras
from .._samplers._sampler import check_steps
from ._denoising_path import descend
from ._likelihood_draw import check_inner, enter_drawing
from ._loops import first_failure, repeat
from ._method import AbstractIndependent, Draws, counts
from ._problem import ratio


class DAPS(AbstractIndependent):
    """DAPS: an image by the ODE, a draw towards the measurement, and noise of the next level on that draw.

    At each time: `x0h` by the probability-flow ODE from `x_t`; `x_0` from `N(x0h, r^2 I) p(y | x_0)`, `r = std/scale`;
    then `x_s = scale_s x_0 + std_s n`, so that no state keeps the errors of those before it. Any differentiable
    operator and any noise, by `Langevin()`; linear operators with Gaussian noise of any covariance by `Exact()`. A
    noise level of 0 is `invalid_parameter`. A step is `ode_steps` evaluations, no vector-Jacobian products of the
    score, and the draw.

    Its bias: the law of `x_0` given `x_t` is taken for a Gaussian of covariance `r^2 I`, wider than any true one, so
    directions without measurements take much noise late, and the weights of modes are hardly those of the posterior.
    `DAPS(100, ode_steps=1, schedule=UniformTime())` is "DAPS, exact inner" of the mixture test.

    Measured for a Gaussian prior (benchmarks, posterior gaussian: a row of 16 pixels blurred, every fourth of them):
    Wasserstein-2 to the posterior .28 and .51 of its size, where exact draws have .015 and .013; 1.39 and 1.99 of its
    variance.

    - `num_steps`: static.
    - `ode_steps`: static; 1 is `E[x_0 | x_t]`.
    - `inner`: how the draw is made: `Exact()`, `Langevin()`; default: the former where it is exact, else the latter.
    - `schedule`: of the levels.

    **Reference:** Zhang, Chu, Berner, Meng, Anandkumar, Song, Improving diffusion inverse problem solving with
    decoupled noise annealing, 2024, Algorithm 1.
    """

    num_steps: Any = eqx.field(default=100, static=True)
    ode_steps: Any = eqx.field(default=5, static=True)
    inner: Any = None
    schedule: Any = Karras()

    def __check_init__(self):
        check_steps(self.num_steps, self.schedule)
        check_count(self.ode_steps, "ode_steps")
        check_inner(self.inner)

    def enter(self, score: AbstractScore, likelihood: Likelihood, y: State) -> tuple[PyTree, Any]:
        return enter_drawing(self.inner, score, likelihood, y, "DAPS")

    def one(self, problem: PyTree, *, key: Key, result: Any, progress: Any) -> Draws:
        inner, problem = problem
        times = self.schedule.times(problem.process, self.num_steps)[:-1]
        # Without any image to begin with: the first state is noise alone.
        image = jnp.zeros(problem.image.shape, problem.image.dtype)
        step = lambda index, image, args: _step(self.ode_steps, index, image, args)
        args = (inner, problem, times, key)
        image, num_steps, result = repeat(step, image, args, self.num_steps, result, progress)
        return Draws(image, result, counts(num_steps, self.ode_steps * num_steps, 0))


def _step(ode_steps: int, index: Array, image: Array, args: PyTree) -> tuple[Array, Any]:
    inner, problem, times, key = args
    noising, drawing = (jax.random.fold_in(jax.random.fold_in(key, index), i) for i in range(2))
    t, process = times[index], problem.process
    scale, std = process.marginal(t)
    x = scale * image + std * jax.random.normal(noising, image.shape, image.dtype)
    image, denoised = descend(problem.score, t, x, ode_steps, key=None)
    image, drawn = inner.draw(problem, image, ratio(process, t) ** 2, key=drawing)
    return image, first_failure(denoised, drawn)
