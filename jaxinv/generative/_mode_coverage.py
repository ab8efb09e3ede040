"""A monitor of mode collapse: the share of the data that a generator reaches."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import check_count, check_key, check_shape
from .._networks import latent_shape_of, weights_dtype
from .._types import Checked, IntLike, Key, Network
from ..subspace import KMeans

# A cluster is reached if its share of the samples is at least this part of its share of the data: a stray sample is
# not enough.
_REACHED = 0.1


class ModeCoverage(eqx.Module):
    """Counts the clusters of the data that a generator's samples reach: a monitor for `training.fit_adversarial`.

    A generator that suffers from mode collapse makes few kinds of images, however good. Called, `(generator, *, key)`,
    it gives `coverage`, the fraction of clusters whose share of the samples is at least a tenth of their share of the
    data, and `entropy`, that of the shares of the samples, `-sum_j p_j log p_j / log k`: 1 if all clusters are equally
    frequent, 0 if there is one only. For the data themselves it is `reference_entropy`.

    **Arguments:**

    - `clusters`: from `subspace.kmeans` on the training data, at least two.
    - `num_samples`: static.
    - `latent_shape`: needed only where the generator has no `latent_size`.

    **Raises:** `ValueError` for anything but clusters, or a single one; its call, for samples of another shape.

    !!! cite "Reference"
        Richardson, Weiss, On GANs and GMMs, 2018

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        images = jax.random.uniform(jax.random.key(0), (64, 8, 8, 1))
        clusters = jaxinv.subspace.kmeans(images, 4, key=jax.random.key(1))
        monitor = jaxinv.generative.ModeCoverage(clusters, num_samples=100)
        generator = jaxinv.models.Generator((8, 8, 1), 2, rngs=nnx.Rngs(0))
        reached = monitor(generator, key=jax.random.key(2))  # {"coverage": ..., "entropy": ...}
        ```
    """

    clusters: Checked[KMeans]
    num_samples: IntLike = eqx.field(static=True, default=1000)
    latent_shape: tuple[int, ...] | None = eqx.field(
        static=True, default=None, converter=lambda s: None if s is None else check_shape(s, "latent_shape")
    )

    def __check_init__(self):
        if not isinstance(self.clusters, KMeans):
            raise ValueError(
                f"ModeCoverage takes `clusters`, made by `subspace.kmeans(data, k, key=key)`; got "
                f"{type(self.clusters).__name__}."
            )
        if self.clusters.centres.shape[0] < 2:
            raise ValueError("ModeCoverage needs at least two clusters; there is one.")
        check_count(self.num_samples, "num_samples")

    @property
    def reference_entropy(self) -> Float[Array, ""]:
        """The entropy of the data, to which that of the samples compares."""
        return _entropy(self._shares(self.clusters.labels))

    def __call__(self, generator: Network, *, key: Key) -> dict[str, Array]:
        """The coverage and the entropy of `num_samples` images of the generator."""
        check_key(key)
        shape = latent_shape_of(generator, self.latent_shape, "ModeCoverage(clusters, latent_shape=(k,))")
        latents = jax.random.normal(key, (self.num_samples, *shape), weights_dtype(generator))
        shares = self._shares(self.clusters.assign(generator(latents)))
        reached = shares >= _REACHED * self._shares(self.clusters.labels)
        return {"coverage": jnp.mean(reached.astype(shares.dtype)), "entropy": _entropy(shares)}

    def _shares(self, labels: Array) -> Float[Array, " k"]:
        dtype = self.clusters.centres.dtype
        return jnp.mean(jax.nn.one_hot(labels, self.clusters.centres.shape[0], dtype=dtype), axis=0)


def _entropy(shares: Float[Array, " k"]) -> Float[Array, ""]:
    present = shares > 0
    terms = jnp.where(present, shares * jnp.log(1 / jnp.where(present, shares, 1)), 0)
    return jnp.sum(terms) / jnp.log(jnp.asarray(shares.shape[0], shares.dtype))
