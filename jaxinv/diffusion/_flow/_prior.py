"""A diffusion model as a generative prior."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ..._arrays import check_key, check_one, check_shape
from ..._checks import checked
from ..._prior import AbstractGenerativePrior
from ..._score import AbstractScore
from ..._solution import or_nan
from ..._types import Key
from .._samplers._probability_flow import ProbabilityFlow
from .._scores._score import check_score
from ._encode import check_flow, decode, encode


class ProbabilityFlowPrior(AbstractGenerativePrior):
    """A diffusion model as the prior `x = G(z)`: `z` standard normal, `G` the probability-flow ODE from noise to image.

    With it, everything that takes a generative prior takes a diffusion model: `generative.interpolate` along the ODE,
    `generative.reconstruct` in its latents (D-Flow), and `generative.sample`. `G` is a bijection, and `z` has the shape
    of the image.

    **Arguments:**

    - `score`: what `sample` takes.
    - `shape`: the shape of one image.
    - `method`: a `ProbabilityFlow`. For gradients take one with a few fixed steps, `ProbabilityFlow(num_steps=10)`.

    **Raises:** `ValueError` for something that is no score and for another method; its methods raise for anything but
    one latent or one image.

    !!! cite "Reference"
        Ben-Hamu, Puny, Gat, Karrer, Singer, Lipman, D-Flow: differentiating through flows for controlled generation,
        2024

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import diffusion, generative, oracles
        score = oracles.Gaussian(jnp.ones((4, 4, 1)), 0.1 * jnp.eye(16)).score(diffusion.VP())
        prior = diffusion.ProbabilityFlowPrior(score, (4, 4, 1))
        first, last = (prior.encode(v * jnp.ones((4, 4, 1))) for v in (0.0, 1.0))
        path = generative.interpolate(prior, first, last, 5, kind=generative.Spherical())
        ```
    """

    score: AbstractScore
    method: ProbabilityFlow
    latent_shape: tuple[int, ...] = eqx.field(static=True)
    image_shape: tuple[int, ...] = eqx.field(static=True)

    @checked(score=check_score, method=check_flow)
    def __init__(self, score: AbstractScore, shape: Sequence[int], method: ProbabilityFlow = ProbabilityFlow()):
        self.image_shape = self.latent_shape = check_shape(shape, "shape")
        self.score, self.method = score, method

    def decode(self, z: ArrayLike) -> Array:
        """The image of `z`; NaN if the ODE could not be solved."""
        z = check_one(z, self.latent_shape, "a latent", "ProbabilityFlowPrior")
        std = jnp.asarray(self.score.process.prior_std).astype(z.dtype)
        return or_nan(decode(self.score, std * z, method=self.method))

    def energy(self, z: ArrayLike) -> Float[Array, ""]:
        """`1/2 ||z||^2`."""
        return 0.5 * jnp.sum(check_one(z, self.latent_shape, "a latent", "ProbabilityFlowPrior") ** 2)

    def sample_latent(self, *, key: Key) -> Array:
        """A standard normal latent."""
        check_key(key)
        return jax.random.normal(key, self.latent_shape)

    def encode(self, x: ArrayLike) -> Array:
        """The latent of an image; NaN if the ODE could not be solved."""
        x = check_one(x, self.image_shape, "an image", "ProbabilityFlowPrior")
        std = jnp.asarray(self.score.process.prior_std).astype(x.dtype)
        return or_nan(encode(self.score, x, method=self.method)) / std
