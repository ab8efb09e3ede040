"""The peak signal-to-noise ratio."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Scalar, State
from ._check import check_images, check_positive, squared_modulus


@eqx.filter_jit
def psnr(x: State, reference: State, data_range: Scalar = 1.0) -> Float[Array, ""]:
    """The peak signal-to-noise ratio of one image, in decibels: `10 log10(data_range^2 / mean |x - reference|^2)`.

    Nothing is clipped, neither the image nor the result. Of a set of images it is the mean of their PSNRs, and not the
    PSNR of the whole array.

    **Arguments:**

    - `x`: the image, `(h, w, c)` or of any other shape of at most three axes, real or complex; or a set of images,
      `(n, h, w, c)`.
    - `reference`: the true image, of the same shape.
    - `data_range`: the difference between the largest and the smallest value that an image may have, in its unit.

    **Returns:** a scalar. Of identical images it is infinite, with gradient zero.

    **Raises:** `ValueError` if the shapes differ, if an image holds integers, or if `data_range` is not positive.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import metrics
        reference = jnp.zeros((16, 28, 28, 1))
        images = reference + 0.1
        assert abs(metrics.psnr(images, reference) - 20) < 1e-3
        one_by_one = jax.vmap(metrics.psnr)(images, reference)  # (16,)
        ```
    """
    x, reference = check_images(x, reference, "psnr")
    data_range = check_positive(data_range, x.dtype, "data_range")
    # Divided before squaring, so that images in a tiny or a huge unit neither underflow nor overflow.
    square = squared_modulus((x - reference) / data_range)
    mean_square = jnp.mean(square, axis=tuple(range(max(square.ndim - 3, 0), square.ndim)))
    identical = mean_square == 0
    return jnp.mean(jnp.where(identical, jnp.inf, -10 * jnp.log10(jnp.where(identical, 1, mean_square))))
