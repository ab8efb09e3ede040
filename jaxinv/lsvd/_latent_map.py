"""The map from the latents of measurements to the latents of images."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ._filter import filtered

HIGHEST = jax.lax.Precision.HIGHEST


class Spectrum(nnx.Module):
    """`z -> values * z + offset`: one number for each latent variable, as the singular values of a matrix.

    - `values`, `offset`: `(k,)`, trained.
    """

    def __init__(self, values: Any, offset: Any):
        self.values, self.offset = nnx.Param(jnp.asarray(values)), nnx.Param(jnp.asarray(offset))

    def __call__(self, z: Float[Array, "n k"], filter: Any = None) -> Float[Array, "n k"]:
        """The latents of images; the filter acts on `values`."""
        values = filtered(self.values[...], filter)
        return z * values[None] + self.offset[...][None]

    def affine(self) -> tuple[Float[Array, "k k"], Float[Array, " k"]]:
        """`(matrix, offset)` of the map `z -> z matrix + offset`."""
        return jnp.diag(self.values[...]), self.offset[...]


class Full(nnx.Module):
    """`z -> z matrix + offset`.

    - `matrix`: `(k, k)`, `offset`: `(k,)`, trained.
    """

    def __init__(self, matrix: Any, offset: Any):
        self.matrix, self.offset = nnx.Param(jnp.asarray(matrix)), nnx.Param(jnp.asarray(offset))

    def __call__(self, z: Float[Array, "n k"], filter: Any = None) -> Float[Array, "n k"]:
        """The latents of images.

        **Raises:** `ValueError` for a filter: a full matrix has no spectrum to filter.
        """
        if filter is not None:
            raise ValueError(
                "This model has a full latent map, `Full`, which has no spectrum to filter. Bring it to a spectrum by "
                "`lsvd.diagonalise(model, images, measurements)`."
            )
        return jnp.matmul(z, self.matrix[...], precision=HIGHEST) + self.offset[...][None]

    def affine(self) -> tuple[Float[Array, "k k"], Float[Array, " k"]]:
        """`(matrix, offset)`."""
        return self.matrix[...], self.offset[...]
