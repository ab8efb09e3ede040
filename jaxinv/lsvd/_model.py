"""The learned SVD, a network, and the trunk of its linear version."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .._arrays import check_count, check_shape
from .._networks import check_batch, check_network_shape
from .._types import Activation, ArrayLike, Checked, IntLike
from ..models import MLP, AbstractTrunk, Convolutional, Dense
from ._latent_map import Full, Nonlinear, SpectralFilter, Spectrum


class Linear(AbstractTrunk):
    """Networks without hidden layers: affine maps.

    With them the learned SVD is a reduced-rank regression, trained by stochastic gradients.
    """

    def encoder(self, image_shape: tuple[int, ...], size: int, *, activation: Activation, rngs: nnx.Rngs) -> nnx.Module:
        return MLP((math.prod(image_shape), size), activation=activation, rngs=rngs)

    def decoder(self, size: int, image_shape: tuple[int, ...], *, activation: Activation, rngs: nnx.Rngs) -> nnx.Module:
        return MLP((size, math.prod(image_shape)), activation=activation, rngs=rngs)


class LSVD(nnx.Module):
    """A learned SVD: an autoencoder of images, one of measurements, and a map between their latents.

    A measurement is reconstructed as `D_x S E_y(y)`; see `lsvd.train`. The parts are `image` and `measurement`, each
    with `encode` and `decode`, and `latent_map`: a `Spectrum`, a `Full` matrix, or `Nonlinear`. All calls take a batch.

    **Arguments:**

    - `image_shape`: `(h, w, c)`.
    - `measurement_shape`: the shape of one measurement, `(angles, detectors, c)` or any other.
    - `latent_size`: `k`, the number of latent variables on either side, which bounds the rank.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `trunk`: how all four networks are built: `models.Dense(widths)`, `models.Convolutional(channels)` for images of
        more than a few thousand pixels, or `lsvd.Linear()`.
    - `measurement_trunk`: another trunk for the two networks of the measurements. Default: `trunk`.
    - `activation`: the function between the layers.
    - `diagonal`: whether the latent map is diagonal, which restricts nothing as long as the autoencoders are trained
      with it, since their own dense layers can rotate the latents.
    - `map_widths`: the widths of hidden layers of a latent map that is not linear, in place of a diagonal or full one.
      It has no spectrum. Default: a linear map.
    - `output`: a function of decoded images: `jax.nn.sigmoid` for images in [0, 1]. Default: none.

    **Raises:** `ValueError` for sizes that are not positive integers; its calls, for anything but a batch.

    !!! cite "Reference"
        Boink, Brune, Learned SVD: solving inverse problems via hybrid autoencoding, 2019

    !!! example
        ```python
        import jax.numpy as jnp
        from flax import nnx
        from jaxinv import lsvd, models
        model = lsvd.LSVD((28, 28, 1), (10, 41, 1), 16, rngs=nnx.Rngs(0), trunk=models.Dense((256, 128)))
        x = model(jnp.ones((5, 10, 41, 1)))  # (5, 28, 28, 1)
        z = model.image.encode(x)  # (5, 16)
        ```
    """

    # `lsvd.reconstruct` passes a filter to the call, and reads the latent from `encode`.
    takes_filter: ClassVar[bool] = True

    def __init__(
        self,
        image_shape: Checked[tuple[int, int, int]],
        measurement_shape: Checked[tuple[int, ...]],
        latent_size: IntLike,
        *,
        rngs: Checked[nnx.Rngs],
        trunk: Checked[AbstractTrunk] = Dense(),  # noqa: B008
        measurement_trunk: Checked[AbstractTrunk | None] = None,
        activation: Callable[[Array], Array] = jax.nn.silu,
        diagonal: bool = True,
        map_widths: Checked[Sequence[int] | None] = None,
        output: Callable[[Array], Array] | None = None,
    ):
        image_shape, size = check_network_shape(image_shape, rngs), check_count(latent_size, "latent_size")
        measurement_shape = check_shape(measurement_shape, "measurement_shape")
        trunk = _check_trunk(Dense() if trunk is None else trunk, "trunk")
        other = trunk if measurement_trunk is None else _check_trunk(measurement_trunk, "measurement_trunk")
        if isinstance(other, Convolutional) and len(measurement_shape) != 3:
            raise ValueError(
                f"`Convolutional()` takes measurements of shape (h, w, c); these have shape {measurement_shape}. Give "
                "their side dense layers: `measurement_trunk=models.Dense()`."
            )
        self.image = Side(image_shape, size, trunk, activation, what="images", output=output, rngs=rngs)
        self.measurement = Side(measurement_shape, size, other, activation, what="measurements", output=None, rngs=rngs)
        offset = jnp.zeros((size,), jnp.float32)
        if map_widths is not None:
            widths = check_shape(map_widths, "map_widths")
            self.latent_map = Nonlinear(jnp.diag(offset + 1), offset, widths, activation=activation, rngs=rngs)
        else:
            self.latent_map = Spectrum(offset + 1, offset) if diagonal else Full(jnp.diag(offset + 1), offset)
        self.image_shape, self.measurement_shape, self.latent_size = image_shape, measurement_shape, size

    def encode(self, y: ArrayLike) -> Float[Array, "n k"]:
        """The latents `E_y(y)` of measurements `(n, *measurement_shape)`."""
        return self.measurement.encode(y)

    def __call__(self, y: ArrayLike, filter: SpectralFilter | None = None) -> Float[Array, "n h w c"]:
        """The reconstructions `D_x S E_y(y)` of measurements `(n, *measurement_shape)`.

        - `filter`: the filter of the spectrum: `Tikhonov(weight)`, `Truncation(rank)`, or a function `(k,) -> (k,)`.
        """
        return self.image.decode(self.latent_map(self.measurement.encode(y), filter))


class Side(nnx.Module):
    """One of the two autoencoders, for images or for measurements of the given `shape`."""

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        trunk: AbstractTrunk,
        activation: Callable[[Array], Array],
        *,
        what: str,
        output: Callable[[Array], Array] | None,
        rngs: nnx.Rngs,
    ):
        self.shape, self.latent_size, self.what, self.output = shape, latent_size, what, output
        # The networks are made for images; measurements of another rank enter them as one column of pixels.
        self.grid = (shape[0], shape[1], shape[2]) if len(shape) == 3 else (math.prod(shape), 1, 1)
        self.encoder: Any = trunk.encoder(self.grid, latent_size, activation=activation, rngs=rngs)
        self.decoder: Any = trunk.decoder(latent_size, self.grid, activation=activation, rngs=rngs)

    def encode(self, x: ArrayLike) -> Float[Array, "n k"]:
        """The latents of `(n, *shape)`."""
        x = check_batch(x, self.shape, self.what, "LSVD")
        return self.encoder(x.reshape(x.shape[0], *self.grid))

    def decode(self, z: ArrayLike) -> Float[Array, "n ..."]:
        """The images or measurements of latents `(n, k)`."""
        z = check_batch(z, (self.latent_size,), "latents", "LSVD")
        x = self.decoder(z).reshape(z.shape[0], *self.shape)
        return x if self.output is None else self.output(x)


def _check_trunk(trunk: Any, name: str) -> AbstractTrunk:
    if not isinstance(trunk, AbstractTrunk):
        raise ValueError(
            f"`{name}` must be `lsvd.Linear()`, `models.Dense(widths)` or `models.Convolutional(channels)`; got "
            f"{trunk!r}."
        )
    return trunk
