"""What the methods share that let the image leave the range of the generator."""

from typing import Any

import jax
import jax.numpy as jnp

from .._prior import AbstractGenerativePrior
from ..likelihood import Likelihood, domain_dtype
from ..regularisers import AbstractRegulariser


def check_deviation(deviation: Any, name: str) -> AbstractRegulariser:
    """`deviation`, which must be a regulariser."""
    if not isinstance(deviation, AbstractRegulariser):
        raise ValueError(
            f"{name}(deviation, weight): `deviation` must be one of `jaxinv.regularisers`, such as L1() or "
            f"Gaussian(residual_gaussian(prior, images, rank=50)); got {type(deviation).__name__}."
        )
    return deviation


def enter_deviation(
    deviation: AbstractRegulariser, likelihood: Likelihood, prior: AbstractGenerativePrior, name: str
) -> AbstractRegulariser:
    """The regulariser in the dtype of the solve, once it is known to take an image of the prior."""
    real = domain_dtype(likelihood.operator)
    deviation = jax.tree.map(
        lambda leaf: leaf.astype(real) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, deviation
    )
    struct = jax.ShapeDtypeStruct(tuple(prior.image_shape), real)
    value = jax.eval_shape(lambda u: deviation(u), struct)
    if value.shape != ():
        raise ValueError(
            f"{name}(deviation): the regulariser must give a scalar for an image of shape {struct.shape}; it gives "
            f"{value}."
        )
    return deviation
