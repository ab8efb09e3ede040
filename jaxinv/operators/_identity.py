"""The identity, and the embedding of real images into complex ones."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._types import State
from ._base import AbstractLinearOperator, check_shape, check_state, parameter_dtype


class Identity(AbstractLinearOperator):
    """`A x = x`: denoising.

    - `shape`: of the image, `(h, w, c)` or any other.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        operator = jaxinv.operators.Identity((4, 4, 1))
        y = operator(jnp.ones((4, 4, 1)))
        ```
    """

    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)

    def __init__(self, shape: Any):
        self.domain = jax.ShapeDtypeStruct(check_shape(shape), parameter_dtype())
        self.codomain = self.domain

    def __call__(self, x: State) -> Array:
        return check_state(x, self.domain, "the image", self)

    def adjoint(self, y: State) -> Array:
        return check_state(y, self.codomain, "the measurement", self)


class Real(AbstractLinearOperator):
    """The embedding of real images into complex ones, `A x = x + 0i`; its adjoint takes the real part.

    A real image enters an operator with a complex domain through it: `MaskedFourier(mask) @ Real(shape)`. It is linear
    over the reals: `Re<A x, y> = <x, A* y>`.

    - `shape`: of the image.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        fourier = jaxinv.operators.MaskedFourier(jnp.ones((4, 4, 1)))
        y = (fourier @ jaxinv.operators.Real((4, 4, 1)))(jnp.ones((4, 4, 1)))
        ```
    """

    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)

    def __init__(self, shape: Any):
        self.domain = jax.ShapeDtypeStruct(check_shape(shape), parameter_dtype())
        self.codomain = jax.ShapeDtypeStruct(self.domain.shape, jnp.result_type(complex))

    def __call__(self, x: State) -> Array:
        x = check_state(x, self.domain, "the image", self).real
        return jax.lax.complex(x, jnp.zeros_like(x))

    def adjoint(self, y: State) -> Array:
        return check_state(y, self.codomain, "the measurement", self).real
