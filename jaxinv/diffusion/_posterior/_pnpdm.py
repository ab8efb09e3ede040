"""Plug-and-play diffusion models: a split Gibbs sampler."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._checks import check_count
from ..._score import AbstractScore
from ..._types import Key, State
from ...likelihood import Likelihood
from ...operators._base import as_parameter, is_concrete
from ._denoising_path import descend
from ._likelihood_draw import check_inner, enter_drawing
from ._loops import first_failure, repeat
from ._method import AbstractIndependent, Draws, counts
from ._problem import ratio


class PnPDM(AbstractIndependent):
    """PnP-DM: Gibbs steps on `p(y | z) N(z; x, rho^2 I) p(x)`, with `rho` annealed from `first` to `last`.

    The likelihood step draws `z` from `p(y | z) N(z; x, rho^2 I)`; the prior step draws `x` from `p(x) N(x; z, rho^2
    I)`, for which `z` is a state of the process with `std/scale = rho`, by the reverse SDE from there. Any
    differentiable operator and any noise, by `Langevin()`; linear operators with Gaussian noise of any covariance by
    `Exact()`. A noise level of 0 is `invalid_parameter`. A step is `prior_steps` evaluations, no vector-Jacobian
    products of the score, and the draw.

    Its bias: what `last` leaves, noise of that size added to `A x`; and modes are those which the first `rho` chose,
    as `rho` shrinks faster than the chain moves between them. `PnPDM(100, first=32 sqrt(d), last=.1)` is "PnP-DM, exact
    inner" of the mixture test, up to the steps of the prior.

    Measured for a Gaussian prior (benchmarks, posterior gaussian: a row of 16 pixels blurred, every fourth of them):
    Wasserstein-2 to the posterior .076 and .14 of its size, where exact draws have .015 and .013; 1.09 and 1.11 of its
    variance.

    - `num_steps`: static.
    - `prior_steps`: of the reverse SDE, from `rho` to `t_min`, static.
    - `first`, `last`: the levels, in the unit of the image, positive; geometric in between.
    - `inner`: how `z` is drawn: `Exact()`, `Langevin()`; default: the former where it is exact, else the latter.

    **Reference:** Wu, Sun, Chen, Zhang, Yue, Bouman, Principled probabilistic imaging using diffusion models as
    plug-and-play priors, 2024, Algorithm 1.
    """

    num_steps: Any = eqx.field(default=100, static=True)
    prior_steps: Any = eqx.field(default=10, static=True)
    first: Array = eqx.field(default=10.0, converter=as_parameter)
    last: Array = eqx.field(default=0.1, converter=as_parameter)
    inner: Any = None

    def __check_init__(self):
        check_count(self.num_steps, "num_steps")
        check_count(self.prior_steps, "prior_steps")
        check_inner(self.inner)
        if is_concrete(self.first, self.last) and not bool(jnp.all((self.last > 0) & (self.first >= self.last))):
            raise ValueError(f"PnPDM needs `first >= last > 0`; got {self.first} and {self.last}.")

    def enter(self, score: AbstractScore, likelihood: Likelihood, y: State) -> tuple[PyTree, Any]:
        return enter_drawing(self.inner, score, likelihood, y, "PnPDM")

    def one(self, problem: PyTree, *, key: Key, result: Any, progress: Any) -> Draws:
        inner, problem = problem
        process, image = problem.process, problem.image
        # No process has levels beyond its ends.
        low, high = (ratio(process, t) for t in (process.t_min, process.t_max))
        ends = (jnp.log(jnp.clip(rho.astype(image.dtype), low, high)) for rho in (self.first, self.last))
        levels = jnp.exp(jnp.linspace(*ends, self.num_steps))
        start, moving = (jax.random.fold_in(key, i) for i in range(2))
        x = levels[0] * jax.random.normal(start, image.shape, image.dtype)
        step = lambda index, x, args: _step(self.prior_steps, index, x, args)
        args = (inner, problem, levels, moving)
        x, num_steps, result = repeat(step, x, args, self.num_steps, result, progress)
        return Draws(x, result, counts(num_steps, self.prior_steps * num_steps, 0))


def _step(prior_steps: int, index: Array, x: Array, args: PyTree) -> tuple[Array, Any]:
    inner, problem, levels, key = args
    towards_data, towards_prior = (jax.random.fold_in(jax.random.fold_in(key, index), i) for i in range(2))
    rho, process = levels[index], problem.process
    z, drawn = inner.draw(problem, x, rho**2, key=towards_data)
    t = jnp.clip(process.time(rho), process.t_min, process.t_max)
    x, denoised = descend(problem.score, t, process.marginal(t)[0] * z, prior_steps, key=towards_prior)
    return x, first_failure(drawn, denoised)
