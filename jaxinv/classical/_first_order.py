"""The loop of first-order methods, which finds the size of its steps by itself."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._checks import check_count
from .._differentiation import Unrolled
from .._loop import any_lane, iterate
from .._solution import RESULTS
from .._types import State
from ..likelihood import Whitened, domain_dtype
from ..operators._norm import Estimate, RealVectors, improve, start_estimate
from ._bound import SAFETY, norm_bound, positive

# The tolerance and the most rounds of the estimate: the defaults of `operators.norm`.
_RTOL, _MOST = 1e-3, 500


class AbstractFirstOrder(eqx.Module):
    """A method each of whose steps applies the operator and its adjoint once: the adjoint first.

    - `operator`: `B`, whitened. A prediction `A x` is not.
    """

    operator: eqx.AbstractVar[Whitened]

    @abc.abstractmethod
    def init(self) -> PyTree[Array]:
        """The first state."""

    @abc.abstractmethod
    def dual(self, state: PyTree[Array]) -> State:
        """The measurement of which a step takes the adjoint."""

    @abc.abstractmethod
    def primal(self, state: PyTree[Array], back: Array, bound: Array) -> Array:
        """The image that it makes of that, `back`; `bound` is a bound of the norm of `B`."""

    @abc.abstractmethod
    def update(
        self, index: Array, state: PyTree[Array], new: Array, prediction: State, bound: Array
    ) -> tuple[PyTree[Array], Array, Any]:
        """The next state, from that image and its prediction, whether to stop, and the code of that."""


def solve(
    method: AbstractFirstOrder, norm: Array | None, result: Any, *, max_steps: int, differentiate: Any = None
) -> tuple[PyTree[Array], Array, Any]:
    """Steps until the method has finished; `norm` is that of the operator, before whitening, where it is known.

    Else it is estimated in the first rounds of the same loop, so that operator and adjoint stand once in the program:
    a projector takes longer to compile than all the rest of a step. Not through `Unrolled()` steps, whose number is
    fixed.

    **Returns:** the last state, the number of steps without those rounds, and the code.
    """
    if norm is not None or isinstance(differentiate, Unrolled):

        def step(index: Array, state: PyTree, args: Any) -> tuple[PyTree, Array, Any]:
            method, bound = args
            new = method.primal(state, method.operator.adjoint(method.dual(state)), bound)
            return method.update(index, state, new, method.operator.operator(new), bound)

        args = (method, norm_bound(method.operator, norm))
        return iterate(step, method.init(), args, result=result, max_steps=max_steps, differentiate=differentiate)

    check_count(max_steps, "max_steps")
    vectors = RealVectors(method.operator.codomain)
    tolerance = jnp.asarray(_RTOL, domain_dtype(method.operator))
    state = (method.init(), start_estimate(vectors.scattered()), jnp.zeros((), bool), jnp.int32(0))
    step = lambda index, state, args: _shared(index, state, vectors, max_steps, *args)
    args, most = (method, tolerance), max_steps + _MOST + 1
    (state, _, _, num_rounds), num_steps, result = iterate(step, state, args, result=result, max_steps=most)
    return state, num_steps - num_rounds, result


def _shared(
    index: Array, carry: Any, vectors: RealVectors, max_steps: int, method: AbstractFirstOrder, tolerance: Array
) -> tuple[PyTree, Array, Any]:
    """A step of the method, or, as long as the norm is not known, of its estimate: by `B B*`, the adjoint first."""
    state, estimate, known, num_rounds = carry
    select = lambda new, old: jax.tree.map(lambda n, o: jnp.where(known, n, o), new, old)
    bound = positive(SAFETY * estimate.norm())
    back = method.operator.adjoint(select(method.dual(state), vectors.unpack(estimate.direction())))
    new = select(method.primal(state, back, bound), back)
    prediction = method.operator.operator(new)
    moved, finished, code = method.update(index - num_rounds, state, new, prediction, bound)

    def improved() -> tuple[Estimate, Array]:
        # Step sizes have no derivative: the minimiser does not depend on them.
        image = jax.lax.stop_gradient(vectors.pack(method.operator.whiten(prediction)))
        return improve(estimate, image, tolerance)

    rounds = num_rounds + ~known
    last = index - num_rounds + 1 >= max_steps
    # Not computed any more as soon as all problems of a batch have their norms.
    improved_estimate, near = jax.lax.cond(any_lane(~known), improved, lambda: (estimate, known))
    carry = (select(moved, state), select(estimate, improved_estimate), known | near | (rounds > _MOST), rounds)
    return carry, known & (finished | last), RESULTS.where(finished, code, RESULTS.max_steps_reached)
