"""What principal components and a linear autoencoder have in common: the subspace of the least squared error."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from scipy.linalg import subspace_angles

from jaxinv import generative, subspace, training

SHAPE = (3, 2, 1)
# Made once: transformations compare by identity.
OPTIMISER = optax.adam(optax.cosine_decay_schedule(0.03, 1500))


class _Linear(nnx.Module):
    """`z = V x`, `x = W z + b`, of no structure: neither tied, orthonormal nor centred."""

    def __init__(self, rng):
        self.encoder = nnx.Param(jnp.asarray(rng.normal(scale=0.3, size=(6, 2))))
        self.decoder = nnx.Param(jnp.asarray(rng.normal(scale=0.3, size=(2, 6))))
        self.bias = nnx.Param(jnp.zeros(6))

    def encode(self, x):
        return x.reshape(len(x), -1) @ self.encoder[...]

    def decode(self, z):
        return (z @ self.decoder[...] + self.bias[...][None]).reshape(-1, *SHAPE)


def test_a_trained_linear_autoencoder_spans_the_principal_components():
    """Baldi, Hornik, Neural networks and principal component analysis, 1989."""
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    # Far from the origin. The third standard deviation is near the second, so that almost any plane is nearly as good.
    data = rng.normal(size=(60, 6)) * np.array([2.0, 1.5, 1.0, 0.5, 0.3, 0.2]) @ rotation + 1
    with jax.enable_x64(True):
        data = jnp.asarray(data.reshape(60, *SHAPE))
        start = _Linear(rng)
        model, history = training.fit(
            start,
            generative.autoencoder_loss,
            data,
            key=jax.random.key(0),
            optimiser=OPTIMISER,
            num_steps=1500,
            batch_size=60,
            chunk_size=1500,
        )
        found = subspace.pca(data, rank=2)
        angle = lambda m: subspace_angles(np.asarray(m.decoder[...]).T, found.components.reshape(2, 6).T).max()
        assert angle(start) > 0.3
        # The bar of issue 3.
        assert angle(model) < 1e-3
        left = jnp.mean(jnp.sum((found.decode(found.encode(data)) - data) ** 2, axis=(1, 2, 3)))
        # The loss is flat to second order in the angle.
        np.testing.assert_allclose(history["loss"][-1], left, rtol=1e-6)
