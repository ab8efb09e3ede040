"""The losses of a learned SVD."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import checked
from .._types import Checked, Key, Network, Scalar
from ..likelihood import Likelihood, simulate_each


@checked()
def joint_loss(
    model: Network,
    batch: Checked[tuple[Array, Array]],
    *,
    key: Key,
    image_weight: Scalar = 1.0,
    measurement_weight: Scalar = 1.0,
) -> Float[Array, ""]:
    """`||x - D_x S E_y(y)||^2 + a_x ||x - D_x E_x(x)||^2 + a_y ||y - D_y E_y(y)||^2`, the mean over the batch.

    **Arguments:**

    - `model`: an `LSVD`, or any network with its parts: `image` and `measurement`, which have `encode` and `decode`,
        and `latent_map`.
    - `batch`: pairs `(x, y)`: images `(n, h, w, c)` and their measurements `(n, ...)`.
    - `key`: not used; every loss of `training.fit` takes it.
    - `image_weight`, `measurement_weight`: `a_x`, `a_y`.

    **Raises:** `ValueError` if the batch is not pairs, or the shapes are not those of the model.

    **Reference:** Boink, Brune, Learned SVD: solving inverse problems via hybrid autoencoding, 2019.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from flax import nnx
        from jaxinv import lsvd
        model = lsvd.LSVD((8, 8, 1), (20,), 4, rngs=nnx.Rngs(0))
        pairs = (jnp.ones((5, 8, 8, 1)), jnp.ones((5, 20)))
        loss = lsvd.joint_loss(model, pairs, key=jax.random.key(0), image_weight=0.1)
        ```
    """
    del key
    if not all(hasattr(model, part) for part in ("image", "measurement", "latent_map")):
        raise ValueError(
            f"`model` must be a `jaxinv.lsvd.LSVD`, or a network with its parts; got a {type(model).__name__}."
        )
    for name, weight in (("image_weight", image_weight), ("measurement_weight", measurement_weight)):
        if jnp.ndim(weight) != 0:
            raise ValueError(f"`{name}` must be a scalar; got shape {jnp.shape(weight)}.")
    if not isinstance(batch, tuple | list) or len(batch) != 2 or len(batch[0]) != len(batch[1]):
        raise ValueError(
            "`joint_loss` takes a batch of pairs `(x, y)`, images and as many measurements of them; got "
            f"{jax.tree.map(jnp.shape, batch)}."
        )
    x, y = batch
    latents = model.measurement.encode(y)
    reconstruction = _error(model.image.decode(model.latent_map(latents)), x)
    image = _error(model.image.decode(model.image.encode(x)), x)
    measurement = _error(model.measurement.decode(latents), y)
    weigh = lambda weight, error: jnp.asarray(weight).astype(error.dtype) * error
    return reconstruction + weigh(image_weight, image) + weigh(measurement_weight, measurement)


def autoencoding_loss(side: Network, batch: Array, *, key: Key) -> Float[Array, ""]:
    """The squared error of one of the two autoencoders, the mean over the batch."""
    del key
    return _error(side.decode(side.encode(batch)), batch)


class Simulated(eqx.Module):
    """The joint loss on images alone: every step draws new measurements of them."""

    likelihood: Likelihood
    image_weight: Array
    measurement_weight: Array

    def __call__(self, model: Network, batch: Array, *, key: Key) -> Float[Array, ""]:
        pairs = (batch, simulate_each(self.likelihood, batch, key=key))
        return joint_loss(
            model, pairs, key=key, image_weight=self.image_weight, measurement_weight=self.measurement_weight
        )


class OfImages(eqx.Module):
    """`||x - D_x S z||^2`, the mean over pairs `(x, z)` of images and latents of measurements, for a map `S`."""

    image: Network

    def __call__(self, model: Network, batch: tuple[Array, Array], *, key: Key) -> Float[Array, ""]:
        del key
        x, z = batch
        return _error(self.image.decode(model(z)), x)


def _error(approximation: Array, truth: Array) -> Float[Array, ""]:
    return jnp.sum((approximation - truth) ** 2) / truth.shape[0]
