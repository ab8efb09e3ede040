"""The norm of a linear operator."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._keys import check_key
from .._loop import iterate
from .._solution import RESULTS
from .._types import Key, Scalar
from ._base import AbstractLinearOperator, real_dtype


@eqx.filter_jit
def norm(operator: AbstractLinearOperator, *, key: Key, rtol: Scalar = 1e-3, max_steps: int = 500) -> Array:
    """The spectral norm `max ||A x|| / ||x||`, by power iteration on `A* A`, over the measured entries.

    **Arguments:**

    - `operator`: linear.
    - `key`: for the start.
    - `rtol`: the iteration stops when a step changes the norm by less than `rtol / 20` of it. Measured: the result is
      then within `rtol` for random matrices, convolutions and projections.
    - `max_steps`: static.

    **Returns:** a scalar, at most the norm: power iteration approaches it from below. Solvers here use 1.05 times it.

    **Raises:** `ValueError` if the operator is not linear.

    !!! example
        ```python
        import jax, jaxinv
        operator = jaxinv.operators.ParallelBeam((16, 16, 1), jax.numpy.linspace(0, 3, 10))
        size = jaxinv.operators.norm(operator, key=jax.random.key(0))
        ```
    """
    check_key(key)
    check_linear(operator, "norm")
    leaves, treedef = jax.tree.flatten(operator.domain)
    keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
    start = treedef.unflatten([jax.random.normal(k, s.shape, s.dtype) for k, s in zip(keys, leaves, strict=True)])
    real = real_dtype(jnp.result_type(*(s.dtype for s in leaves)))
    state = (_normalised(start)[0], jnp.zeros((), real))
    tolerance = jnp.asarray(rtol).astype(real) / 20

    def step(index, state, args):
        operator, tolerance = args
        x, old = state
        y = jax.tree.map(lambda leaf, m: leaf * m, operator(x), operator.measured)
        x, square = _normalised(operator.adjoint(y))
        new = jnp.sqrt(square)
        # Not at the first steps: a start that is nearly orthogonal to the top vector changes slowly at first.
        finished = (jnp.abs(new - old) <= tolerance * new) & (index >= 10)
        return (x, new), finished, RESULTS.successful

    (_, estimate), _, _ = iterate(step, state, (operator, tolerance), max_steps=max_steps)
    return estimate


def check_linear(operator: AbstractLinearOperator, name: str) -> None:
    """Raise unless `operator` is linear."""
    if not isinstance(operator, AbstractLinearOperator):
        raise ValueError(
            f"`{name}` needs a linear operator; {type(operator).__name__} is not one. Its derivative at an image is: "
            "`operator.linearise(x)`."
        )


def _normalised(x):
    square = sum(jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(x))
    length = jnp.sqrt(jnp.where(square > 0, square, 1.0))
    return jax.tree.map(lambda leaf: leaf / length, x), jnp.where(square > 0, length, 0.0)
