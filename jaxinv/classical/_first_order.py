"""The methods of `tv`, `ista`, `fista` and `primal_dual`, which find the sizes of their steps by themselves.

A step of such a method is in two halves, around the only place where the operator and its adjoint stand in the program:
the first rounds of the loop put the vectors of an estimate of the norm there.
"""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import safe_sqrt, standard_promotion
from .._solution import RESULTS
from .._types import Key, PyTree, Scalar, State, Stats
from ..likelihood import Likelihood, domain_dtype
from ..operators._norm import SAFETY, positive, scattered
from ..regularisers import AbstractRegulariser
from ._solver import AbstractSolver, prepare_problem, square_of

# The rounds of the estimate of the norm. From a random start its relative error is on average at most
# .05 log(m (k - 1)^4)^2 / (k - 1)^2 after k rounds, for m measured values, whatever the operator: 3 % for 400 values,
# 5 % for 10 000 (Kuczynski and Wozniakowski, Estimating the largest eigenvalue by the power and Lanczos algorithms with
# a random start, 1992). A fixed number, because all problems of a batch then begin their steps together.
_ROUNDS = 24
# Before these, one round makes the start a unit vector.
_BEFORE = _ROUNDS + 1
# Trial values of the norm, in units of the first number of the estimate, which is below the norm, one part in a hundred
# apart. They form a square, which is summed by one kernel.
_LOG_RATIO = 0.01
_TRIALS = np.exp(_LOG_RATIO * np.arange(32 * 32)).reshape(32, 32)


class Iterate(NamedTuple):
    """The state of a method.

    - `image`, `measurement`: zero at first. Until the norm is known, its estimate keeps its vectors there.
    - `rest`: the rest of the state of the method.
    """

    image: Array
    measurement: State
    rest: PyTree[Array]


class AbstractFirstOrder(AbstractSolver):
    """A method each of whose steps applies the operator and its adjoint once: the adjoint first.

    Its problem has an `operator`, the whitened operator `B`, and a `norm`, a bound of its norm or `None`. A prediction
    `A x` is not whitened.
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
    ) -> tuple[Any, RESULTS]:
        name = type(self).__name__
        return prepare_problem(likelihood, regulariser, y, name, weight, constraint, norm, rtol, atol)

    @abc.abstractmethod
    def init(self, problem: Any, /, *, key: Key | None = None) -> Iterate:
        """The first state."""

    @abc.abstractmethod
    def sizes(self, problem: Any, bound: Array) -> Array:
        """The sizes of the steps as one array, from a bound of the norm of `B`."""

    @abc.abstractmethod
    def dual(self, problem: Any, state: Iterate) -> State:
        """The measurement that a step applies the adjoint to."""

    @abc.abstractmethod
    def primal(self, problem: Any, state: Iterate, back: Array, sizes: Array) -> Array:
        """The next image, from `back`, the adjoint of that measurement."""

    @abc.abstractmethod
    def update(
        self, problem: Any, index: Array, state: Iterate, new: Array, prediction: State, sizes: Array
    ) -> tuple[Iterate, Array, RESULTS]:
        """The next state, from the next image and its prediction; whether to stop; and the code of that."""

    def step(
        self, problem: Any, state: Iterate, index: Array, /, *, key: Key | None = None
    ) -> tuple[Iterate, Array, RESULTS]:
        sizes = self.sizes(problem, problem.norm)
        new = self.primal(problem, state, problem.operator.adjoint(self.dual(problem, state)), sizes)
        return self.update(problem, index, state, new, problem.operator.operator(new), sizes)

    def without_norm(self, problem: Any) -> tuple[AbstractSolver, Any]:
        # The first rounds of the same loop estimate the norm, so that operator and adjoint stand once in the program: a
        # projector takes longer to compile than the rest of a step.
        return _Estimating(self), _Unscaled(problem, scattered(problem.operator.codomain))


class _Unscaled(eqx.Module):
    """A problem whose norm is not known, and the start of its estimate."""

    problem: Any
    start: State


class _Estimating(AbstractSolver):
    """A method whose first rounds estimate the norm; the state of the estimate goes beside that of the method."""

    method: AbstractFirstOrder

    @property
    def preliminary_steps(self) -> int:
        return _BEFORE

    def init(self, problem: _Unscaled, /, *, key: Key | None = None) -> Any:
        trials = jnp.asarray(_TRIALS, domain_dtype(problem.problem.operator))
        return self.method.init(problem.problem, key=None), trials, jnp.zeros((), trials.dtype)

    def step(
        self, problem: _Unscaled, state: Any, index: Array, /, *, key: Key | None = None
    ) -> tuple[Any, Array, RESULTS]:
        return _shared(index, state, (self.method, problem.problem, problem.start))

    def finish(self, problem: _Unscaled, state: Any, /, *, key: Key | None = None) -> tuple[Array, Stats]:
        return self.method.finish(problem.problem, state[0], key=None)

    def indicator(self, state: Any) -> PyTree[Array]:
        return self.method.indicator(state[0])


@standard_promotion()
def _shared(index: Array, carry: Any, args: Any) -> tuple[PyTree, Array, RESULTS]:
    """A step of the method, or, in the first rounds, of the estimate of the norm.

    That is the bidiagonalisation of Golub and Kahan: with `b u` for the residual `B v - a u`, and `a v` for
    `B* u - b v`, where `u` and `v` are unit vectors, `B` is a bidiagonal matrix of the numbers `a` and `b` on the
    spaces that they span. The state keeps `b v` and `u`. A trial value is above the norm of that matrix as long as its
    Sturm sequence is positive: one more term for each number, so that none of them is kept.
    """
    (state, sturm, scale), (method, problem, start) = carry, args
    operator = problem.operator
    # All of these depend on the number of the step only, which a batch of problems has in common.
    first, last, known = index == 0, index == _ROUNDS, index >= _BEFORE
    select = lambda new, old: jax.tree.map(lambda n, o: jnp.where(known, n, o), new, old)
    too_small = jnp.sum(sturm <= 0).astype(scale.dtype)
    sizes = method.sizes(problem, positive(SAFETY * scale * jnp.exp(_LOG_RATIO * too_small)))
    unit = state.measurement
    back = operator.adjoint(select(method.dual(problem, state), unit))
    residual = back - state.image
    a = safe_sqrt(square_of(residual))
    new = select(method.primal(problem, state, back, sizes), residual / positive(a))
    prediction = operator.operator(new)
    moved, finished, code = method.update(problem, index - _BEFORE, state, new, prediction, sizes)

    residual = jax.tree.map(lambda s, p, u: jnp.where(first, s, p - a * u), start, operator.whiten(prediction), unit)
    b = safe_sqrt(square_of(residual))
    # Step sizes have no derivative: the minimiser does not depend on them.
    new, residual, a, b = jax.lax.stop_gradient((new, residual, a, b))
    # The first step begins at zero.
    keep = lambda leaf: jnp.where(last, 0, leaf)
    kept = state._replace(image=keep(b * new), measurement=jax.tree.map(lambda r: keep(r / positive(b)), residual))
    scale = jnp.where(index == 1, a, scale)
    longer = sturm
    for number in (a, b):
        below = (number / positive(scale)) ** 2 / jnp.where(longer > 0, longer, 1)
        longer = jnp.where(longer > 0, _TRIALS.astype(longer.dtype) - below, longer)
    sturm = jnp.where(first | known, sturm, longer)
    return (select(moved, kept), sturm, scale), known & finished, code
