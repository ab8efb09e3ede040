"""DRUNet, the denoiser of DPIR: a U-Net of residual blocks without biases, with the noise level for a channel."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .._arrays import check_count, check_shape
from .._types import ArrayLike, BoolLike, Checked, IntLike
from ._convolutional import convolution
from ._torch_layers import Doubling, check_any_batch, check_any_shape
from ._unet import check_batch_times


class DRUNet(nnx.Module):
    """A U-Net that denoises, `network(x, sigma)`, at any noise level `sigma`.

    The level is one more channel of the input. Every layer is a convolution without a bias and every activation a ReLU,
    so that the network is homogeneous: `D(a x, a sigma) = a D(x, sigma)` for positive `a`. With the default widths it
    has 32.6 M weights, the architecture of the published ones; `models.from_torch` reads these.

    **Arguments:**

    - `image_shape`: the shape of an image, `(h, w, c)`; `(None, None, c)` for images of any size. A size that the
        halvings do not divide, or below 4 pixels at the coarsest level, is padded by its border, as in deepinv.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `widths`: the number of channels at each level, from the finest.
    - `num_blocks`: the number of residual blocks at each level, on the way down and on the way up.
    - `dtype`: the dtype in which it computes, `jnp.bfloat16` for instance; by default that of weights and images.
    - `checkpoint`: whether a derivative computes the blocks anew in place of keeping what they make, which takes less
        memory and a third more time.

    **Raises:** `ValueError` for sizes that are not positive integers; its call, for anything but a batch with a level
    for each image.

    !!! cite "Reference"
        Zhang, Li, Zuo, Zhang, Van Gool, Timofte, Plug-and-play image restoration with deep denoiser prior, 2021

    !!! example
        ```python
        import jax.numpy as jnp
        from flax import nnx
        import jaxinv
        network = jaxinv.models.DRUNet((None, None, 1), widths=(8, 16), num_blocks=1, rngs=nnx.Rngs(0))
        images = network(jnp.ones((5, 28, 20, 1)), jnp.full(5, 0.1))  # (5, 28, 20, 1)
        ```
    """

    def __init__(
        self,
        image_shape: Checked[Sequence[int | None]],
        *,
        rngs: Checked[nnx.Rngs],
        widths: Sequence[int] = (64, 128, 256, 512),
        num_blocks: IntLike = 4,
        dtype: Checked[DTypeLike | None] = None,
        checkpoint: BoolLike = False,
    ):
        self.image_shape, widths = check_any_shape(image_shape, rngs), check_shape(widths, "widths")
        self.widths, self.num_blocks = widths, check_count(num_blocks, "num_blocks")
        self.checkpoint = checkpoint
        channels = self.image_shape[-1]
        options: dict[str, Any] = {"rngs": rngs, "use_bias": False, "dtype": dtype}
        stack = lambda width: nnx.List([_Block(width, options) for _ in range(self.num_blocks)])
        halving = lambda fine, coarse: convolution(fine, coarse, 2, stride=2, padding="VALID", **options)
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.head = convolution(channels + 1, widths[0], **options)
        self.down = nnx.List([stack(fine) for fine, _ in pairs])
        self.halvings = nnx.List([halving(fine, coarse) for fine, coarse in pairs])
        self.body = stack(widths[-1])
        self.doublings = nnx.List([Doubling(coarse, fine, rngs=rngs, dtype=dtype) for fine, coarse in pairs])
        self.up = nnx.List([stack(fine) for fine, _ in pairs])
        self.tail = convolution(widths[0], channels, **options)

    def __call__(self, x: ArrayLike, sigma: ArrayLike) -> Float[Array, "n h w c"]:
        """Denoised images of the shape of `x`, `(n, h, w, c)`, for noise of the standard deviations `sigma`, `(n,)`."""
        x = check_any_batch(x, self.image_shape, "DRUNet")
        sigma = check_batch_times(sigma, x, "DRUNet")
        n, h, w, _ = x.shape
        levels = jnp.broadcast_to(sigma[:, None, None, None], (n, h, w, 1))
        below, beside = self._padding(h, w)
        padding = ((0, 0), (0, below), (0, beside), (0, 0))
        hidden = self.head(jnp.pad(jnp.concatenate([x, levels], axis=-1), padding, mode="edge"))
        apply = jax.checkpoint(_apply) if self.checkpoint else _apply
        skips = []
        for blocks, halving in zip(self.down, self.halvings, strict=True):
            skips.append(hidden)
            for block in blocks:
                hidden = apply(block, hidden)
            hidden = halving(hidden)
        skips.append(hidden)
        for block in self.body:
            hidden = apply(block, hidden)
        for blocks, doubling in zip(reversed(self.up), reversed(self.doublings), strict=True):
            hidden = doubling(hidden + skips.pop())
            for block in blocks:
                hidden = apply(block, hidden)
        return self.tail(hidden + skips.pop())[:, :h, :w].astype(x.dtype)

    def torch_keys(self) -> dict[str, str]:
        """The name in PyTorch of each layer here, as `models.from_torch` reads it."""
        names = {"head": "m_head", "tail": "m_tail"}

        def stack(here: str, there: str, first: int, alone: bool) -> None:
            for i in range(self.num_blocks):
                number = "" if alone else f".{first + i}"
                for place, layer in enumerate(("first", "second")):
                    names[f"{here}.{i}.{layer}"] = f"{there}{number}.res.{2 * place}"

        for level in range(len(self.widths) - 1):
            down, up = f"m_down{level + 1}", f"m_up{level + 1}"
            stack(f"down.{level}", down, 0, alone=False)
            stack(f"up.{level}", up, 1, alone=False)
            names[f"halvings.{level}"] = f"{down}.{self.num_blocks}"
            names[f"doublings.{level}"] = f"{up}.0"
        # A sequence of one block has no number in the name of its weights.
        stack("body", "m_body", 0, alone=self.num_blocks == 1)
        return names

    def _padding(self, *sizes: int) -> list[int]:
        """How many pixels each side grows by: none where the halvings divide both into at least 4 pixels."""
        factor = 2 ** (len(self.widths) - 1)
        if all(size % factor == 0 and size >= 4 * factor for size in sizes):
            return [0 for _ in sizes]
        return [-size % (2 * factor) for size in sizes]


class _Block(nnx.Module):
    """Two 3 x 3 convolutions with a ReLU between them, and a skip connection."""

    def __init__(self, width: int, options: dict[str, Any]):
        self.first = convolution(width, width, **options)
        self.second = convolution(width, width, **options)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return x + self.second(jax.nn.relu(self.first(x)))


def _apply(block: _Block, x: Array) -> Array:
    return block(x)
