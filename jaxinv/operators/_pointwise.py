"""Operators that act on each entry alone: the identity, the embedding of real into complex images, and the mask."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_parameter, check_shape, check_state, common_dtype, multiply, parameter_dtype
from .._types import ArrayLike, Checked, State
from ..requirements import Requirement, not_negative
from ._base import AbstractLinearOperator


class Identity(AbstractLinearOperator):
    """`A x = x`, the operator of denoising.

    - `shape`: the shape of the image, `(h, w, c)` or any other, static.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        operator = jaxinv.operators.Identity((4, 4, 1))
        y = operator(jnp.ones((4, 4, 1)))
        ```
    """

    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)

    def __init__(self, shape: Checked[Sequence[int]]):
        self.domain = jax.ShapeDtypeStruct(check_shape(shape), parameter_dtype())
        self.codomain = self.domain

    def __call__(self, x: State) -> Array:
        return check_state(x, self.domain, "the image", self)

    def adjoint(self, y: State) -> Array:
        return check_state(y, self.codomain, "the measurement", self)


class Real(AbstractLinearOperator):
    """The embedding of real images into complex ones, `A x = x + 0i`; its adjoint takes the real part.

    It lets an operator with a complex domain measure a real image: `MaskedFourier(mask) @ Real(shape)`. It is linear
    over the reals: `Re<A x, y> = <x, A* y>`.

    - `shape`: the shape of the image, static.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        fourier = jaxinv.operators.MaskedFourier(jnp.ones((4, 4, 1)))
        y = (fourier @ jaxinv.operators.Real((4, 4, 1)))(jnp.ones((4, 4, 1)))
        ```
    """

    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)

    def __init__(self, shape: Checked[Sequence[int]]):
        self.domain = jax.ShapeDtypeStruct(check_shape(shape), parameter_dtype())
        self.codomain = jax.ShapeDtypeStruct(self.domain.shape, common_dtype(complex))

    def __call__(self, x: State) -> Array:
        x = check_state(x, self.domain, "the image", self).real
        return jax.lax.complex(x, jnp.zeros_like(x))

    def adjoint(self, y: State) -> Array:
        return check_state(y, self.codomain, "the measurement", self).real


class RealAndImaginary(AbstractLinearOperator):
    """Complex images from real ones of twice the channels, `A x = x[..., :c] + i x[..., c:]`.

    It lets a prior of real images, such as a diffusion score of two channels, stand for complex images:
    `MultiCoilFourier(mask, maps) @ RealAndImaginary((h, w, 1))` has the domain `(h, w, 2)`, which every posterior
    method takes. Its adjoint, which is its inverse too, stacks real and imaginary part. It is linear over the reals:
    `Re<A x, y> = <x, A* y>`.

    - `shape`: the shape of the complex image, `(h, w, c)`, static.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        parts = jaxinv.operators.RealAndImaginary((4, 4, 1))
        y = (jaxinv.operators.MaskedFourier(jnp.ones((4, 4, 1))) @ parts)(jnp.ones((4, 4, 2)))
        ```
    """

    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)

    def __init__(self, shape: Checked[Sequence[int]]):
        *sides, channels = check_shape(shape)
        self.domain = jax.ShapeDtypeStruct((*sides, 2 * channels), parameter_dtype())
        self.codomain = jax.ShapeDtypeStruct((*sides, channels), common_dtype(complex))

    def __call__(self, x: State) -> Array:
        x = check_state(x, self.domain, "the image", self).real
        return jax.lax.complex(*jnp.split(x, 2, axis=-1))

    def adjoint(self, y: State) -> Array:
        y = check_state(y, self.codomain, "the measurement", self)
        return jnp.concatenate([y.real, y.imag], axis=-1)


class Mask(AbstractLinearOperator):
    """`A x = mask * x`, the operator of inpainting. An entry is measured where the mask is positive.

    - `mask`: the weights of the entries, of the shape of the image, finite and not negative; usually 0 or 1.

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

    def __init__(self, mask: ArrayLike):
        self.mask = check_mask(mask)
        self.domain = jax.ShapeDtypeStruct(self.mask.shape, parameter_dtype(self.mask))
        self.codomain = self.domain

    def requirements(self) -> tuple[Requirement, ...]:
        return (mask_weights(self.mask),)

    @property
    def measured(self) -> Array:
        return (self.mask > 0).astype(self.mask.dtype)

    def __call__(self, x: State) -> Array:
        return multiply(self.mask, check_state(x, self.domain, "the image", self))

    def adjoint(self, y: State) -> Array:
        return multiply(self.mask, check_state(y, self.codomain, "the measurement", self))


def check_mask(mask: Any) -> Array:
    """`mask` as an array of weights.

    **Raises:** `ValueError` if it is complex, or no array.
    """
    mask = as_parameter(mask)
    if mask.ndim == 0 or mask.size == 0 or jnp.issubdtype(mask.dtype, jnp.complexfloating):
        raise ValueError(
            f"`mask` must be a real array of the shape of the image; got shape {mask.shape} and dtype {mask.dtype}."
        )
    return mask


def mask_weights(mask: Array) -> Requirement:
    """What must hold of the weights of a mask."""
    words = "`mask` holds a weight that is negative or not finite; use 0 for what is not measured"
    return not_negative("mask", mask, words)
