"""Convolution with a known kernel, for deblurring; `Downsample` uses it too."""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_parameter, check_image_shape, check_state, common_dtype, parameter_dtype
from .._types import ArrayLike, Checked, State
from ..requirements import Requirement, finite
from ._base import AbstractLinearOperator

Boundary = Literal["zero", "circular", "reflect"]


class Convolution(AbstractLinearOperator):
    """`(A x)[i] = sum_j kernel[j] x[i - j + o]`, a true convolution with origin `o = (k - 1) // 2`, by the FFT.

    - `kernel`: the kernel, `(kh, kw)` for all channels, or `(kh, kw, c)` with one for each channel.
    - `shape`: the shape of the image, `(h, w, c)`, static; the measurement has the same shape.
    - `boundary`: how the image continues outside its pixels, static: `"zero"`, `"circular"` (periodic), or `"reflect"`
      (mirrored about the centre of the edge pixel, as in numpy).

    **Raises:** `ValueError` for an unknown boundary, or a kernel that is larger than the image.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        kernel = jnp.ones((3, 3)) / 9
        y = jaxinv.operators.Convolution(kernel, (16, 16, 1), boundary="reflect")(jnp.ones((16, 16, 1)))
        ```
    """

    kernel: Array
    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)
    boundary: Boundary = eqx.field(static=True)
    kernel_size: tuple[int, int] = eqx.field(static=True)

    def __init__(self, kernel: ArrayLike, shape: Checked[Sequence[int]], boundary: Boundary | str = "zero"):
        shape = check_image_shape(shape)
        kernel = as_parameter(kernel)
        check_boundary(boundary)
        if kernel.ndim not in (2, 3) or (kernel.ndim == 3 and kernel.shape[2] not in (1, shape[2])):
            raise ValueError(
                f"`kernel` must have shape (kh, kw), or (kh, kw, {shape[2]}) with a kernel for each channel of an "
                f"image of shape {shape}; got {kernel.shape}."
            )
        if kernel.shape[0] > shape[0] or kernel.shape[1] > shape[1]:
            raise ValueError(
                f"The kernel, of shape {kernel.shape}, is larger than the image, of shape {shape}. Crop the kernel, or "
                "pad the image."
            )
        self.kernel = kernel if kernel.ndim == 3 else kernel[:, :, None]
        self.domain = jax.ShapeDtypeStruct(shape, parameter_dtype(kernel))
        self.codomain = self.domain
        self.boundary = cast(Boundary, boundary)
        self.kernel_size = (kernel.shape[0], kernel.shape[1])

    def requirements(self) -> tuple[Requirement, ...]:
        return (finite("kernel", self.kernel),)

    def __call__(self, x: State) -> Array:
        return self._crop(self._filter(self._extend(check_state(x, self.domain, "the image", self)), adjoint=False))

    def adjoint(self, y: State) -> Array:
        y = check_state(y, self.codomain, "the measurement", self)
        y = y.astype(common_dtype(y, self.kernel))
        # Extension and cropping are real, so their transposes are their adjoints. The transposes get arrays and not
        # structs as examples, since inside `shard_map` the type of an array says over which devices it varies.
        crop, extend = lambda x: self._crop(x), lambda x: self._extend(x)
        (spread,) = jax.linear_transpose(crop, jnp.zeros_like(y, shape=self._padded_shape()))(y)
        filtered = self._filter(spread, adjoint=True)
        (x,) = jax.linear_transpose(extend, jnp.zeros_like(filtered, shape=self.domain.shape))(filtered)
        return x

    def _margins(self) -> list[tuple[int, int]]:
        return [(k - 1 - (k - 1) // 2, (k - 1) // 2) for k in self.kernel_size] + [(0, 0)]

    def _padded_shape(self) -> tuple[int, int, int]:
        h, w, c = self.domain.shape
        kh, kw = (1, 1) if self.boundary == "circular" else self.kernel_size
        return h + kh - 1, w + kw - 1, c

    def _extend(self, x: Array) -> Array:
        if self.boundary == "circular":
            return x
        return jnp.pad(x, self._margins(), mode="constant" if self.boundary == "zero" else "reflect")

    def _crop(self, x: Array) -> Array:
        if self.boundary == "circular":
            return x
        (top, bottom), (left, right), _ = self._margins()
        return x[top : x.shape[0] - bottom, left : x.shape[1] - right]

    def _filter(self, x: Array, adjoint: bool) -> Array:
        x = x.astype(common_dtype(x, self.kernel))
        size = self._padded_shape()[:2]
        kernel = jnp.pad(self.kernel, [(0, s - k) for s, k in zip(size, self.kernel_size, strict=True)] + [(0, 0)])
        kernel = jnp.roll(kernel, [-((k - 1) // 2) for k in self.kernel_size], axis=(0, 1))
        kernel = kernel.astype(x.dtype)
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            transfer = jnp.fft.fft2(kernel, axes=(0, 1))
            transfer = jnp.conj(transfer) if adjoint else transfer
            return jnp.fft.ifft2(transfer * jnp.fft.fft2(x, axes=(0, 1)), axes=(0, 1))
        transfer = jnp.fft.rfft2(kernel, axes=(0, 1))
        transfer = jnp.conj(transfer) if adjoint else transfer
        return jnp.fft.irfft2(transfer * jnp.fft.rfft2(x, axes=(0, 1)), s=size, axes=(0, 1))


def check_boundary(boundary: object) -> None:
    """Raise unless `boundary` is one of the names of `Boundary`."""
    if not isinstance(boundary, str) or boundary not in get_args(Boundary):
        raise ValueError(f"`boundary` must be one of {', '.join(map(repr, get_args(Boundary)))}; got {boundary!r}.")
