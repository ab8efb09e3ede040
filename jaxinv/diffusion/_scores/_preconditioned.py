"""A parametrisation relative to the exact score of a Gaussian with the mean and the covariance of the data."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import HIGHEST, as_parameter
from ..._score import AbstractProcess
from ..._types import ArrayLike, Scalar
from ...oracles import Gaussian
from ...requirements import Requirement, finite, not_negative, positive
from ._parametrisation import AbstractParametrisation


class Preconditioned(AbstractParametrisation):
    """The difference from the score of a Gaussian with mean `m` and covariance `U diag(s^2) U^T`, in its own units.

    For data with that Gaussian law, `E[x_0 | x_t] = m + U (scale s^2/v^2) U^T (x_t - scale m)`, and the deviation of
    `x_0` from it is `U (std s/v) U^T` times a standard normal, where `v^2 = scale^2 s^2 + std^2`. The network predicts
    minus that normal. So a network that starts as zero starts from the exact score of the Gaussian, which at high noise
    is nearly that of the data, and its target is of order 1 at every time, whatever the scale of the images.

    On MNIST with `VP` and one mean and deviation for all pixels, a U-Net trained for 300 steps has, above `t = .6`, a
    sixth of the error of one that predicts the noise, and 3 to 25 % less elsewhere. With the whole covariance the
    untrained network is as good, above `t = .3`, as a U-Net that predicts the noise after 250 steps, which suits short
    trainings; after 500 steps it gains nothing more there, and has 10 to 20 % more error below `t = .1`.

    - `mean`, `std`: the moments of the training images, in their unit: numbers, or arrays of the shape of one image,
        for independent pixels. `Preconditioned.from_samples(images)` takes the whole covariance.
    - `basis`: the matrix `U` with orthonormal columns, `(d, r)`; `std` is then `(r,)` and may hold zeros.

    **Reference:** Karras, Aittala, Aila, Laine, Elucidating the design space of diffusion-based generative models,
    2022, section 5; Wang, Vastola, The unreasonable effectiveness of Gaussian score approximation for diffusion models
    and its applications, 2024.

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        images = jax.random.uniform(jax.random.key(0), (64, 8, 8, 1))
        parametrisation = jaxinv.diffusion.Preconditioned.from_samples(images)
        process = jaxinv.diffusion.VP()
        loss = jaxinv.diffusion.score_matching_loss(process, parametrisation=parametrisation)
        network = jaxinv.models.UNet((8, 8, 1), widths=(8, 16), rngs=nnx.Rngs(0))
        score = jaxinv.diffusion.score_from(network, process, parametrisation)
        ```
    """

    mean: Array = eqx.field(converter=as_parameter)
    std: Array = eqx.field(converter=as_parameter)
    basis: Array | None = None

    def requirements(self) -> tuple[Requirement, ...]:
        std = (positive if self.basis is None else not_negative)("std", self.std)
        return (finite("mean", self.mean), finite("basis", self.basis), std)

    @staticmethod
    def from_samples(images: ArrayLike) -> "Preconditioned":
        """The parametrisation with the mean and the covariance of training images, `(n, *shape)`.

        **Raises:** `ValueError` for fewer than two images.
        """
        gaussian = Gaussian.from_samples(images)
        basis, std = gaussian.spectrum()
        return Preconditioned(gaussian.mean, std, basis)

    def split(self, process: AbstractProcess, t: Scalar, x: Array, output: Array) -> tuple[Array, Array]:
        mean, std_0, scale, std = self._moments(process, t, x)
        total = jnp.sqrt(scale**2 * std_0**2 + std**2)
        away = x - scale * mean
        known, new = self._coordinates(away), self._coordinates(output)
        image = mean + self._vector(scale * (std_0 / total) ** 2 * known - std * std_0 / total * new, x)
        noise = self._vector(std / total**2 * known + scale * std_0 / total * new, x)
        if self.basis is not None:
            # Outside the span of the images there is only noise.
            noise = noise + (away - self._vector(known, x)) / std
        return image, noise

    def target(self, process: AbstractProcess, t: Scalar, x0: Array, noise: Array) -> Array:
        mean, std_0, scale, std = self._moments(process, t, x0)
        total = jnp.sqrt(scale**2 * std_0**2 + std**2)
        varies = std_0 > 0
        unit = self._coordinates(x0 - mean) / jnp.where(varies, std_0, 1)
        part = scale * std_0 * self._coordinates(noise) - std * unit
        return self._vector(jnp.where(varies, part / total, 0), x0)

    def _moments(self, process: AbstractProcess, t: Scalar, x: Array) -> tuple[Array, Array, Array, Array]:
        std_0 = self.std if self.basis is not None else jnp.broadcast_to(self.std, x.shape)
        mean = jnp.broadcast_to(self.mean, x.shape)
        scale, std = process.marginal(t)
        return mean.astype(x.dtype), std_0.astype(x.dtype), scale, std

    def _coordinates(self, v: Array) -> Array:
        return v if self.basis is None else jnp.matmul(v.ravel(), self.basis.astype(v.dtype), precision=HIGHEST)

    def _vector(self, coordinates: Array, like: Array) -> Array:
        if self.basis is None:
            return coordinates
        basis = self.basis.astype(like.dtype)
        return jnp.matmul(basis, coordinates, precision=HIGHEST).reshape(like.shape)
