"""The Shepp-Logan phantom."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from ._checks import check_count
from ._raster import raster

# value, semi-axes along x and y, centre x and y, angle in degrees
_ELLIPSES = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)


def shepp_logan(size: Any) -> Float32[Array, "size size 1"]:
    """The modified Shepp-Logan phantom, the one with the visible contrast: 0 outside, 1 in the skull, .2 in the brain.

    The phantom fills the square `[-1, 1]^2`, x to the right and y up, so that row 0 is the top of the head; each pixel
    holds the value at its centre.

    **Arguments:**

    - `size`: the number of pixels along each side.

    **Returns:** the image, float32 in [0, 1], of shape `(size, size, 1)`.

    **Raises:** `ValueError` if `size` is not a positive integer.

    Shepp, Logan, The Fourier Reconstruction of a Head Section, 1974; the values of Toft, The Radon Transform: Theory
    and Implementation, 1996.

    !!! example
        ```python
        import jaxinv
        image = jaxinv.data.shepp_logan(128)
        ```
    """
    return _shepp_logan(check_count(size, "size"))


@partial(jax.jit, static_argnums=0)
def _shepp_logan(size: int) -> Float32[Array, "size size 1"]:
    table = np.array(_ELLIPSES)
    table[:, 5] = np.deg2rad(table[:, 5])
    image = raster(jnp.asarray(table, jnp.float32), size)
    # 1 - .8 - .2 is not 0 in floating point, and a negative attenuation must not appear
    return jnp.clip(image, 0, 1)[..., None]
