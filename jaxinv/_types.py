"""The type aliases that the whole package shares."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree, Shaped

# What a user hands in: shapes and dtypes of these are checked by the library itself, with a message that says what to
# do, so the aliases stay as wide as the messages need.
State = PyTree[Array | np.ndarray]
Image = Shaped[Array, "h w c"]
Key = Any
Scalar = Array | np.ndarray | float | int
Struct = PyTree[jax.ShapeDtypeStruct]
