"""Dequantisation, which turns grey values into images that have a density."""

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import check_count, check_key
from .._checks import checked
from .._types import ArrayLike, IntLike, Key


@checked()
def dequantise(images: ArrayLike, *, key: Key, levels: IntLike = 256) -> Array:
    """Grey values with uniform noise within each, `(images + u) / levels` in [0, 1], `u` uniform in [0, 1).

    Integers have no density, and training a density on them would reward infinitely sharp peaks. The log-density of a
    dequantised image is, in the mean over `u`, a lower bound of the log-probability of the grey values: see
    `metrics.bits_per_dim`. For images in [-1, 1] use `2 * dequantise(...) - 1`.

    **Arguments:**

    - `images`: integers from 0 to `levels - 1`, of any shape.
    - `key`: a typed key for the noise.
    - `levels`: the number of grey values: 256 for 8 bits, 17 for `digits`.

    **Returns:** an array of the shape of `images`, of the default floating dtype.

    **Raises:** `ValueError` for images that are no integers, or, where their values are known, of more grey values.

    **Reference:** Theis, van den Oord, Bethge, A Note on the Evaluation of Generative Models, 2016.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        images = jaxinv.data.dequantise(jnp.array([[0, 128, 255]]), key=jax.random.key(0))
        ```
    """
    check_key(key)
    levels = check_count(levels, "levels")
    images = jnp.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.integer):
        raise ValueError(
            f"`dequantise` takes integer grey values; got dtype {images.dtype}. Round them first: "
            "`jnp.round(255 * images).astype(int)` of images in [0, 1]."
        )
    if not isinstance(images, jax.core.Tracer) and images.size:
        low, high = int(images.min()), int(images.max())
        if low < 0 or high >= levels:
            raise ValueError(f"`images` must hold grey values from 0 to {levels - 1}; got {low} to {high}.")
    dtype = jnp.result_type(float)
    return (images.astype(dtype) + jax.random.uniform(key, images.shape, dtype)) / levels
