"""The U-Net for images and times, a network for the scores of `diffusion`."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .._arrays import check_count, check_shape
from .._networks import check_batch, check_network_shape
from .._types import ArrayLike, Checked, IntLike
from ._convolutional import (
    Downsampling,
    ResidualBlock,
    TimeEmbedding,
    Upsampling,
    convolution,
    normalisation,
)


class UNet(nnx.Module):
    """A thin U-Net for images and times, `network(x, t)`, which starts as zero: noise, score, velocity or denoiser.

    Each level halves the image, rounding up, so that any height and width are possible. With the default widths it has
    .21 M weights, at any number of pixels. It has no statistics over the batch or between calls.

    **Arguments:**

    - `image_shape`: the shape of an image, `(h, w, c)`.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `widths`: the number of channels at each level, from the finest.
    - `num_blocks`: the number of residual blocks at each level, on the way down and on the way up.
    - `embedding_size`: the size of the embedding of time, which scales and shifts every block.

    **Raises:** `ValueError` for sizes that are not positive integers; its call, for anything but a batch with a time
    for each image.

    !!! cite "Reference"
        Ho, Jain, Abbeel, Denoising Diffusion Probabilistic Models, 2020

    !!! example
        ```python
        import jax.numpy as jnp
        from flax import nnx
        import jaxinv
        network = jaxinv.models.UNet((28, 28, 1), widths=(16, 32), rngs=nnx.Rngs(0))
        noise = network(jnp.ones((5, 28, 28, 1)), jnp.linspace(0.1, 1, 5))  # (5, 28, 28, 1)
        ```
    """

    def __init__(
        self,
        image_shape: Checked[Sequence[int]],
        *,
        rngs: Checked[nnx.Rngs],
        widths: Sequence[int] = (16, 32, 64),
        num_blocks: IntLike = 1,
        embedding_size: IntLike = 64,
    ):
        self.image_shape, widths = check_network_shape(image_shape, rngs), check_shape(widths, "widths")
        check_count(num_blocks, "num_blocks")
        channels, embedded = self.image_shape[-1], check_count(embedding_size, "embedding_size")
        block = lambda into, out: ResidualBlock(into, out, embedded, rngs=rngs)
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.time = TimeEmbedding(embedded, rngs=rngs)
        self.first = convolution(channels, widths[0], rngs=rngs)
        self.down = nnx.List([nnx.List([block(width, width) for _ in range(num_blocks)]) for width in widths])
        self.halvings = nnx.List([Downsampling(fine, coarse, rngs=rngs) for fine, coarse in pairs])
        self.doublings = nnx.List([Upsampling(coarse, fine, rngs=rngs) for fine, coarse in pairs])
        self.up = nnx.List(
            [nnx.List([block(fine if i else 2 * fine, fine) for i in range(num_blocks)]) for fine, _ in pairs]
        )
        self.norm = normalisation(widths[0], rngs=rngs)
        self.last = convolution(widths[0], channels, zero=True, rngs=rngs)

    def __call__(self, x: ArrayLike, t: ArrayLike) -> Float[Array, "n h w c"]:
        """Images of the shape of `x`, `(n, h, w, c)`, at the process times `t`, of shape `(n,)` and in [0, 1]."""
        x = check_batch(x, self.image_shape, "images", "UNet")
        time = self.time(check_batch_times(t, x, "UNet"))
        x = self.first(x)
        skips = []
        for level, blocks in enumerate(self.down):
            x = self.halvings[level - 1](x) if level else x
            for block in blocks:
                x = block(x, time)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            skip = skips[level]
            x = jnp.concatenate([self.doublings[level](x, skip.shape[1:3]), skip], axis=-1)
            for block in self.up[level]:
                x = block(x, time)
        return self.last(jax.nn.silu(self.norm(x)))


def check_batch_times(t: Any, x: Array, name: str) -> Float[Array, " n"]:
    """A time for each image of a batch `x`, in its dtype."""
    t = jnp.asarray(t)
    if t.shape != x.shape[:1]:
        raise ValueError(
            f"{name} expects a time for each image, of shape {x.shape[:1]}; got {t.shape}. One time for all: "
            "`jnp.full(len(x), t)`."
        )
    return t.astype(x.dtype)
