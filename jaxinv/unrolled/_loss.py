"""The losses of unrolled networks, on pairs of images and measurements."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Checked, Key, Network, PyTree
from ..likelihood import Likelihood, simulate_each


def supervised_loss(model: Network, batch: Checked[tuple[Array, PyTree[Array]]], *, key: Key) -> Float[Array, ""]:
    """`||model(y) - x||^2`, the mean over the batch.

    **Arguments:**

    - `model`: a network from batches of measurements to batches of images, such as `models.LearnedGradient`.
    - `batch`: pairs `(x, y)`: images `(n, h, w, c)` and a measurement of each, `(n, ...)`.
    - `key`: not used; every loss of `training.fit` takes it.

    **Raises:** `ValueError` if the batch is not pairs, or the images are not of the shape that the model makes.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from flax import nnx
        from jaxinv import models, operators, unrolled
        operator = operators.Downsample((8, 8, 1), 2)
        network = models.LearnedGradient(operator, num_layers=2, rngs=nnx.Rngs(0))
        x = jnp.ones((5, 8, 8, 1))
        loss = unrolled.supervised_loss(network, (x, jax.vmap(operator)(x)), key=jax.random.key(0))
        ```
    """
    del key
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(
            "`supervised_loss` takes a batch of pairs `(x, y)`, images and a measurement of each; got "
            f"{jax.tree.map(jnp.shape, batch)}. For images alone see `unrolled.SimulatedLoss(likelihood)`."
        )
    x, y = batch
    return squared_error(model(y), x)


class SimulatedLoss(eqx.Module):
    """`supervised_loss` on images alone: every step simulates new measurements, so no noise comes twice.

    - `likelihood`: the operator and the noise.

    !!! example
        ```python
        import jax, jaxinv
        from flax import nnx
        from jaxinv import models, noise, operators, training, unrolled
        likelihood = jaxinv.Likelihood(operators.Downsample((8, 8, 1), 2), noise.Gaussian(0.1))
        network = models.LearnedGradient(likelihood.operator, num_layers=2, width=4, rngs=nnx.Rngs(0))
        images = jax.random.uniform(jax.random.key(0), (100, 8, 8, 1))
        network, history = training.fit(
            network, unrolled.SimulatedLoss(likelihood), images, key=jax.random.key(1), num_steps=20, batch_size=10
        )
        ```
    """

    likelihood: Likelihood

    def __call__(self, model: Network, batch: Checked[Array], *, key: Key) -> Float[Array, ""]:
        if not isinstance(batch, jax.Array):
            raise ValueError(
                "`SimulatedLoss` takes images alone, as `validation` too, and simulates their measurements; got "
                f"{jax.tree.map(jnp.shape, batch)}. For pairs `(x, y)` take `supervised_loss`."
            )
        return supervised_loss(model, (batch, simulate_each(self.likelihood, batch, key=key)), key=key)


def squared_error(images: Array, truth: Array) -> Float[Array, ""]:
    """The squared error of a batch, summed over an image."""
    if images.shape != truth.shape:
        raise ValueError(
            f"The model makes images of shape {images.shape}; those of the data are {truth.shape}, so "
            "they cannot be compared."
        )
    error = images - truth
    return jnp.sum((jnp.conj(error) * error).real) / truth.shape[0]
