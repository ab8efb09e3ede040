"""The step sizes of first-order solvers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._types import Scalar
from .._workarounds import rounded
from ..likelihood import Whitened, domain_dtype
from ..noise import Gaussian
from ..operators import AbstractLinearOperator, Identity, norm as operator_norm

# Estimates approach the norm from below, to a part in a thousand (`operators.norm`) or in twenty on average for large
# measurements (`_first_order`), and a start that happens to be nearly orthogonal to the top direction is worse.
SAFETY = 1.05


def norm_bound(whitened: Whitened, norm: Scalar | None) -> Array:
    """A bound of the norm of the whitened operator; `norm` is that of the operator itself, where the user knows it."""
    # Step sizes have no derivative: the minimiser does not depend on them.
    whitened = jax.lax.stop_gradient(whitened)
    dtype = domain_dtype(whitened)
    if norm is None:
        # The documented exception to "keys are never defaulted": the start of the power iteration is fixed.
        bound = SAFETY * operator_norm(whitened, key=jax.random.key(0, impl="threefry2x32"))
    else:
        bound = jnp.asarray(norm).astype(dtype) * _whitening_norm(whitened)
    return positive(bound).astype(dtype)


def positive(bound: Array) -> Array:
    """A bound to divide by: 1 for an operator that is zero. A NaN stays one, so that the solver reports it."""
    return jnp.where(bound <= 0, 1, bound)


def _whitening_norm(whitened: Whitened) -> Array:
    noise = whitened.noise
    if isinstance(noise, Gaussian):
        return jax.tree.reduce(jnp.maximum, jax.tree.map(lambda s: jnp.max(rounded(1 / s)), noise.std))
    identity: AbstractLinearOperator = Identity(whitened.codomain.shape)
    return SAFETY * operator_norm(Whitened(identity, noise), key=jax.random.key(0, impl="threefry2x32"))
