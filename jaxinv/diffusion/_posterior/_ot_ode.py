"""The guided ODE along optimal-transport paths (OT-ODE), a method of `posterior_sample`."""

import equinox as eqx
import jax
from jaxtyping import Array

from ..._arrays import as_parameter, check_count
from ..._method import advance
from ..._score import AbstractProcess, AbstractScore
from ..._solution import RESULTS
from ..._types import IntLike, Key, State
from ...likelihood import Likelihood
from ...requirements import Requirement, not_negative, requirement
from .._samplers._ddim import transition
from ._method import AbstractPosteriorMethod, first_failure
from ._paths import straight_times
from ._pigdm import pseudoinverse_shift
from ._problem import AbstractProblem, LinearProblem, linear_problem

# The relative residual at which conjugate gradients stop for the first image.
_RTOL = 1e-4


class FlowProblem(AbstractProblem):
    """A linear problem, and the image of the measurement from which the flow starts."""

    score: AbstractScore
    problem: LinearProblem
    start: Array
    image: jax.ShapeDtypeStruct = eqx.field(static=True)


class OTODE(AbstractPosteriorMethod[FlowProblem, Array]):
    """OT-ODE: Euler's method along the flow, whose velocity is that given `y` by the approximation of `PiGDM`.

    The score in the velocity `f x - 1/2 g^2 score` becomes `score + gamma grad log N(y; A x0h, r^2 A A^T + s^2)` with
    `x0h = E[x_0 | x_t]` and `r^2 = std^2 / (scale^2 + std^2)`. It begins where the noise has the share `start`, at
    `scale x + std n`, with `x = A^T (A A^T + s^2)^{-1} y`, an image of the measurement (the paper uses `y`). For
    `FlowMatching()` this is the paper's method; any other process has the same path after division by `scale + std`,
    and the same steps. It accepts linear operators and Gaussian noise of any covariance; photon noise by its
    approximation (`noise.linearise`). A noise level of 0 is `invalid_parameter`. It costs one evaluation and one
    vector-Jacobian product per step, and conjugate gradients with the operator alone.

    Its bias: it has the bias of `PiGDM`, and that of its start, which is no state of the process: in unmeasured
    directions it is noise around 0, so data should be of about unit size, and the start decides the mode.

    - `num_steps`: the number of steps, static.
    - `start`: the initial share of noise, `std / (scale + std)`, between 0 and 1: the time of flow matching. The
        paper's time .2 is .8 here.
    - `gamma`: the weight of the guidance, not negative.
    - `solver_steps`: the largest number of steps of conjugate gradients, static.

    **Reference:** Pokle, Muckley, Chen, Karrer, Training-free linear image inverses via flows, 2024, Algorithm 1.

    Measured for a Gaussian prior (benchmarks, posterior gaussian: a row of 16 pixels blurred, every fourth of them):
    Wasserstein-2 to the posterior .34 and .62 of its size, where exact draws have .015 and .013; .97 and 1.23 of its
    variance.
    """

    num_steps: IntLike = eqx.field(default=100, static=True)
    start: Array = eqx.field(default=0.8, converter=as_parameter)
    gamma: Array = eqx.field(default=1.0, converter=as_parameter)
    solver_steps: IntLike = eqx.field(default=50, static=True)

    def __check_init__(self):
        check_count(self.num_steps, "num_steps")
        check_count(self.solver_steps, "solver_steps")

    def requirements(self) -> tuple[Requirement, ...]:
        return (
            requirement("`start` must lie between 0 and 1, without the ends", self.start, lambda v: (v > 0) & (v < 1)),
            not_negative("gamma", self.gamma),
        )

    @property
    def vjps_per_step(self) -> int:
        return 1

    def times(self, process: AbstractProcess) -> Array:
        return straight_times(process, self.start.astype(process.t_max.dtype), self.num_steps)

    def prepare(self, likelihood: Likelihood, score: AbstractScore, y: State) -> tuple[FlowProblem, RESULTS]:
        problem, code = linear_problem(likelihood, score, y, "OTODE")
        solved, start_code = problem.solve_isotropic(problem.data, 1.0, _RTOL, self.solver_steps)
        start = problem.operator.adjoint(solved)
        started = FlowProblem(score=score, problem=problem, start=start, image=problem.image)
        return started, first_failure(code, start_code)

    def init(self, problem: FlowProblem, *, key: Key) -> Array:
        scale, std = problem.process.marginal(self.times(problem.process)[0])
        return scale * problem.start + std * jax.random.normal(key, problem.image.shape, problem.image.dtype)

    def step(
        self, problem: FlowProblem, x: Array, t: Array, t_next: Array, *, key: Key
    ) -> tuple[Array, Array, RESULTS]:
        del key
        image, noise, shift, _, code = pseudoinverse_shift(problem.problem, t, x, self.solver_steps)
        scale, std = problem.process.marginal(t)
        shift = self.gamma.astype(x.dtype) * shift
        # At fixed x a shift of the image changes the noise by the opposite amount.
        mean, _ = transition(problem.process, t, t_next, image + shift, noise - scale / std * shift, 0.0)
        return advance(mean, x, code)
