"""Critics."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from ._network import check_batch, check_sizes
from ._trunks import check_trunk


def _leaky(x: Array) -> Array:
    return jax.nn.leaky_relu(x, 0.2)


class Critic(nnx.Module):
    """A critic, or discriminator, `critic(x) -> (n,)`: the logit of each image being one of the data.

    At 28 x 28 pixels it has .53 M weights by default, and 10 000 with `Convolutional()`. No statistic is taken over
    the batch, so the gradient of one image's logit is that image's alone, which gradient penalties rest on.

    **Arguments:**

    - `image_shape`: `(h, w, c)`.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `trunk`: `Dense(widths)`, the default, or `Convolutional(channels)`.
    - `widths`: of the hidden layers. Short for `trunk=Dense(widths)`.
    - `activation`: between the layers. Default: leaky ReLU of slope .2.

    **Raises:** `ValueError` for sizes that are not positive integers; its call, for anything but a batch.

    !!! cite "Reference"
        Goodfellow et al., Generative Adversarial Nets, 2014

    !!! example
        ```python
        import jax.numpy as jnp
        from flax import nnx
        import jaxinv
        critic = jaxinv.models.Critic((28, 28, 1), rngs=nnx.Rngs(0))
        logits = critic(jnp.ones((5, 28, 28, 1)))  # (5,)
        ```
    """

    def __init__(
        self,
        image_shape: Any,
        *,
        rngs: Any,
        trunk: Any = None,
        widths: Any = None,
        activation: Callable[[Array], Array] = _leaky,
    ):
        self.image_shape, _, _ = check_sizes(image_shape, 1, (1,), rngs)
        self.network = check_trunk(trunk, widths).encoder(self.image_shape, 1, activation=activation, rngs=rngs)

    def __call__(self, x: Any) -> Float[Array, " n"]:
        """The logits of images `x` of shape `(n, h, w, c)`."""
        return self.network(check_batch(x, self.image_shape, "images", "Critic"))[:, 0]
