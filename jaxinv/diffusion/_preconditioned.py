"""A prediction that starts from what mean and variance alone tell."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._types import Scalar
from ..operators._base import as_parameter, is_concrete
from ._parametrisation import AbstractParametrisation
from ._process import AbstractProcess


class Preconditioned(AbstractParametrisation):
    """What a Gaussian with independent pixels of mean `m` and standard deviation `s` does not tell, in unit variance.

    For data of that mean and deviation, `E[n | x_t] = (std/v^2) (x_t - scale m) + (scale s/v) output`, with
    `v^2 = scale^2 s^2 + std^2`. So a network that starts as zero starts from the best affine denoiser, whatever the
    scale of the images, and need not learn to pass its input on where that is noise; what it predicts is of order 1 at
    every time. A score U-Net on MNIST then has half the error after a few hundred steps.

    - `mean`, `std`: of the training images, in their unit: numbers, or arrays that broadcast with one image.

    **Reference:** Karras, Aittala, Aila, Laine, Elucidating the design space of diffusion-based generative models,
    2022, section 5.

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        images = jax.random.uniform(jax.random.key(0), (64, 8, 8, 1))
        parametrisation = jaxinv.diffusion.Preconditioned(images.mean(), images.std())
        process = jaxinv.diffusion.VP()
        loss = jaxinv.diffusion.score_matching_loss(process, parametrisation=parametrisation)
        network = jaxinv.models.UNet((8, 8, 1), widths=(8, 16), rngs=nnx.Rngs(0))
        score = jaxinv.diffusion.score_from(network, process, parametrisation)
        ```
    """

    mean: Array = eqx.field(converter=as_parameter)
    std: Array = eqx.field(converter=as_parameter)

    def __check_init__(self):
        if is_concrete(self.std) and not bool(jnp.all(self.std > 0)):
            raise ValueError(f"`std` must be positive; got {jnp.min(self.std)} as its smallest entry.")

    def split(self, process: AbstractProcess, t: Scalar, x: Array, output: Array) -> tuple[Array, Array]:
        mean, std_0 = self._moments(x)
        scale, std = process.marginal(t)
        total = jnp.sqrt(scale**2 * std_0**2 + std**2)
        away, spread = (x - scale * mean) / total, std_0 / total
        image = mean + scale * std_0 * spread * away - std * spread * output
        return image, std / total * away + scale * spread * output

    def target(self, process: AbstractProcess, t: Scalar, x0: Array, noise: Array) -> Array:
        mean, std_0 = self._moments(x0)
        scale, std = process.marginal(t)
        total = jnp.sqrt(scale**2 * std_0**2 + std**2)
        return (scale * std_0 * noise - std * (x0 - mean) / std_0) / total

    def _moments(self, x: Array) -> tuple[Array, ...]:
        return tuple(jnp.broadcast_to(v, x.shape).astype(x.dtype) for v in (self.mean, self.std))
