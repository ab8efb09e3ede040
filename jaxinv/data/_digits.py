"""The handwritten digits that come with scikit-learn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import check_count
from .._types import IntLike


def digits(size: IntLike = 28) -> tuple[np.ndarray, np.ndarray]:
    """The 1797 handwritten digits of scikit-learn, which need no download.

    They are 8 x 8 images of 17 grey levels, divided by 16. Other sizes result from cubic interpolation (with smoothing
    first if `size` is below 8), clipped to [0, 1]; the default is the size of MNIST.

    **Arguments:**

    - `size`: the number of pixels along each side; 8 gives the original images.

    **Returns:** the images, float32 in [0, 1], of shape `(1797, size, size, 1)`, and the labels 0 to 9, int32, of shape
    `(1797,)`.

    **Raises:** `ValueError` if `size` is not a positive integer or scikit-learn is not installed.

    **Reference:** Alpaydin, Kaynak, Optical Recognition of Handwritten Digits (UCI Machine Learning Repository), 1998.

    !!! example
        ```python
        import jaxinv
        images, labels = jaxinv.data.digits(size=16)
        ```
    """
    size = check_count(size, "size")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError(
            "The digits come with scikit-learn, which is not installed. Install the extra that holds it: "
            '`python -m pip install "jaxinv[demo]"`.'
        ) from error
    bunch: Any = load_digits()
    images = (bunch.images / 16).astype(np.float32)[..., None]
    if size != images.shape[1]:
        shape = (len(images), size, size, 1)
        images = np.asarray(jnp.clip(jax.image.resize(jnp.asarray(images), shape, "cubic"), 0, 1))
    return images, bunch.target.astype(np.int32)
