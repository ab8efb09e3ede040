"""Decoders without an encoder, for deep image priors."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from .._arrays import check_count
from .._networks import check_batch, check_network_shape
from .._types import ArrayLike, Checked, IntLike
from ._convolutional import Bilinear, Nearest, channel_normalisation, convolution, growing_sizes
from ._skip_unet import check_input_shape

START = 4


class ConvDecoder(nnx.Module):
    """The convolutional decoder, `network(z0)`: images from a small array of noise, enlarged step by step.

    All but the last of `layers` blocks enlarge by a constant factor, with nearest-neighbour interpolation, so that any
    image size is possible; each block has a 3 x 3 convolution, a ReLU and a normalisation of every channel. The last
    layer is a 1 x 1 convolution, so images are not bounded. With the default sizes it has .26 M weights.

    **Arguments:**

    - `image_shape`: the shape of an image, `(h, w, c)`.
    - `input_shape`: the shape of `z0`, `(h0, w0, k)`; by default 4 x 4 pixels with `channels` channels.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `layers`: the number of blocks, at least 2.
    - `channels`: the number of channels of each block.

    **Raises:** `ValueError` for sizes that are not positive integers, or an input that is larger than the image; its
    call, for anything but a batch.

    !!! cite "Reference"
        Darestani, Heckel, Accelerated MRI with Un-trained Neural Networks, 2021

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        network = jaxinv.models.ConvDecoder((28, 28, 1), layers=4, channels=32, rngs=nnx.Rngs(0))
        x = network(jax.random.normal(jax.random.key(0), (1, *network.input_shape)))  # (1, 28, 28, 1)
        ```
    """

    def __init__(
        self,
        image_shape: Checked[Sequence[int]],
        *,
        input_shape: Checked[Sequence[int] | None] = None,
        rngs: Checked[nnx.Rngs],
        layers: IntLike = 7,
        channels: Checked[int | Sequence[int]] = 64,
    ):
        self.image_shape = check_network_shape(image_shape, rngs)
        width, count = check_count(channels, "channels"), check_count(layers, "layers")
        if count < 2:
            raise ValueError(f"`layers` must be at least 2, one of which enlarges the image; got {layers}.")
        h, w, out = self.image_shape
        default = (min(START, h), min(START, w), width)
        self.input_shape = check_decoder_input(default if input_shape is None else input_shape, self.image_shape)
        self.sizes = tuple(growing_sizes((self.input_shape[0], self.input_shape[1]), (h, w), count - 1)) + ((h, w),)
        into = (self.input_shape[-1], *(width,) * (count - 1))
        self.layers = nnx.List([convolution(i, width, rngs=rngs) for i in into])
        self.norms = nnx.List([channel_normalisation(width, rngs=rngs) for _ in into])
        self.last = nnx.Linear(width, out, rngs=rngs)

    def __call__(self, z0: ArrayLike) -> Float[Array, "n h w c"]:
        """The images, `(n, h, w, c)`, of inputs of shape `(n, *input_shape)`."""
        x = check_batch(z0, self.input_shape, "inputs", "ConvDecoder")
        enlarge = Nearest()
        for size, layer, norm in zip(self.sizes, self.layers, self.norms, strict=True):
            x = norm(jax.nn.relu(layer(enlarge(x, size))))
        return self.last(x)


def check_decoder_input(shape: Any, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """The shape of the input of a decoder.

    **Raises:** `ValueError` if it is not `(h0, w0, k)`, or is larger than the image.
    """
    shape = check_input_shape(shape)
    if shape[0] > image_shape[0] or shape[1] > image_shape[1]:
        raise ValueError(
            f"A decoder enlarges its input to an image of {image_shape[0]} x {image_shape[1]} pixels; got "
            f"input_shape={shape}. For inputs of the size of the image take `SkipUNet`."
        )
    return shape


class DeepDecoder(nnx.Module):
    """The deep decoder, `network(z0)`: 1 x 1 convolutions between bilinear enlargements of a small array of noise.

    It has few weights, 17 000 with the default sizes, and this alone keeps it from fitting noise. Each layer mixes
    channels, enlarges, applies the ReLU and normalises every channel. A 1 x 1 convolution is a matrix product, and for
    many networks at once, under `jax.vmap` over weights, one batched product: choose it to solve many problems at once.

    **Arguments:**

    - `image_shape`: the shape of an image, `(h, w, c)`, of any size.
    - `input_shape`: the shape of `z0`, `(h0, w0, k)`; by default `channels` channels on the image size halved once for
        each of `layers`, but at least 4 x 4 pixels.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `layers`: the number of enlargements.
    - `channels`: the number of channels of each layer; more of them allow more detail.
    - `output`: the function applied to the last layer. The default keeps images in `[0, 1]`.

    **Raises:** `ValueError` for sizes that are not positive integers, or an input that is larger than the image; its
    call, for anything but a batch.

    !!! cite "Reference"
        Heckel, Hand, Deep Decoder: Concise Image Representations from Untrained Non-convolutional Networks, 2019

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        network = jaxinv.models.DeepDecoder((28, 28, 1), layers=2, rngs=nnx.Rngs(0))
        x = network(jax.random.normal(jax.random.key(0), (1, *network.input_shape)))  # (1, 28, 28, 1)
        ```
    """

    def __init__(
        self,
        image_shape: Checked[Sequence[int]],
        *,
        input_shape: Checked[Sequence[int] | None] = None,
        rngs: Checked[nnx.Rngs],
        layers: IntLike = 4,
        channels: Checked[int | Sequence[int]] = 64,
        output: Callable[[Array], Array] = jax.nn.sigmoid,
    ):
        self.image_shape = check_network_shape(image_shape, rngs)
        width, count = check_count(channels, "channels"), check_count(layers, "layers")
        h, w, out = self.image_shape
        default = (*(max(-(-n // 2**count), min(n, START)) for n in (h, w)), width)
        self.input_shape = check_decoder_input(default if input_shape is None else input_shape, self.image_shape)
        self.sizes, self.output = (
            tuple(growing_sizes((self.input_shape[0], self.input_shape[1]), (h, w), count)),
            output,
        )
        into = (self.input_shape[-1], *(width,) * (count - 1))
        self.layers = nnx.List([nnx.Linear(i, width, use_bias=False, rngs=rngs) for i in into])
        self.norms = nnx.List([channel_normalisation(width, rngs=rngs) for _ in into])
        self.last = nnx.Linear(width, out, rngs=rngs)

    def __call__(self, z0: ArrayLike) -> Float[Array, "n h w c"]:
        """The images, `(n, h, w, c)`, of inputs of shape `(n, *input_shape)`."""
        x = check_batch(z0, self.input_shape, "inputs", "DeepDecoder")
        enlarge = Bilinear()
        for size, layer, norm in zip(self.sizes, self.layers, self.norms, strict=True):
            x = norm(jax.nn.relu(enlarge(layer(x), size)))
        return self.output(self.last(x))
