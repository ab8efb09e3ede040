"""Principal components as a generative prior."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import HIGHEST, check_key, check_one
from .._prior import AbstractGenerativePrior
from .._types import ArrayLike, Checked, Key
from ..requirements import Requirement, finite, not_negative
from ..subspace import PCA


class PCAPrior(AbstractGenerativePrior):
    """The prior of principal components: `x = mean + sum_i z_i std_i component_i` with `z` standard normal.

    `std_i` is the standard deviation of the data along component `i`, so this is the Gaussian fit to the data on the
    subspace, with the energy `1/2 ||z||^2`. It is the best linear generator of its size, and the baseline of the
    others.

    **Arguments:**

    - `pca`: from `subspace.pca`; its `standard_deviations` are needed.

    **Raises:** `ValueError` for a PCA without standard deviations; its methods, for anything but one latent or one
    image.

    !!! cite "Reference"
        Tipping, Bishop, Probabilistic principal component analysis, 1999

    !!! example
        ```python
        import jax
        import jaxinv
        images = jax.random.uniform(jax.random.key(0), (64, 8, 8, 1))
        prior = jaxinv.generative.PCAPrior(jaxinv.subspace.pca(images, rank=4))
        x = prior.decode(prior.encode(images[0]))  # (8, 8, 1)
        ```
    """

    mean: Array
    components: Array
    standard_deviations: Float[Array, " k"]
    latent_shape: tuple[int, ...] = eqx.field(static=True)
    image_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, pca: Checked[PCA]):
        if not isinstance(pca, PCA):
            raise ValueError(
                f"PCAPrior takes a `PCA`, made by `subspace.pca(data, rank=...)`; got {type(pca).__name__}."
            )
        if pca.standard_deviations is None:
            raise ValueError(
                "This PCA does not say its `standard_deviations`, which scale the latents; make it by "
                "`subspace.pca(data, rank=...)`, or give them: `PCA(mean, components, singular_values, "
                "singular_values / sqrt(n - 1))`."
            )
        self.mean, self.components, self.standard_deviations = pca.mean, pca.components, pca.standard_deviations
        self.latent_shape, self.image_shape = (pca.rank,), pca.image_shape

    def requirements(self) -> tuple[Requirement, ...]:
        return (
            finite("mean", self.mean),
            finite("components", self.components),
            not_negative("standard_deviations", self.standard_deviations),
        )

    def decode(self, z: ArrayLike) -> Array:
        """The image of `z`."""
        z = check_one(z, self.latent_shape, "a latent", "PCAPrior")
        flat = jnp.matmul(z * self.standard_deviations, self._flat(), precision=HIGHEST)
        return self.mean + flat.reshape(self.image_shape)

    def energy(self, z: ArrayLike) -> Float[Array, ""]:
        """`1/2 ||z||^2`."""
        z = check_one(z, self.latent_shape, "a latent", "PCAPrior")
        return 0.5 * jnp.sum(z**2)

    def sample_latent(self, *, key: Key) -> Array:
        """A standard normal latent."""
        check_key(key)
        return jax.random.normal(key, self.latent_shape, self.components.dtype)

    def encode(self, x: ArrayLike) -> Array:
        """The latent whose image is nearest to `x`; 0 along components on which the data do not vary."""
        x = check_one(x, self.image_shape, "an image", "PCAPrior")
        coordinates = jnp.matmul(self._flat(), (x - self.mean).ravel(), precision=HIGHEST)
        varies = self.standard_deviations > 0
        return jnp.where(varies, coordinates / jnp.where(varies, self.standard_deviations, 1), 0)

    def _flat(self) -> Float[Array, "k d"]:
        return self.components.reshape(*self.latent_shape, -1)
