"""The convolutional decoder."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from .._checks import check_count
from ._convolutional import channel_normalisation, convolution
from ._network import check_batch, check_sizes
from ._resampling import Nearest, growing_sizes
from ._skip_unet import check_input_shape

START = 4


class ConvDecoder(nnx.Module):
    """The convolutional decoder, `network(z0)`: images from a small array of noise, enlarged step by step.

    All but the last of `layers` blocks enlarge by a constant factor, each pixel taking the value of the nearest, so
    that any image size will do; each has a 3 x 3 convolution, a ReLU and a normalisation of every channel. A 1 x 1
    convolution ends it: images are not bounded. With the default sizes it has .26 M weights.

    **Arguments:**

    - `image_shape`: `(h, w, c)`.
    - `input_shape`: of `z0`, `(h0, w0, k)`; default 4 x 4 with `channels`.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `layers`: of convolutions, at least 2.
    - `channels`: of each.

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

    def __init__(self, image_shape: Any, *, input_shape: Any = None, rngs: Any, layers: Any = 7, channels: Any = 64):
        self.image_shape, _, _ = check_sizes(image_shape, 1, (1,), rngs)
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

    def __call__(self, z0: Any) -> Float[Array, "n h w c"]:
        """The images, `(n, h, w, c)`, of inputs of shape `(n, *input_shape)`."""
        x = check_batch(z0, self.input_shape, "inputs", "ConvDecoder")
        enlarge = Nearest()
        for size, layer, norm in zip(self.sizes, self.layers, self.norms, strict=True):
            x = norm(jax.nn.relu(layer(enlarge(x, size))))
        return self.last(x)


def check_decoder_input(shape: Any, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """The shape of an input that is not larger than the image."""
    shape = check_input_shape(shape)
    if shape[0] > image_shape[0] or shape[1] > image_shape[1]:
        raise ValueError(
            f"A decoder enlarges its input to an image of {image_shape[0]} x {image_shape[1]} pixels; got "
            f"input_shape={shape}. For inputs of the size of the image take `SkipUNet`."
        )
    return shape
