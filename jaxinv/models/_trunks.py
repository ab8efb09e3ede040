"""Trunks, which build the encoders and decoders of autoencoders and GANs from dense layers or from convolutions."""

import abc
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
from flax import nnx
from jaxtyping import Array, Float

from .._arrays import check_shape
from .._types import Activation
from ._convolutional import convolution

# The convolutions that halve an image have an even kernel, so that every pixel enters with equally many weights.
_KERNEL = 4


class MLP(nnx.Module):
    """Dense layers with an activation between them, `(n, sizes[0]) -> (n, sizes[-1])`; images are flattened.

    **Arguments:**

    - `sizes`: the number of inputs, of the units of each hidden layer, and of outputs.
    - `activation`: the function between the layers, entry by entry.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    """

    def __init__(self, sizes: Sequence[int], *, activation: Activation = jax.nn.silu, rngs: nnx.Rngs):
        self.activation = activation
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.layers = nnx.List([nnx.Linear(into, out, rngs=rngs) for into, out in pairs])

    def __call__(self, x: Float[Array, "n ..."]) -> Float[Array, "n out"]:
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class AbstractTrunk(eqx.Module):
    """The way to build a network from images to numbers, and one back. To define a trunk, implement both methods."""

    @abc.abstractmethod
    def encoder(
        self, image_shape: tuple[int, int, int], size: int, *, activation: Activation, rngs: nnx.Rngs
    ) -> nnx.Module:
        """The network from images to numbers.

        **Arguments:**

        - `image_shape`: the shape of an image, `(h, w, c)`.
        - `size`: the number of outputs.
        - `activation`: the function between the layers.
        - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.

        **Returns:** a network `(n, h, w, c) -> (n, size)`.
        """

    @abc.abstractmethod
    def decoder(
        self, size: int, image_shape: tuple[int, int, int], *, activation: Activation, rngs: nnx.Rngs
    ) -> nnx.Module:
        """The network from numbers to images.

        **Arguments:**

        - `size`: the number of inputs.
        - `image_shape`, `activation`, `rngs`: as for `encoder`.

        **Returns:** a network `(n, size) -> (n, h, w, c)`; images may be flattened.
        """


class Dense(AbstractTrunk):
    """Dense layers.

    **Arguments:**

    - `widths`: the widths of the hidden layers, from the image on; a decoder has them in reverse.

    **Raises:** `ValueError` for widths that are not positive integers.
    """

    widths: tuple[int, ...] = eqx.field(default=(512, 256), static=True, converter=lambda w: check_shape(w, "widths"))

    def encoder(
        self, image_shape: tuple[int, int, int], size: int, *, activation: Activation, rngs: nnx.Rngs
    ) -> nnx.Module:
        return MLP((math.prod(image_shape), *self.widths, size), activation=activation, rngs=rngs)

    def decoder(
        self, size: int, image_shape: tuple[int, int, int], *, activation: Activation, rngs: nnx.Rngs
    ) -> nnx.Module:
        return MLP((size, *self.widths[::-1], math.prod(image_shape)), activation=activation, rngs=rngs)


class Convolutional(AbstractTrunk):
    """Convolutions that halve the image once for each entry of `channels`, and a dense layer; a decoder doubles it.

    The defaults are thin, for 28 x 28 pixels on a few cores. Larger images need more halvings, such as
    `(16, 32, 64, 64)` for 128 x 128, since the input of the dense layer is `h / 2^m x w / 2^m`, rounded up.

    **Arguments:**

    - `channels`: the number of channels after each halving, from the finest level.

    **Raises:** `ValueError` for numbers of channels that are not positive integers.

    !!! cite "Reference"
        Radford, Metz, Chintala, Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
        Networks, 2016; Shi et al., Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel
        Convolutional Neural Network, 2016 (the doubling)
    """

    channels: tuple[int, ...] = eqx.field(default=(16, 32), static=True, converter=lambda c: check_shape(c, "channels"))

    def encoder(
        self, image_shape: tuple[int, int, int], size: int, *, activation: Activation, rngs: nnx.Rngs
    ) -> nnx.Module:
        return _Encoder(image_shape, self.channels, size, activation=activation, rngs=rngs)

    def decoder(
        self, size: int, image_shape: tuple[int, int, int], *, activation: Activation, rngs: nnx.Rngs
    ) -> nnx.Module:
        return _Decoder(size, self.channels, image_shape, activation=activation, rngs=rngs)


class _Encoder(nnx.Module):
    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: Sequence[int],
        size: int,
        *,
        activation: Activation,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        pairs = zip((image_shape[-1], *channels[:-1]), channels, strict=True)
        self.layers = nnx.List([convolution(into, out, _KERNEL, stride=2, rngs=rngs) for into, out in pairs])
        self.last = nnx.Linear(math.prod(_levels(image_shape, channels)[-1]) * channels[-1], size, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n size"]:
        for layer in self.layers:
            x = self.activation(layer(x))
        return self.last(x.reshape(x.shape[0], math.prod(x.shape[1:])))


class _Decoder(nnx.Module):
    def __init__(
        self,
        size: int,
        channels: Sequence[int],
        image_shape: tuple[int, int, int],
        *,
        activation: Activation,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        *levels, coarsest = _levels(image_shape, channels)
        self.coarsest, self.levels = (*coarsest, channels[-1]), tuple(levels[::-1])
        self.first = nnx.Linear(size, math.prod(self.coarsest), rngs=rngs)
        pairs = zip(channels[::-1], (*channels[-2::-1], image_shape[-1]), strict=True)
        self.layers = nnx.List([convolution(into, 4 * out, rngs=rngs) for into, out in pairs])

    def __call__(self, z: Float[Array, "n size"]) -> Float[Array, "n h w c"]:
        x = self.first(z).reshape(z.shape[0], *self.coarsest)
        for layer, (h, w) in zip(self.layers, self.levels, strict=True):
            # Halving an odd size rounded up, so crop.
            x = _spread(layer(self.activation(x)))[:, :h, :w]
        return x


def _spread(x: Float[Array, "n h w four_c"]) -> Float[Array, "n hh ww c"]:
    """Rearrange four channels as the four pixels of a cell.

    After a convolution this equals a transposed convolution of stride 2, whose gradient is slow on a CPU.
    """
    n, h, w, c = x.shape
    return x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)


def _levels(image_shape: tuple[int, int, int], channels: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width from the finest level to the coarsest."""
    h, w, _ = image_shape
    return [(-(-h // 2**level), -(-w // 2**level)) for level in range(len(channels) + 1)]


def check_trunk(trunk: Any, widths: Any) -> AbstractTrunk:
    """`trunk`, or `Dense(widths)` if it is `None`."""
    if trunk is None:
        return Dense() if widths is None else Dense(widths)
    if not isinstance(trunk, AbstractTrunk):
        raise ValueError(
            f"`trunk` must be `models.Dense()` or `models.Convolutional()`, or another such strategy; got {trunk!r}."
        )
    if widths is not None:
        raise ValueError(
            f"`widths` are those of dense layers without a `trunk`; with one, give it its sizes, such as "
            f"`trunk=models.Convolutional((16, 32))`. Got widths={widths!r} and trunk={trunk!r}."
        )
    return trunk
