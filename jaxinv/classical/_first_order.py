"""The loop of `tv`, `ista` and `fista`, which finds the sizes of its steps by itself.

A step of such a method is in two halves, around the only place where the operator and its adjoint stand in the program:
the first rounds of the loop put the vectors of an estimate of the norm there.
"""

import abc
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import check_count, safe_sqrt, standard_promotion
from .._differentiation import Implicit, Unrolled
from .._loop import iterate
from .._sums import dot
from .._types import Abstract, Checked, PyTree, State
from ..likelihood import Whitened, domain_dtype
from ..operators._norm import scattered
from ._bound import SAFETY, norm_bound, positive

# The rounds of the estimate of the norm. From a random start its relative error is on average at most
# .05 log(m (k - 1)^4)^2 / (k - 1)^2 after k rounds, for m measured values, whatever the operator: 3 % for 400 values,
# 5 % for 10 000 (Kuczynski and Wozniakowski, Estimating the largest eigenvalue by the power and Lanczos algorithms with
# a random start, 1992). A fixed number, because all problems of a batch then begin their steps together.
_ROUNDS = 24
# One round more, before these, makes the start a unit vector.
_BEFORE = _ROUNDS + 1
# Trial values of the norm, in units of the first number of the estimate, which is below the norm, one part in a hundred
# apart. They form a square, which is summed by one kernel.
_LOG_RATIO = 0.01
_TRIALS = np.exp(_LOG_RATIO * np.arange(32 * 32)).reshape(32, 32)


class Iterate(NamedTuple):
    """The state of a method.

    - `image`, `measurement`: zero at first. Until the norm is known, its estimate keeps its vectors there.
    - `rest`: what else the method remembers.
    """

    image: Array
    measurement: State
    rest: PyTree[Array]


class AbstractFirstOrder(eqx.Module):
    """A method each of whose steps applies the operator and its adjoint once: the adjoint first.

    - `operator`: the whitened operator `B`. A prediction `A x` is not whitened.
    """

    if TYPE_CHECKING:
        operator = Abstract[Whitened]()
    else:
        operator: eqx.AbstractVar[Whitened]

    @abc.abstractmethod
    def init(self) -> Iterate:
        """The first state."""

    @abc.abstractmethod
    def sizes(self, bound: Array) -> Array:
        """The sizes of the steps as one array, from a bound of the norm of `B`."""

    @abc.abstractmethod
    def dual(self, state: Iterate) -> State:
        """The measurement that a step applies the adjoint to."""

    @abc.abstractmethod
    def primal(self, state: Iterate, back: Array, sizes: Array) -> Array:
        """The next image, from `back`, the adjoint of that measurement."""

    @abc.abstractmethod
    def update(
        self, index: Array, state: Iterate, new: Array, prediction: State, sizes: Array
    ) -> tuple[Iterate, Array, Any]:
        """The next state, from the next image and its prediction; whether to stop; and the code of that."""

    @abc.abstractmethod
    def indicator(self, state: Iterate) -> PyTree[Array]:
        """A part of the state that is finite only if the whole state is."""


def solve(
    method: AbstractFirstOrder,
    norm: Array | None,
    result: Any,
    *,
    max_steps: int,
    differentiate: Checked[Unrolled | Implicit | None] = None,
) -> tuple[Iterate, Array, Any]:
    """Repeat the steps of a method until it has finished.

    - `norm`: the norm of the operator before whitening, where it is known. Otherwise it is estimated in the first
        rounds of the same loop, so that operator and adjoint stand once in the program: a projector takes longer to
        compile than the rest of a step. With `Unrolled()` it is estimated beforehand: gradients would keep its rounds.

    **Returns:** the last state, the number of steps without those rounds, and the code.
    """
    if norm is not None or isinstance(differentiate, Unrolled):

        def step(index: Array, state: Iterate, args: Any) -> tuple[Iterate, Array, Any]:
            method, sizes = args
            new = method.primal(state, method.operator.adjoint(method.dual(state)), sizes)
            return method.update(index, state, new, method.operator.operator(new), sizes)

        args = (method, method.sizes(norm_bound(method.operator, norm)))
        return iterate(
            step,
            method.init(),
            args,
            result=result,
            max_steps=max_steps,
            differentiate=differentiate,
            indicator=method.indicator,
        )

    check_count(max_steps, "max_steps")
    trials = jnp.asarray(_TRIALS, domain_dtype(method.operator))
    carry = (method.init(), trials, jnp.zeros((), trials.dtype))
    (state, _, _), num_steps, result = iterate(
        _shared,
        carry,
        (method, scattered(method.operator.codomain)),
        result=result,
        max_steps=max_steps + _BEFORE,
        indicator=lambda carry: method.indicator(carry[0]),
    )
    return state, jnp.maximum(num_steps - _BEFORE, 0), result


@standard_promotion()
def _shared(index: Array, carry: Any, args: Any) -> tuple[PyTree, Array, Any]:
    """A step of the method, or, in the first rounds, of the estimate of the norm.

    That is the bidiagonalisation of Golub and Kahan: with `b u` for the residual `B v - a u`, and `a v` for
    `B* u - b v`, where `u` and `v` are unit vectors, `B` is a bidiagonal matrix of the numbers `a` and `b` on the
    spaces that they span. The state keeps `b v` and `u`. A trial value is above the norm of that matrix as long as its
    Sturm sequence is positive: one more term for each number, so that none of them is kept.
    """
    (state, sturm, scale), (method, start) = carry, args
    # All of these depend on the number of the step only, which a batch of problems has in common.
    first, last, known = index == 0, index == _ROUNDS, index >= _BEFORE
    select = lambda new, old: jax.tree.map(lambda n, o: jnp.where(known, n, o), new, old)
    too_small = jnp.sum(sturm <= 0).astype(scale.dtype)
    sizes = method.sizes(positive(SAFETY * scale * jnp.exp(_LOG_RATIO * too_small)))
    unit = state.measurement
    back = method.operator.adjoint(select(method.dual(state), unit))
    residual = back - state.image
    # The same sums alone and in a batch: they decide about the sizes of all steps.
    a = safe_sqrt(dot(residual, residual))
    new = select(method.primal(state, back, sizes), residual / positive(a))
    prediction = method.operator.operator(new)
    moved, finished, code = method.update(index - _BEFORE, state, new, prediction, sizes)

    residual = jax.tree.map(
        lambda s, p, u: jnp.where(first, s, p - a * u), start, method.operator.whiten(prediction), unit
    )
    b = safe_sqrt(dot(residual, residual))
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
