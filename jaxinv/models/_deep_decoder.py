"""The deep decoder."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from .._checks import check_count
from ._conv_decoder import START, check_decoder_input
from ._convolutional import channel_normalisation
from ._network import check_batch, check_sizes
from ._resampling import Bilinear, growing_sizes


class DeepDecoder(nnx.Module):
    """The deep decoder, `network(z0)`: 1 x 1 convolutions between bilinear enlargements of a small array of noise.

    Few weights, which alone keep it from fitting noise: with the default sizes 17 000. Each layer mixes channels,
    enlarges, takes the ReLU and normalises every channel. A 1 x 1 convolution is a matrix product, and for many
    networks at once, under `jax.vmap` over weights, one batched product: the network for many problems at a time.

    **Arguments:**

    - `image_shape`: `(h, w, c)`, of any size.
    - `input_shape`: of `z0`, `(h0, w0, k)`; default `channels` of the image halved once for each of `layers`, but of at
        least 4 x 4 pixels.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `layers`: how often the input is enlarged.
    - `channels`: of each layer; they decide how much detail there can be.
    - `output`: applied to the last layer. The default keeps images in `[0, 1]`.

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
        image_shape: Any,
        *,
        input_shape: Any = None,
        rngs: Any,
        layers: Any = 4,
        channels: Any = 64,
        output: Callable[[Array], Array] = jax.nn.sigmoid,
    ):
        self.image_shape, _, _ = check_sizes(image_shape, 1, (1,), rngs)
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

    def __call__(self, z0: Any) -> Float[Array, "n h w c"]:
        """The images, `(n, h, w, c)`, of inputs of shape `(n, *input_shape)`."""
        x = check_batch(z0, self.input_shape, "inputs", "DeepDecoder")
        enlarge = Bilinear()
        for size, layer, norm in zip(self.sizes, self.layers, self.norms, strict=True):
            x = norm(jax.nn.relu(enlarge(layer(x), size)))
        return self.output(self.last(x))
