"""The base of the solvers for one measurement, the problem that they solve, and the verb that drives one of them."""

import abc
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import _loop
from .._arrays import common_dtype
from .._differentiation import Implicit, Unrolled
from .._jit import verb
from .._method import AbstractMethod
from .._solution import RESULTS, Solution
from .._sums import dot
from .._types import Checked, Key, PyTree, Scalar, State, Stats
from ..likelihood import Likelihood, Whitened, domain_dtype, prepare, prepare_parameter, whiten
from ..regularisers import AbstractRegulariser
from ..regularisers._constraints import check_constraint


class Problem(eqx.Module):
    """`1/2 ||B x - b||^2 + weight R(x)`, and perhaps a constraint, as `AbstractSolver.prepare` makes it.

    - `operator`: `B`, the operator whitened by the noise; `operator.operator` is the operator itself.
    - `data`: `b`, the whitened measurement.
    - `regulariser`, `weight`: `R`, in the dtype of the solve, and its weight.
    - `constraint`: a regulariser whose `prox` is a projection, or `None`.
    - `norm`: an upper bound of the norm of `B`, but for `1 %` or so; `None` where the method estimates it by itself.
    - `likelihood`, `y`: the prepared likelihood and measurement, before photon noise is approximated.
    - `rtol`, `atol`: when to stop.
    - `at_zero`: `1/2 ||b||^2`, the objective of the image 0.
    """

    operator: Whitened
    data: State
    regulariser: AbstractRegulariser
    weight: Array
    constraint: AbstractRegulariser | None
    norm: Array | None
    likelihood: Likelihood
    y: State
    rtol: Array
    atol: Array
    at_zero: Array

    def with_norm(self, norm: Array) -> "Problem":
        """The problem with a bound of the norm.

        **Arguments:**

        - `norm`: the bound, a scalar.
        """
        return eqx.tree_at(lambda p: p.norm, self, norm, is_leaf=lambda leaf: leaf is None)

    def residual(self, prediction: State) -> State:
        """`B x - b`.

        **Arguments:**

        - `prediction`: `A x`, before whitening. Methods keep predictions, so that each image is measured once.
        """
        return jax.tree.map(jnp.subtract, self.operator.whiten(prediction), self.data)

    def value(self, x: Array, prediction: State) -> Array:
        """`1/2 ||B x - b||^2 + weight R(x)`, without the constants of the likelihood.

        **Arguments:**

        - `x`: an image.
        - `prediction`: `A x`.
        """
        return 0.5 * square_of(self.residual(prediction)) + self.weight * self.regulariser(x)

    def prox(self, x: Array, step: Array) -> Array:
        """`argmin_u 1/2 ||u - x||^2 + step weight R(u)` with the constraint.

        **Arguments:**

        - `x`: an image.
        - `step`: a positive scalar.
        """
        x = self.regulariser.prox(x, step * self.weight)
        return x if self.constraint is None else self.constraint.prox(x, step)

    def objective(self, x: Array, prediction: State) -> Array:
        """`-log p(y | x) + weight R(x)`, constants included.

        **Arguments:**

        - `x`: an image.
        - `prediction`: `A x`.
        """
        return self.fit(prediction) + self.weight * self.regulariser(x)

    def fit(self, prediction: State) -> Array:
        """`-log p(y | x)`, constants included.

        **Arguments:**

        - `prediction`: `A x`.
        """
        likelihood = self.likelihood
        return likelihood.noise.negative_log_likelihood(prediction, self.y, likelihood.operator.measured)

    def zero(self) -> tuple[Array, State]:
        """The image 0, and its prediction."""
        domain = self.operator.domain
        return jnp.zeros(domain.shape, domain.dtype), jax.tree.map(jnp.zeros_like, self.data)

    def stop(self, new: Array, old: Array, value: Array, old_value: Array) -> tuple[Array, RESULTS]:
        """Whether to stop after a step, and the code of that.

        It stops when image and objective both change by less than `atol + rtol * size`, and with the code `diverged`
        when the objective is beyond all bounds.

        **Arguments:**

        - `new`, `old`: the images after and before the step.
        - `value`, `old_value`: their objectives.
        """
        rounding = jnp.finfo(self.at_zero.dtype).eps * self.at_zero
        still = _loop.has_converged(new, old, value, old_value, self.rtol, self.atol, rounding)
        diverged = value > _loop.divergence_threshold(self.at_zero)
        return still | diverged, RESULTS.where(diverged, RESULTS.diverged, RESULTS.successful)


