"""Inpainting."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._types import State
from ._base import AbstractLinearOperator, as_parameter, check_state, is_concrete, parameter_dtype


class Mask(AbstractLinearOperator):
    """`A x = mask * x`: inpainting. An entry is measured where the mask is positive.

    - `mask`: weights of the shape of the image, finite and not negative; usually 0 or 1.

    **Raises:** `ValueError` if a weight is negative or not finite, where its value is known.

    !!! example
        ```python
        import jax, jaxinv
        mask = jax.random.bernoulli(jax.random.key(0), 0.5, (8, 8, 1))
        y = jaxinv.operators.Mask(mask)(jax.numpy.ones((8, 8, 1)))
        ```
    """

    mask: Array
    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)

    def __init__(self, mask: Any):
        self.mask = check_mask(mask)
        self.domain = jax.ShapeDtypeStruct(self.mask.shape, parameter_dtype(self.mask))
        self.codomain = self.domain

    @property
    def measured(self) -> Array:
        return (self.mask > 0).astype(self.mask.dtype)

    def __call__(self, x: State) -> Array:
        return self.mask * check_state(x, self.domain, "the image", self)

    def adjoint(self, y: State) -> Array:
        return self.mask * check_state(y, self.codomain, "the measurement", self)


def check_mask(mask: Any) -> Array:
    """`mask` as an array of weights, which must be real, finite and not negative.

    **Raises:** `ValueError` otherwise.
    """
    mask = as_parameter(mask)
    if mask.ndim == 0 or mask.size == 0 or jnp.issubdtype(mask.dtype, jnp.complexfloating):
        raise ValueError(
            f"`mask` must be a real array of the shape of the image; got shape {mask.shape} and dtype {mask.dtype}."
        )
    if is_concrete(mask) and not bool(jnp.all(jnp.isfinite(mask) & (mask >= 0))):
        raise ValueError("`mask` holds a weight that is negative or not finite; use 0 for what is not measured.")
    return mask
