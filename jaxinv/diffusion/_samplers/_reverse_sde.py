"""The reverse SDE, through diffrax."""

import math
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from ..._arrays import as_leaf
from ..._score import AbstractScore
from ..._types import Key, Scalar
from ...requirements import Requirement, positive
from .._processes._schedule import AbstractSchedule, UniformTime, as_schedule
from ._integrate import Last, as_solver, at_the_end, evaluations, integrate
from ._sampler import AbstractSampler, Options, Path, as_steps, saved_steps


class ReverseSDE(AbstractSampler):
    """The reverse SDE `dx = (f x - g^2 score(t, x)) dt + g dw`, solved by any SDE solver of diffrax.

    Fixed steps draw the noise of each step afresh, which costs as much as a hand-written loop; a Brownian tree costs 25
    times as much. Adaptive steps need the tree, and a batch of them equals a loop in law
    only, because a rounding error `e` in a time moves a Brownian path by `sqrt(e)`.

    Measured bias, on the mixture of 25 modes in 8 to 256 dimensions, `VP(beta_max=40)`, exact score (benchmarks,
    diffusion gate): the variance within modes is 3 % too large after 100 Euler steps, 1 to 1.5 % after 300, .4 %
    after 1000; with `diffrax.ShARK()` and `UniformLogSNR()` it is right to .4 % after 50 steps, 102 evaluations.

    Derivatives exist in forward mode, and the times of the steps are constants to them.

    - `num_steps`: the number of fixed steps, or the largest number of adaptive steps. Static.
    - `solver`: a solver of diffrax. The noise is additive, so Ito and Stratonovich solutions agree, and
        `diffrax.ShARK()`, with two evaluations a step, is of order 1.5.
    - `schedule`: the times of fixed steps.
    - `controller`: a `diffrax.PIDController` for adaptive steps, with a solver that estimates its error, such as
        `diffrax.SPaRK()`; with `None` the steps are fixed.
    - `tolerance`: the resolution of the Brownian tree as a share of the interval, below the length of the steps.

    **Reference:** Anderson, Reverse-time diffusion equation models, 1982; Song, Sohl-Dickstein, Kingma, Kumar, Ermon,
    Poole, Score-based generative modeling through stochastic differential equations, 2021.
    """

    num_steps: int = eqx.field(default=1000, static=True, converter=as_steps)
    solver: diffrax.AbstractSolver = eqx.field(default=diffrax.Euler(), converter=as_solver)
    schedule: AbstractSchedule = eqx.field(default=UniformTime(), converter=as_schedule)
    controller: diffrax.AbstractAdaptiveStepSizeController | None = None
    tolerance: Scalar = eqx.field(default=1e-4, converter=as_leaf)

    def __check_init__(self):
        if not isinstance(self.controller, diffrax.AbstractAdaptiveStepSizeController | None):
            raise ValueError(f"`controller` must be a `diffrax.PIDController()` or None; got {self.controller!r}.")
        if self.controller is not None and not isinstance(self.solver, diffrax.AbstractAdaptiveSolver):
            raise ValueError(
                f"Adaptive steps need a solver that estimates its error; {type(self.solver).__name__} does not. "
                "`diffrax.SPaRK()` does."
            )

    def requirements(self) -> tuple[Requirement, ...]:
        return (positive("tolerance", self.tolerance),)

    def run(self, score: AbstractScore, x: Array, *, key: Key, options: Options) -> Path:
        process = score.process
        if options.differentiate is not None:
            raise ValueError(
                "`ReverseSDE` has derivatives in forward mode only (`jax.jvp`): diffrax keeps no record of noise that "
                "is drawn afresh. Take `Ancestral()` or `DDIM(eta=...)` with `differentiate=jaxinv.Unrolled()`."
            )
        # The times are constants to derivatives: the noise has no derivative with respect to its times.
        times = jax.lax.stop_gradient(self.schedule.times(process, self.num_steps))
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        area = getattr(self.solver, "minimal_levy_area", diffrax.BrownianIncrement)
        area = diffrax.BrownianIncrement if area is diffrax.AbstractBrownianIncrement else area
        area = diffrax.SpaceTimeLevyArea if area is diffrax.AbstractSpaceTimeLevyArea else area
        if self.controller is None:
            brownian = _FreshNoise(shape=shape, levy_area=area, key=key, times=-times)
        else:
            tolerance = self.tolerance * (process.t_max - process.t_min)
            brownian = diffrax.VirtualBrownianTree(-process.t_max, -process.t_min, tolerance, shape, key, area)
        ends = saved_steps(options.num_saved, self.num_steps)
        saved = None if ends is None else times[ends]
        terms = diffrax.MultiTerm(diffrax.ODETerm(_drift), diffrax.ControlTerm(_diffusion, brownian))
        integral = integrate(
            terms,
            x,
            score,
            solver=self.solver,
            # The variable is minus the time, which grows: for an integration backwards, diffrax 0.7 gives solvers of
            # higher order increments of negative length.
            start=-jax.lax.stop_gradient(process.t_max),
            stop=-jax.lax.stop_gradient(process.t_min),
            times=-times if self.controller is None else None,
            controller=self.controller,
            saved=None if saved is None else -saved,
            max_steps=self.num_steps,
            adjoint=diffrax.DirectAdjoint(),
            # A plain scan, like the steps with this kind of noise, has derivatives in forward mode.
            scan_kind="lax",
            progress=options.progress,
            denoise=options.denoise,
        )
        num_evaluations = evaluations(self.solver, integral.num_calls)
        return Path(integral.end, integral.result, integral.num_steps, num_evaluations, saved, integral.states)