# The problem of a solver, which is a `Problem` unless its `prepare` makes another one, and its state.
ProblemT = TypeVar("ProblemT")
StateT = TypeVar("StateT")


class AbstractSolver(AbstractMethod[ProblemT, StateT]):
    """A solver for `-log p(y | x) + weight R(x)` with a linear operator, which `classical.solve` drives.

    A solver of your own implements `init`, `step` and `finish`, for the `Problem` that `prepare` makes.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        from jaxinv import classical

        class Projected(classical.AbstractSolver):  # projected gradient steps for a smooth regulariser
            def init(self, problem, *, key=None):
                return problem.zero()[0], jnp.full((), jnp.inf, problem.weight.dtype)

            def step(self, problem, state, index, *, key=None):
                x, old = state
                prediction = problem.operator.operator(x)
                slope = problem.operator.adjoint(problem.residual(prediction))
                slope = slope + problem.weight * problem.regulariser.gradient(x)
                new = problem.constraint.prox(x - slope / (problem.norm**2 + problem.weight), 1.0)
                value = problem.value(x, prediction)
                return (new, value), *problem.stop(new, x, value, old)

            def finish(self, problem, state, *, key=None):
                x = state[0]
                return x, {"objective": problem.objective(x, problem.operator.operator(x))}

        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((4, 4, 1)), jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(jnp.zeros((4, 4, 1)), key=jax.random.key(0))
        constraint = jaxinv.regularisers.NonNegative()
        regulariser = jaxinv.regularisers.Tikhonov()
        solution = classical.solve(
            likelihood, regulariser, y, method=Projected(), weight=1.0, constraint=constraint
        ).check()
        ```
    """

    def prepare(
        self,
        likelihood: Likelihood,
        regulariser: AbstractRegulariser,
        y: State,
        *,
        weight: Scalar,
        constraint: AbstractRegulariser | None = None,
        norm: Scalar | None = None,
        rtol: Scalar = 1e-5,
        atol: Scalar = 0.0,
    ) -> tuple[ProblemT, RESULTS]:
        """The problem in one dtype, whitened, with a bound of the norm.

        **Arguments:** those of `classical.solve`.

        **Returns:** a `Problem`, and its code.

        **Raises:** `ValueError` for an operator that is not linear, and shapes, dtypes and options that do not fit.
        """
        problem, result = prepare_problem(
            likelihood, regulariser, y, type(self).__name__, weight, constraint, norm, rtol, atol
        )
        problem = problem if norm is not None else problem.with_norm(problem.operator.norm_bound(None))
        return cast(ProblemT, problem), result

    @abc.abstractmethod
    def init(self, problem: ProblemT, /, *, key: Key | None = None) -> StateT:
        """The first state, as `AbstractMethod.init` says; there is no key."""

    @abc.abstractmethod
    def step(
        self, problem: ProblemT, state: StateT, index: Array, /, *, key: Key | None = None
    ) -> tuple[StateT, Array, RESULTS]:
        """One step, as `AbstractMethod.step` says; `problem.stop` tells whether to stop, and the code."""

    @abc.abstractmethod
    def finish(self, problem: ProblemT, state: StateT, /, *, key: Key | None = None) -> tuple[Array, Stats]:
        """The image, and the statistics, `objective` among them."""

    def without_norm(self, problem: ProblemT) -> tuple["AbstractSolver", PyTree]:
        """The method and its problem where `problem.norm` is `None`: by default the same, for `prepare` estimates it.

        **Arguments:**

        - `problem`: as `prepare` made it.
        """
        return self, problem

    @property
    def preliminary_steps(self) -> int:
        """How many steps of the loop come before the first step of the method, and are not counted."""
        return 0


