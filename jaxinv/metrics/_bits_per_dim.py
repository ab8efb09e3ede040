"""Densities of images with grey values, in bits per dimension."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def bits_per_dim(
    negative_log_likelihood: Any, size: Any, *, data_range: Any = 1.0, levels: Any = 256
) -> Float[Array, "..."]:
    """A negative log-likelihood of dequantised images, in bits a dimension: `nll / (size log 2) + log2(levels / r)`.

    A density on images of the range `r` becomes one on the grey values by the second term: for images of 8 bits that is
    8 in [0, 1], 7 in [-1, 1]. Where the images were dequantised by uniform noise (`data.dequantise`), the mean over
    them is an upper bound of the bits per dimension of the discrete images. The uniform density has 8.

    **Arguments:**

    - `negative_log_likelihood`: in nats per image, of the density of images in their own unit; of any shape.
    - `size`: the number of entries of one image, `h w c`, or its shape.
    - `levels`: how many grey values there were. A Python integer.
    - `data_range`: `r`, that of the images: 1 for [0, 1], 2 for [-1, 1]. A Python number.

    **Returns:** bits per dimension, of the shape of `negative_log_likelihood`.

    **Raises:** `ValueError` if `size`, `data_range` or `levels` is not positive.

    Theis, van den Oord, Bethge, A Note on the Evaluation of Generative Models, 2016.

    !!! example
        ```python
        from jaxinv import metrics
        assert metrics.bits_per_dim(0.0, (28, 28, 1)) == 8  # the uniform density on [0, 1]
        ```
    """
    size = math.prod(size) if isinstance(size, tuple | list) else size
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"`size` must be the number of entries of an image, or its shape; got {size!r}.")
    if isinstance(data_range, bool) or not isinstance(data_range, int | float) or not 0 < data_range < math.inf:
        raise ValueError(f"`data_range` must be a positive Python number, such as 1 for [0, 1]; got {data_range!r}.")
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
        raise ValueError(f"`levels` must be a positive Python integer, such as 256 for 8 bits; got {levels!r}.")
    return jnp.asarray(negative_log_likelihood) / (size * math.log(2)) + math.log2(levels / data_range)
