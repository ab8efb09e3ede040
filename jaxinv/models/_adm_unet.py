"""The U-Net of guided diffusion (ADM), for weights that were trained in PyTorch."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from .._arrays import check_count, check_shape
from .._types import ArrayLike, BoolLike, Checked, IntLike
from ._convolutional import convolution
from ._torch_layers import (
    Attention,
    StridedConvolution,
    TimedResidual,
    UpsampledConvolution,
    check_any_batch,
    check_any_shape,
    sinusoids,
    torch_normalisation,
)
from ._unet import check_batch_times

_GROUPS, _EPS = 32, 1e-5
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "shortcut": "skip_connection",
}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "out": "proj_out"}


class ADMUNet(nnx.Module):
    """The U-Net of guided diffusion, `network(x, t)`, which predicts the noise of images in [-1, 1].

    `models.from_torch` reads its weights: those of the paper, of DPS and DAPS (FFHQ, ImageNet), and of DiffPIR. The
    time `t` is that of `diffusion.DiscreteVP`: step `i` of `num_timesteps`, counted from 0, is
    `t = (i + 1) / num_timesteps`.

    **Arguments:**

    - `image_shape`: the shape of an image, `(h, w, c)`; `(None, None, c)` for any size that the halvings divide.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `widths`: the number of channels at each level, from the finest; multiples of 32.
    - `num_blocks`: the number of residual blocks at each level on the way down, and one more on the way up.
    - `attention_levels`: the numbers of the levels, from 0 for the finest, with attention after each block.
    - `head_width`: the number of channels of a head of attention; `None` for `num_heads` of them at every level.
    - `num_heads`: the number of heads where `head_width` is `None`.
    - `base_width`: the width of the embedding of time, before its layers; by default that of the finest level.
    - `learned_variance`: whether the network has twice the channels: the second half are the variances of the reverse
        process, which `outputs` returns.
    - `num_classes`: the number of classes of a conditional network, whose call takes `labels`.
    - `scales`: whether the embedding of time scales and shifts a block; otherwise it is added.
    - `residual_resampling`: whether a residual block halves and doubles the image; otherwise a convolution does.
    - `by_head`: the order of the channels of attention: the older one, by head, or query, key and value apart.
    - `num_timesteps`: the number of steps of the noising process that it was trained with.
    - `dtype`: the dtype in which it computes; by default that of weights and images.
    - `checkpoint`: whether a derivative computes the blocks anew in place of keeping what they make.

    **Raises:** `ValueError` for sizes that are not positive integers; its call, for images of other sizes, and without
    the `labels` of a conditional network.

    !!! cite "Reference"
        Dhariwal, Nichol, Diffusion models beat GANs on image synthesis, 2021

    !!! example
        ```python
        import jax.numpy as jnp
        from flax import nnx
        import jaxinv
        network = jaxinv.models.ADMUNet((None, None, 3), widths=(32, 64), attention_levels=(1,), rngs=nnx.Rngs(0))
        noise = network(jnp.ones((2, 16, 16, 3)), jnp.full(2, 0.5))  # (2, 16, 16, 3)
        ```
    """

    def __init__(
        self,
        image_shape: Checked[Sequence[int | None]],
        *,
        rngs: Checked[nnx.Rngs],
        widths: Sequence[int] = (128, 128, 256, 256, 512, 512),
        num_blocks: IntLike = 1,
        attention_levels: Sequence[int] = (4,),
        head_width: Checked[int | None] = 64,
        num_heads: IntLike = 1,
        base_width: Checked[int | None] = None,
        learned_variance: BoolLike = False,
        num_classes: Checked[int | None] = None,
        scales: BoolLike = True,
        residual_resampling: BoolLike = True,
        by_head: BoolLike = True,
        num_timesteps: IntLike = 1000,
        dtype: Checked[DTypeLike | None] = None,
        checkpoint: BoolLike = False,
    ):
        self.image_shape, widths = check_any_shape(image_shape, rngs), check_shape(widths, "widths")
        _check_widths(widths, attention_levels, head_width, num_heads)
        self.num_blocks, self.num_timesteps = check_count(num_blocks, "num_blocks"), num_timesteps
        self.factor, self.checkpoint, self.num_classes = 2 ** (len(widths) - 1), checkpoint, num_classes
        channels = self.image_shape[-1]
        self.base_width = widths[0] if base_width is None else check_count(base_width, "base_width")
        embedded = 4 * self.base_width
        common: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        shared = common | {"groups": _GROUPS, "eps": _EPS}
        residual = lambda into, out, **more: TimedResidual(into, out, embedded, scales=bool(scales), **shared, **more)
        heads = lambda width: num_heads if head_width is None else width // head_width
        attention = lambda width: Attention(width, heads(width), by_head=bool(by_head), **shared)

        def stage(into: int, width: int, level: int, last: list[Any]) -> Any:
            return nnx.List([residual(into, width), *([attention(width)] if level in attention_levels else []), *last])

        self.time_embed = nnx.List(
            [nnx.Linear(self.base_width, embedded, **common), nnx.Linear(embedded, embedded, **common)]
        )
        self.labels = None if num_classes is None else nnx.Embed(num_classes, embedded, **common)
        width = widths[0]
        inputs: list[Any] = [nnx.List([convolution(channels, width, **common)])]
        skips = [width]
        for level, out in enumerate(widths):
            for _ in range(self.num_blocks):
                inputs.append(stage(width, out, level, []))
                width = out
                skips.append(width)
            if level < len(widths) - 1:
                halving = (
                    residual(width, width, resampling="down")
                    if residual_resampling
                    else StridedConvolution(width, 1, **common)
                )
                inputs.append(nnx.List([halving]))
                skips.append(width)
        self.input_blocks = nnx.List(inputs)
        self.middle_block = nnx.List([residual(width, width), attention(width), residual(width, width)])
        outputs = []
        for level, out in reversed(list(enumerate(widths))):
            for i in range(self.num_blocks + 1):
                last = []
                if level > 0 and i == self.num_blocks:
                    last = [
                        residual(out, out, resampling="up")
                        if residual_resampling
                        else UpsampledConvolution(out, **common)
                    ]
                outputs.append(stage(width + skips.pop(), out, level, last))
                width = out
        self.output_blocks = nnx.List(outputs)
        self.norm = torch_normalisation(width, _GROUPS, _EPS, **common)
        self.last = convolution(width, 2 * channels if learned_variance else channels, zero=True, **common)

    def __call__(self, x: ArrayLike, t: ArrayLike, labels: Int[Array, " n"] | None = None) -> Float[Array, "n h w c"]:
        """The noise of images `(n, h, w, c)` in [-1, 1] at process times `t`, `(n,)`, given their classes `labels`,
        `(n,)`."""
        return self.outputs(x, t, labels)[..., : self.image_shape[-1]]

    def outputs(self, x: ArrayLike, t: ArrayLike, labels: Int[Array, " n"] | None = None) -> Float[Array, "n h w cc"]:
        """All channels of the output: the noise, and after it the variances of a network that has learned them."""
        x = check_any_batch(x, self.image_shape, "ADMUNet", self.factor)
        t = check_batch_times(t, x, "ADMUNet")
        if (labels is None) != (self.num_classes is None):
            raise ValueError(
                f"This ADMUNet has {self.num_classes or 'no'} classes: its call "
                f"{'does not take' if self.num_classes is None else 'takes'} `labels` of shape (n,)."
            )
        first, second = self.time_embed
        time = second(jax.nn.silu(first(sinusoids(self.num_timesteps * t - 1, self.base_width))))
        if self.labels is not None and labels is not None:
            time = time + self.labels(labels)
        apply = jax.checkpoint(_through) if self.checkpoint else _through
        hidden, skips = x, []
        for block in self.input_blocks:
            hidden = apply(block, hidden, time)
            skips.append(hidden)
        hidden = apply(self.middle_block, hidden, time)
        for block in self.output_blocks:
            hidden = apply(block, jnp.concatenate([hidden, skips.pop()], axis=-1), time)
        return self.last(jax.nn.silu(self.norm(hidden))).astype(x.dtype)

    def torch_keys(self) -> dict[str, str]:
        """The name in PyTorch of each layer here, as `models.from_torch` reads it."""
        names = {"time_embed.0": "time_embed.0", "time_embed.1": "time_embed.2", "labels": "label_emb"}
        names |= {"norm": "out.0", "last": "out.2", "input_blocks.0.0": "input_blocks.0.0"}

        def add(path: str, layer: Any) -> None:
            inside = {}
            if isinstance(layer, TimedResidual):
                inside = _RESIDUAL
            elif isinstance(layer, Attention):
                inside = _ATTENTION
            elif isinstance(layer, StridedConvolution):
                inside = {"layer": "op"}
            elif isinstance(layer, UpsampledConvolution):
                inside = {"layer": "conv"}
            names.update({f"{path}.{here}": f"{path}.{there}" for here, there in inside.items()})

        for part in ("input_blocks", "output_blocks"):
            for i, block in enumerate(getattr(self, part)):
                for j, layer in enumerate(block):
                    add(f"{part}.{i}.{j}", layer)
        for j, layer in enumerate(self.middle_block):
            add(f"middle_block.{j}", layer)
        return names


def _through(block: Any, x: Array, time: Array) -> Array:
    for layer in block:
        x = layer(x, time) if isinstance(layer, TimedResidual) else layer(x)
    return x


def _check_widths(widths: Any, levels: Any, head_width: int | None, num_heads: int) -> None:
    if any(width % _GROUPS for width in widths):
        raise ValueError(f"`widths` of ADMUNet must be multiples of {_GROUPS}, its groups; got {tuple(widths)}.")
    if any(isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < len(widths) for i in levels):
        raise ValueError(f"`attention_levels` must be numbers from 0 to {len(widths) - 1}; got {tuple(levels)}.")
    for width in {widths[-1], *(widths[i] for i in levels)}:
        if head_width is None and width % num_heads:
            raise ValueError(f"`num_heads` {num_heads} does not divide the width {width} of a level with attention.")
        if head_width is not None and (head_width < 1 or width % head_width):
            raise ValueError(f"`head_width` {head_width} does not divide the width {width} of a level with attention.")