@verb(traced=("weight", "norm"), tolerances=("rtol", "atol"))
def solve(
    likelihood: Likelihood,
    regulariser: AbstractRegulariser,
    y: State,
    *,
    method: AbstractSolver,
    weight: Scalar,
    constraint: Checked[AbstractRegulariser | None] = None,
    norm: Scalar | None = None,
    max_steps: int = 3000,
    rtol: Scalar = 1e-5,
    atol: Scalar = 0.0,
    differentiate: Checked[Unrolled | None] = None,
) -> Solution:
    """Minimise `-log p(y | x) + weight * R(x)` by a solver, such as one of your own.

    `classical.ista`, `fista`, `tv` and `primal_dual` are this with their methods.

    **Arguments:**

    - `likelihood`: a linear operator and its noise. Photon noise enters by its Gaussian approximation, unless the
      method says otherwise.
    - `regulariser`: `R`.
    - `y`: one measurement.
    - `method`: an `AbstractSolver`, such as `classical.PrimalDual()`.
    - `weight`: a scalar, not negative.
    - `constraint`: `regularisers.NonNegative()`, `regularisers.Box(low, high)` or `None`, for methods that take one.
    - `norm`: of the operator, where it is known; else it is estimated.
    - `max_steps`: static.
    - `rtol`, `atol`: it stops when a step changes both image and objective by less than `atol + rtol * size`.
    - `differentiate`: `None` or `Unrolled()`.

    **Returns:** a `Solution`; `stats`: `num_steps`, and those of the method.

    **Raises:** `ValueError` for what the method does not take.

    !!! example
        ```python
        import jax, jaxinv
        from jaxinv import classical, regularisers
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((8, 8, 1)), jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(jax.numpy.ones((8, 8, 1)), key=jax.random.key(0))
        solution = classical.solve(likelihood, regularisers.L1(), y, method=classical.FISTA(), weight=1.0)
        ```
    """
    if not isinstance(method, AbstractSolver):
        raise ValueError(
            f"`method` must be an `AbstractSolver`, such as `classical.PrimalDual()`; got {type(method).__name__}."
        )
    if not (differentiate is None or isinstance(differentiate, Unrolled)):
        raise ValueError(f"`differentiate` of `solve` must be None or `jaxinv.Unrolled()`; got {differentiate!r}.")
    problem, result = method.prepare(
        likelihood, regulariser, y, weight=weight, constraint=constraint, norm=norm, rtol=rtol, atol=atol
    )
    return drive(method, problem, result, max_steps=max_steps, differentiate=differentiate)


def drive(
    method: AbstractSolver,
    problem: Any,
    result: Any,
    *,
    max_steps: int,
    differentiate: Unrolled | Implicit | None = None,
) -> Solution:
    """The solution of a prepared problem."""
    # Gradients through the loop would keep the rounds of the estimate.
    unrolled = isinstance(differentiate, Unrolled)
    if problem.norm is None and unrolled:
        problem = problem.with_norm(problem.operator.norm_bound(None))
    if problem.norm is None:
        method, problem = method.without_norm(problem)
    before = method.preliminary_steps
    state, num_steps, result = _loop.run(
        method,
        problem,
        method.init(problem, key=None),
        result=result,
        max_steps=_loop.check_count(max_steps, "max_steps") + before,
        differentiate=differentiate,
    )
    value, stats = method.finish(problem, state, key=None)
    return Solution(value, result, {"num_steps": jnp.maximum(num_steps - before, 0), **stats})


def prepare_problem(
    likelihood: Likelihood,
    regulariser: Any,
    y: State,
    name: str,
    weight: Scalar,
    constraint: Any,
    norm: Scalar | None,
    rtol: Scalar,
    atol: Scalar,
) -> tuple[Problem, RESULTS]:
    """The problem, with the bound of the norm where the norm is known, and the code; `name` is for errors."""
    if not isinstance(regulariser, AbstractRegulariser):
        raise ValueError(
            f"`regulariser` must be one of `jaxinv.regularisers`, such as L1(); got {type(regulariser).__name__}."
        )
    if constraint is not None:
        constraint = check_constraint(constraint)
    prepared, data, result = prepare(likelihood, y)
    weight, result = prepare_parameter(weight, likelihood.operator, result)
    if norm is not None:
        norm, result = prepare_parameter(norm, likelihood.operator, result, positive=True, name="norm")
    whitened, b = whiten(prepared, data, name)
    real = domain_dtype(whitened)
    problem = Problem(
        operator=whitened,
        data=b,
        regulariser=cast_to(regulariser, real),
        weight=weight,
        constraint=cast_to(constraint, real),
        norm=norm if norm is None else whitened.norm_bound(norm),
        likelihood=prepared,
        y=data,
        rtol=jnp.asarray(rtol, real),
        atol=jnp.asarray(atol, real),
        at_zero=0.5 * square_of(b),
    )
    return problem, result


def cast_to(tree: PyTree, real: Any) -> Any:
    """The arrays of a module in the dtype of a solve."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(_matching(jnp.asarray(leaf).dtype, real)), tree)


def square_of(tree: State) -> Array:
    """The squared norm of an image or a measurement, the same alone and in a batch: it decides when to stop."""
    return dot(tree, tree)


def _matching(dtype: Any, real: Any) -> Any:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return common_dtype(real, jnp.complex64)
    return real if jnp.issubdtype(dtype, jnp.floating) else dtype
