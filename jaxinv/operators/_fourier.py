"""Magnetic resonance imaging: the masked Fourier transform of one coil or several."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_array, check_image_shape, check_state, common_dtype, multiply, real_dtype
from .._types import ArrayLike, State
from ..requirements import Requirement
from ._base import AbstractLinearOperator
from ._pointwise import check_mask, mask_weights


class MaskedFourier(AbstractLinearOperator):
    """`A x = mask * F x`, with `F` the centred orthonormal Fourier transform: frequency 0 is at `(h // 2, w // 2)`.

    Domain and codomain are complex; for real images compose it with `Real`: `MaskedFourier(mask) @ Real(shape)`.

    - `mask`: the weights of the frequencies, `(h, w, c)`, as for `Mask`.

    !!! example
        ```python
        import jax, jaxinv
        mask = jax.random.bernoulli(jax.random.key(0), 0.5, (8, 8, 1))
        y = jaxinv.operators.MaskedFourier(mask)(jax.numpy.ones((8, 8, 1), complex))
        ```
    """

    mask: Array
    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)

    def __init__(self, mask: ArrayLike):
        self.mask = check_mask(mask)
        check_image_shape(self.mask.shape)
        self.domain = jax.ShapeDtypeStruct(self.mask.shape, common_dtype(complex, self.mask))
        self.codomain = self.domain

    def requirements(self) -> tuple[Requirement, ...]:
        return (mask_weights(self.mask),)

    @property
    def measured(self) -> Array:
        return (self.mask > 0).astype(self.mask.dtype)

    def __call__(self, x: State) -> Array:
        return multiply(self.mask, centred_fft(check_state(x, self.domain, "the image", self)))

    def adjoint(self, y: State) -> Array:
        return centred_ifft(multiply(self.mask, check_state(y, self.codomain, "the measurement", self)))


class MultiCoilFourier(AbstractLinearOperator):
    """`(A x)_l = mask * F (coils_l * x)` for coils `l`, with `F` as in `MaskedFourier` (SENSE).

    - `mask`: the weights of the frequencies, `(h, w, c)`, as for `Mask` and the same for all coils.
    - `coils`: the complex sensitivities of the coils, `(num_coils, h, w, c)`.

    The measurement has shape `(num_coils, h, w, c)`.

    **Raises:** `ValueError` if the sensitivities do not have the shape of the mask.

    **Reference:** Pruessmann, Weiger, Scheidegger, Boesiger, SENSE: sensitivity encoding for fast MRI, 1999.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        coils = jnp.ones((4, 8, 8, 1), complex)
        y = jaxinv.operators.MultiCoilFourier(jnp.ones((8, 8, 1)), coils)(jnp.ones((8, 8, 1), complex))
        ```
    """

    mask: Array
    coils: Array
    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)

    def __init__(self, mask: ArrayLike, coils: ArrayLike):
        self.mask = check_mask(mask)
        check_image_shape(self.mask.shape)
        coils = as_array(coils)
        self.coils = coils.astype(common_dtype(complex, coils))
        if self.coils.ndim != 4 or self.coils.shape[1:] != self.mask.shape:
            raise ValueError(
                f"`coils` must have shape (num_coils, {', '.join(map(str, self.mask.shape))}), the mask having shape "
                f"{self.mask.shape}; got {self.coils.shape}."
            )
        dtype = common_dtype(self.coils, self.mask)
        self.domain = jax.ShapeDtypeStruct(self.mask.shape, dtype)
        self.codomain = jax.ShapeDtypeStruct(self.coils.shape, dtype)

    def requirements(self) -> tuple[Requirement, ...]:
        return (mask_weights(self.mask),)

    @property
    def measured(self) -> Array:
        return (self.mask > 0).astype(real_dtype(self.mask.dtype))[None]

    def __call__(self, x: State) -> Array:
        x = check_state(x, self.domain, "the image", self)
        return multiply(self.mask[None], centred_fft(multiply(self.coils, x[None])))

    def adjoint(self, y: State) -> Array:
        y = check_state(y, self.codomain, "the measurement", self)
        return jnp.sum(multiply(jnp.conj(self.coils), centred_ifft(multiply(self.mask[None], y))), axis=0)


def centred_fft(x: Array) -> Array:
    """The orthonormal Fourier transform of `(..., h, w, c)` over `h` and `w`, frequency 0 at `(h // 2, w // 2)`.

    **Arguments:**

    - `x`: images, real or complex, whose origin is at `(h // 2, w // 2)` too.

    **Returns:** complex numbers of the shape of `x`.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import operators
        kspace = operators.centred_fft(jnp.ones((8, 8, 1)))
        assert abs(kspace[4, 4, 0] - 8) < 1e-5
        ```
    """
    axes = (-3, -2)
    return jnp.fft.fftshift(jnp.fft.fft2(jnp.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)


def centred_ifft(y: Array) -> Array:
    """The inverse, and adjoint, of `centred_fft`.

    **Arguments:**

    - `y`: k-space, `(..., h, w, c)`.

    **Returns:** complex images of the shape of `y`.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import operators
        image = operators.centred_ifft(jnp.zeros((8, 8, 1), complex).at[4, 4].set(8.0))
        assert jnp.allclose(image, 1)
        ```
    """
    axes = (-3, -2)
    return jnp.fft.fftshift(jnp.fft.ifft2(jnp.fft.ifftshift(y, axes), axes=axes, norm="ortho"), axes)
