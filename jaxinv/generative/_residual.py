"""What the range of a generator misses, as a Gaussian."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import oracles
from .._prior import AbstractGenerativePrior
from ..operators._base import as_parameter, is_concrete
from ._reconstruct import check_prior

HIGHEST = jax.lax.Precision.HIGHEST
# Of the largest pixel variance: what never deviates in the data deviates by this much.
_FLOOR = 1e-6


def residual_gaussian(prior: Any, images: Any, *, rank: Any, latents: Any = None) -> oracles.Gaussian:
    """The Gaussian of the residuals `x - G(E(x))` of images: their mean, and a covariance of low rank plus a diagonal.

    The first `rank` principal components, and per pixel the variance that these leave. For
    `Relaxed(regularisers.Gaussian(residual_gaussian(...)))`: a deviation is then as dear as it is rare.

    **Arguments:**

    - `prior`: a generative prior.
    - `images`: `(n, *image_shape)`, best not those that the generator was trained on, which it fits too well.
    - `rank`: static, less than `n` and at most the number of pixels.
    - `latents`: `(n, *latent_shape)`, of images close to `images`. Default: `prior.encode` of each; for a prior without
      an encoder take those of `generative.encode`.

    **Returns:** an `oracles.Gaussian`.

    **Raises:** `ValueError` for shapes that do not fit, a rank larger than the data allow, or images that are not
    finite.

    **Reference:** Duff, Campbell, Ehrhardt, VAEs with structured image covariance applied to compressed sensing MRI,
    2023; Tipping, Bishop, Probabilistic principal component analysis, 1999.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        images = jax.random.normal(jax.random.key(0), (100, 8, 8, 1))
        prior = jaxinv.generative.PCAPrior(jaxinv.subspace.pca(images, rank=4))
        missed = jaxinv.generative.residual_gaussian(prior, images, rank=10)
        method = jaxinv.generative.Relaxed(jaxinv.regularisers.Gaussian(missed))
        ```
    """
    prior, images = check_prior(prior), as_parameter(images)
    shape = tuple(prior.image_shape)
    if images.ndim != len(shape) + 1 or images.shape[1:] != shape or images.shape[0] < 2:
        raise ValueError(
            f"`images` must be at least two images of the prior, of shape (n, {', '.join(map(str, shape))}); got "
            f"{images.shape}."
        )
    count, size = images.shape[0], images[0].size
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(count - 1, size):
        raise ValueError(
            f"`rank` must be a static integer from 1 to {min(count - 1, size)}, for {count} images of {size} pixels; "
            f"got {rank!r}."
        )
    if latents is not None:
        latents = as_parameter(latents)
        if latents.shape != (count, *prior.latent_shape):
            raise ValueError(
                f"`latents` must have shape {(count, *prior.latent_shape)}, one for each image; got {latents.shape}."
            )
    if is_concrete(images) and not bool(jnp.all(jnp.isfinite(images))):
        first = int(jnp.argmin(jnp.all(jnp.isfinite(images.reshape(count, -1)), axis=1)))
        raise ValueError(f"`images` must be finite; image {first} is not.")
    mean, factor, diagonal = _fit(prior, images, latents, rank)
    return oracles.Gaussian.from_factor(mean, factor, diagonal)


@eqx.filter_jit
def _fit(prior: AbstractGenerativePrior, images: Array, latents: Array | None, rank: int) -> tuple[Array, Array, Array]:
    if latents is None:
        missed = jax.lax.map(lambda x: x - prior.decode(prior.encode(x)), images, batch_size=500)
    else:
        missed = jax.lax.map(lambda pair: pair[0] - prior.decode(pair[1]), (images, latents), batch_size=500)
    mean = missed.mean(0)
    centred = (missed - mean[None]).reshape(images.shape[0], -1) / jnp.sqrt(images.shape[0] - 1).astype(images.dtype)
    # From the smaller of the two Gram matrices' sides, without forming either.
    _, values, rows = jnp.linalg.svd(centred, full_matrices=False)
    factor = rows[:rank].T * values[:rank][None, :]
    variance = jnp.sum(centred**2, axis=0)
    left = variance - jnp.sum(factor**2, axis=1)
    return mean, factor, jnp.maximum(left, _FLOOR * jnp.max(variance))