class _FreshNoise(diffrax.AbstractBrownianPath):
    """Brownian increments over the steps of a grid, each drawn from a key of its own.

    The key is that of the place of a step in the grid. That of `diffrax.UnsafeBrownianPath` is made of the bits of its
    times, of which the compiler rounds those of a batch otherwise than those of one problem.

    - `times`: the grid, increasing.
    """

    shape: jax.ShapeDtypeStruct = eqx.field(static=True)
    levy_area: Any = eqx.field(static=True)
    key: Key
    times: Array
    t0: Any = eqx.field(default=-math.inf, static=True)
    t1: Any = eqx.field(default=math.inf, static=True)

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True, use_levy: bool = False) -> Any:
        del left
        t0, t1 = jax.lax.stop_gradient((t0, t1))
        key = jax.random.fold_in(jax.random.fold_in(self.key, self._place(t0)), self._place(t1))
        unit = diffrax.UnsafeBrownianPath(self.shape, key, levy_area=self.levy_area)
        zero = jnp.zeros((), self.times.dtype)
        drawn = unit.evaluate(zero, zero + 1, use_levy=use_levy)
        scaled = jax.tree.map(lambda leaf: leaf * jnp.sqrt(t1 - t0).astype(leaf.dtype), drawn)
        return eqx.tree_at(lambda area: area.dt, scaled, t1 - t0) if use_levy else scaled

    def _place(self, t: Array) -> Array:
        """The place of a time in quarters of steps, for solvers that look inside a step."""
        places = jnp.arange(len(self.times), dtype=self.times.dtype)
        return jnp.round(4 * jnp.interp(t, self.times, places)).astype(jnp.int32)


def _drift(minus_t: Any, x: Array, args: tuple[AbstractScore, Last | None]) -> Array:
    score, last = args
    t, state = at_the_end(last, score.process, -minus_t, x)
    gradient, image = score.score_and_image(t, state)
    drift = score.process.diffusion(t) ** 2 * gradient - score.process.drift(t, state)
    return drift if last is None else jnp.where(last.now, last.rate * (image - last.x), drift)


def _diffusion(minus_t: Any, x: Array, args: tuple[AbstractScore, Last | None]) -> lx.AbstractLinearOperator:
    score, last = args
    size = score.process.diffusion(-minus_t)
    size = size if last is None else jnp.where(last.now, 0, size)
    # A multiple of the identity would compare structures, which within `shard_map` hold more than shape and dtype.
    return lx.DiagonalLinearOperator(jnp.full(x.shape, size, x.dtype))
