"""Blur followed by subsampling, the operator of super-resolution."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import check_image_shape, check_state, parameter_dtype
from .._jit import without_explicit_axes
from .._types import Checked, State
from ._base import AbstractLinearOperator
from ._convolution import Boundary, Convolution, check_boundary


class Downsample(AbstractLinearOperator):
    """Blur and keep every `factor`-th pixel: `(A x)[i] = (kernel * x)[factor i + factor // 2]`.

    Without a kernel it is the mean over blocks of `factor x factor` pixels, which equals a box kernel.

    - `shape`: the shape of the image, `(h, w, c)`, static; `factor` must divide `h` and `w`.
    - `factor`: the subsampling factor along both axes, a static integer.
    - `kernel`: the blur before subsampling, `(kh, kw)` or `(kh, kw, c)` as for `Convolution`, or `None`.
    - `boundary`: as for `Convolution`, static; it has no effect without a kernel.

    **Raises:** `ValueError` if `factor` does not divide the image.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        y = jaxinv.operators.Downsample((16, 16, 1), 4)(jnp.ones((16, 16, 1)))  # (4, 4, 1)
        ```
    """

    blur: Convolution | None
    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)
    factor: int = eqx.field(static=True)

    def __init__(
        self,
        shape: Checked[Sequence[int]],
        factor: Checked[int | Sequence[int]],
        kernel: Checked[Array | np.ndarray | None] = None,
        boundary: Boundary | str = "zero",
    ):
        h, w, c = shape = check_image_shape(shape)
        if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1 or h % factor or w % factor:
            raise ValueError(
                f"`factor` must be a static integer that divides the height and width of the image, {shape[:2]}; got "
                f"{factor!r}."
            )
        check_boundary(boundary)
        self.blur = None if kernel is None else Convolution(kernel, shape, boundary)
        self.domain = jax.ShapeDtypeStruct(shape, parameter_dtype() if self.blur is None else self.blur.domain.dtype)
        self.codomain = jax.ShapeDtypeStruct((h // factor, w // factor, c), self.domain.dtype)
        self.factor = factor

    def __call__(self, x: State) -> Array:
        x = check_state(x, self.domain, "the image", self)
        if self.blur is None:
            return self._blocks(x).mean((1, 3))
        return self._blocks(self.blur(x))[:, self.factor // 2, :, self.factor // 2]

    def adjoint(self, y: State) -> Array:
        y = check_state(y, self.codomain, "the measurement", self)
        if self.blur is None:
            return jnp.repeat(jnp.repeat(y, self.factor, 0), self.factor, 1) / self.factor**2
        return self.blur.adjoint(without_explicit_axes(self._spread, y))

    def _spread(self, y: Array) -> Array:
        """The measurement in the middle of each block of zeros."""
        h, w, c = self.codomain.shape
        grid = jnp.zeros((h, self.factor, w, self.factor, c), y.dtype)
        grid = grid.at[:, self.factor // 2, :, self.factor // 2].set(y)
        return grid.reshape(self.domain.shape)

    def _blocks(self, x: Array) -> Array:
        h, w, c = self.codomain.shape
        return without_explicit_axes(lambda x: x.reshape(h, self.factor, w, self.factor, c), x)
