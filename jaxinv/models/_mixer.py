"""A patch mixer for images and times, an alternative to `UNet` without convolutions."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .._arrays import check_count
from .._networks import check_batch, check_network_shape
from .._types import ArrayLike, Checked, IntLike
from ._convolutional import LayerNorm, TimeEmbedding
from ._unet import check_batch_times


class Mixer(nnx.Module):
    """A mixer of patches for images and times, `network(x, t)`, which starts as zero, in place of a `UNet`.

    It cuts the image, padded by zeros to whole patches, into tokens; each block has a dense network across the tokens
    and one across the channels. With the default sizes it has .74 M weights at 28 x 28; those across the tokens grow
    with the number of pixels. It has dense layers only, without convolutions or statistics over the batch.

    **Arguments:**

    - `image_shape`: the shape of an image, `(h, w, c)`.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `patch_size`: the side of a patch in pixels.
    - `width`: the number of channels of a token.
    - `num_blocks`: the number of blocks, each of which mixes across the tokens and then across the channels.
    - `token_width`, `channel_width`: the widths of the hidden layers of the two networks of a block.
    - `embedding_size`: the size of the embedding of time, which scales and shifts every block.

    **Raises:** `ValueError` for sizes that are not positive integers; its call, for anything but a batch with a time
    for each image.

    !!! cite "Reference"
        Tolstikhin et al., MLP-Mixer: an all-MLP architecture for vision, 2021

    !!! example
        ```python
        import jax.numpy as jnp
        from flax import nnx
        import jaxinv
        network = jaxinv.models.Mixer((28, 28, 1), num_blocks=2, rngs=nnx.Rngs(0))
        noise = network(jnp.ones((5, 28, 28, 1)), jnp.linspace(0.1, 1, 5))  # (5, 28, 28, 1)
        ```
    """

    def __init__(
        self,
        image_shape: Checked[Sequence[int]],
        *,
        rngs: Checked[nnx.Rngs],
        patch_size: IntLike = 4,
        width: IntLike = 128,
        num_blocks: IntLike = 4,
        token_width: IntLike = 128,
        channel_width: IntLike = 256,
        embedding_size: IntLike = 64,
    ):
        self.image_shape = check_network_shape(image_shape, rngs)
        self.patch_size = check_count(patch_size, "patch_size")
        sizes = {"width": width, "token_width": token_width, "channel_width": channel_width}
        for name, size in {**sizes, "num_blocks": num_blocks, "embedding_size": embedding_size}.items():
            check_count(size, name)
        h, w, c = self.image_shape
        tokens, pixels = math.prod(patch_counts(h, w, patch_size)), patch_size**2 * c
        self.time = TimeEmbedding(embedding_size, rngs=rngs)
        self.first = nnx.Linear(pixels, width, rngs=rngs)
        self.blocks = nnx.List(
            [_Block(tokens, width, token_width, channel_width, embedding_size, rngs=rngs) for _ in range(num_blocks)]
        )
        self.norm = LayerNorm(width, rngs=rngs)
        self.last = nnx.Linear(width, pixels, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)

    def __call__(self, x: ArrayLike, t: ArrayLike) -> Float[Array, "n h w c"]:
        """Images of the shape of `x`, `(n, h, w, c)`, at the process times `t`, of shape `(n,)` and in [0, 1]."""
        x = check_batch(x, self.image_shape, "images", "Mixer")
        time = self.time(check_batch_times(t, x, "Mixer"))
        patches = cut(x, self.patch_size)
        grid = patches.shape[:3]
        tokens = self.first(patches.reshape(grid[0], -1, patches.shape[3]))
        for block in self.blocks:
            tokens = block(tokens, time)
        return join(self.last(self.norm(tokens)).reshape(*grid, -1), self.image_shape)


class _Block(nnx.Module):
    """Mixing across the tokens, then across the channels, `(n, tokens, width) -> (n, tokens, width)`.

    Each has a skip connection and follows a layer normalisation that the embedding of time scales and shifts.
    """

    def __init__(self, tokens: int, width: int, across: int, along: int, embedded: int, *, rngs: nnx.Rngs):
        self.norms = nnx.List([LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.modulation = nnx.Linear(embedded, 4 * width, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)
        self.tokens = nnx.List([nnx.Linear(tokens, across, rngs=rngs), nnx.Linear(across, tokens, rngs=rngs)])
        self.channels = nnx.List([nnx.Linear(width, along, rngs=rngs), nnx.Linear(along, width, rngs=rngs)])

    def __call__(
        self, x: Float[Array, "n tokens width"], time: Float[Array, "n embedded"]
    ) -> Float[Array, "n tokens width"]:
        scale, shift, scale_2, shift_2 = jnp.split(self.modulation(time)[:, None, :], 4, axis=-1)
        hidden = (self.norms[0](x) * (1 + scale) + shift).swapaxes(1, 2)
        x = x + self.tokens[1](jax.nn.gelu(self.tokens[0](hidden))).swapaxes(1, 2)
        hidden = self.norms[1](x) * (1 + scale_2) + shift_2
        return x + self.channels[1](jax.nn.gelu(self.channels[0](hidden)))


def patch_counts(height: int, width: int, size: int) -> tuple[int, int]:
    """The numbers of rows and columns of patches of `size x size` pixels that cover an image."""
    return -(-height // size), -(-width // size)


def cut(x: Float[Array, "n h w c"], size: int) -> Float[Array, "n rows columns pixels"]:
    """The patches of images, padded by zeros to whole patches; `pixels = size^2 c`."""
    n, h, w, c = x.shape
    rows, columns = patch_counts(h, w, size)
    x = jnp.pad(x, ((0, 0), (0, rows * size - h), (0, columns * size - w), (0, 0)))
    x = x.reshape(n, rows, size, columns, size, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, rows, columns, size * size * c)


def join(patches: Float[Array, "n rows columns pixels"], shape: tuple[int, int, int]) -> Float[Array, "n h w c"]:
    """The images of shape `(n, *shape)`; the inverse of `cut`."""
    n, rows, columns, pixels = patches.shape
    h, w, c = shape
    size = round((pixels // c) ** 0.5)
    x = patches.reshape(n, rows, columns, size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, rows * size, columns * size, c)[:, :h, :w]
