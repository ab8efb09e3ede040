"""The loss of a denoiser, for `fit`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import as_array, as_parameter, check_floating, check_key
from .._types import Checked, Scalar
from ..requirements import Parametric, Requirement


class DenoisingLoss(Parametric):
    """`E ||D(x + sigma n, sigma) - x||^2 / d`, a function of a network and a batch, which `denoising_loss` makes."""

    low: Array = eqx.field(converter=as_parameter)
    high: Array = eqx.field(converter=as_parameter)

    def requirements(self) -> tuple[Requirement, ...]:
        return (
            Requirement(
                "`sigma` must be a pair (least, largest) with 0 <= least <= largest, finite",
                {"least": self.low, "largest": self.high},
                lambda low, high: (low >= 0) & (low <= high) & (high < jnp.inf),
            ),
        )

    def __call__(self, network: Any, batch: Any, *, key: Any) -> Float[Array, ""]:
        check_key(key)
        batch = check_floating(as_array(batch), "images", "denoising_loss")
        level_key, noise_key = jax.random.split(key)
        # One level in each of n equal parts of the interval, so the mean over a batch varies less.
        n = batch.shape[0]
        share = (jnp.arange(n, dtype=batch.dtype) + jax.random.uniform(level_key, (n,), batch.dtype)) / n
        low, high = self.low.astype(batch.dtype), self.high.astype(batch.dtype)
        sigmas = low + share * (high - low)
        noise = jax.random.normal(noise_key, batch.shape, batch.dtype)
        noisy = batch + sigmas.reshape((-1,) + (1,) * (batch.ndim - 1)) * noise
        output = network(noisy, sigmas)
        if output.shape != batch.shape:
            raise ValueError(
                f"A denoiser must return what has the shape of its input, {batch.shape}; it returned {output.shape}. "
                "It is called as `network(x, sigma)`, with `sigma` of shape (n,)."
            )
        return jnp.mean((output - batch) ** 2)


def denoising_loss(sigma: Checked[tuple[Scalar, Scalar]] = (0.0, 0.2)) -> DenoisingLoss:
    """The mean squared error of a denoiser, `E ||D(x + sigma n, sigma) - x||^2 / d`, for `fit`.

    Noise levels are uniform in an interval and stratified over the batch, with one in each of `n` equal parts. The
    minimiser is the conditional mean `E[x | x + sigma n]`.

    **Arguments:**

    - `sigma`: the least and the largest noise level, in the unit of the images. The default, for images in [0, 1], is
        the range of `pnp.HQS()`, up to 50/255.

    **Returns:** the loss, `loss(network, batch, *, key)`: the mean over a batch, with the call `network(x, sigma)`.
    Make the loss once, since `training.fit` compiles a program for each new one.

    **Raises:** `ValueError` for levels out of their range; and when the loss is called, for a network that returns
    another shape.

    **Reference:** Vincent, Larochelle, Bengio, Manzagol, Extracting and composing robust features with denoising
    autoencoders, 2008; Zhang, Zuo, Zhang, FFDNet, 2018 (a range of levels).

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        network, history = jaxinv.training.fit(
            jaxinv.models.DRUNet((16, 16, 1), widths=(8, 16), num_blocks=1, rngs=nnx.Rngs(0)),
            jaxinv.training.denoising_loss((0.0, 0.2)),
            jax.random.uniform(jax.random.key(0), (64, 16, 16, 1)),
            key=jax.random.key(1),
            num_steps=10,
            batch_size=8,
        )
        denoiser = jaxinv.pnp.denoiser_from(network, sigma_range=(0.0, 0.2))
        ```
    """
    if not isinstance(sigma, tuple | list) or len(sigma) != 2:
        raise ValueError(f"`sigma` must be a pair of noise levels (least, largest); got {sigma!r}.")
    return DenoisingLoss(*sigma)
