"""How the decoder of a VAE explains an image: the distribution of the pixels around the decoded one."""

import math
import numbers
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Gaussian(eqx.Module):
    """Pixels are Gaussian around `sigmoid(logits)`, with one standard deviation.

    With weight 1 on the KL term this is the loss `sum (x - xhat)^2 + 2 std^2 KL`, up to a factor and a constant; the
    default `std` makes it `sum (x - xhat)^2 + .05 KL`.

    **Arguments:**

    - `std`: in units of the pixels. Static: it is not trained.

    **Raises:** `ValueError` if `std` is not a positive number.
    """

    std: Any = eqx.field(default=math.sqrt(0.025), static=True)

    def __check_init__(self):
        if not isinstance(self.std, numbers.Real) or not 0 < float(self.std) < math.inf:
            raise ValueError(f"`std` must be a positive Python number (it is static); got {self.std!r}.")

    def mean(self, logits: Float[Array, "*image"]) -> Float[Array, "*image"]:
        """The mean image."""
        return jax.nn.sigmoid(logits)

    def negative_log_likelihood(self, x: Float[Array, "*image"], logits: Float[Array, "*image"]) -> Float[Array, ""]:
        """`-log p(x | logits)` of one image, in nats, constants included."""
        return self.about(x, self.mean(logits))

    def about(self, x: Float[Array, "*image"], mean: Float[Array, "*image"]) -> Float[Array, ""]:
        """The same, for a mean image that is given itself."""
        constant = x.size * (math.log(self.std) + 0.5 * math.log(2 * math.pi))
        return 0.5 * jnp.sum((x - mean) ** 2) / self.std**2 + constant


class Bernoulli(eqx.Module):
    """Pixels are Bernoulli with probability `sigmoid(logits)`; for grey values in `[0, 1]`, the cross-entropy.

    The better choice where faint structure counts: an error near 0 or 1 costs more than one near 1/2.
    """

    def mean(self, logits: Float[Array, "*image"]) -> Float[Array, "*image"]:
        """The mean image."""
        return jax.nn.sigmoid(logits)

    def negative_log_likelihood(self, x: Float[Array, "*image"], logits: Float[Array, "*image"]) -> Float[Array, ""]:
        """`-log p(x | logits)` of one image, in nats; no overflow for any logits."""
        return jnp.sum(jax.nn.softplus(logits) - x * logits)
