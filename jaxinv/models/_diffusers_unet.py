"""The U-Net of Hugging Face's `diffusers` (UNet2DModel), for weights that were trained in PyTorch."""

from collections.abc import Mapping, Sequence
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

_RESIDUAL = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "shortcut": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "qkv": ("to_q", "to_k", "to_v"), "out": "to_out.0"}
# What the options of a configuration may be, of which the network has one form only.
_ONLY: dict[str, tuple[Any, ...]] = {
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "act_fn": ("silu", "swish"),
    "upsample_type": ("conv", "resnet"),
    "downsample_type": ("conv", "resnet"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None,),
    "time_embedding_dim": (None,),
}
_BLOCKS = {
    "DownBlock2D": (False, False),
    "AttnDownBlock2D": (True, False),
    "ResnetDownsampleBlock2D": (False, True),
    "UpBlock2D": (False, False),
    "AttnUpBlock2D": (True, False),
    "ResnetUpsampleBlock2D": (False, True),
}


class DiffusersUNet(nnx.Module):
    """The U-Net of `diffusers`, `network(x, t)`, for images in [-1, 1]: `UNet2DModel`.

    `models.from_torch(folder)` reads its configuration and weights, such as those of the published DDPM checkpoints;
    `diffusion.from_diffusers(folder)` reads the schedule too and makes a score of them. What it predicts (the noise,
    the image or a velocity) is in the configuration of the schedule. The time `t` is that of `diffusion.DiscreteVP`:
    step `i` of `num_timesteps`, counted from 0, is `t = (i + 1) / num_timesteps`.

    **Arguments:** those whose names are the same here and in `diffusers` mean the same.

    - `image_shape`: the shape of an image, `(h, w, c)`; `(None, None, c)` for any size that the halvings divide.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `block_out_channels`: the number of channels at each level, from the finest.
    - `layers_per_block`: the number of residual blocks at each level on the way down, and one more on the way up.
    - `down_block_types`, `up_block_types`: the kind of each level, from the finest and from the coarsest.
    - `norm_num_groups`, `attn_norm_num_groups`, `norm_eps`: the groups of a normalisation, those of the attention in
        the middle, and the guard.
    - `attention_head_dim`: the number of channels of a head; `None` for one head.
    - `resnet_time_scale_shift`: whether the embedding of time scales and shifts a block (`"scale_shift"`), or is added.
    - `downsample_padding`: how many pixels a halving pads by on the first sides, 0 or 1.
    - `downsample_type`, `upsample_type`: whether levels with attention resample by a convolution or a residual block.
    - `mid_block_scale_factor`: what the blocks in the middle divide their outputs by.
    - `add_attention`: whether there is attention in the middle.
    - `flip_sin_to_cos`, `freq_shift`: the form of the embedding of time.
    - `center_input_sample`: whether images are in [0, 1].
    - `num_class_embeds`: the number of classes of a conditional network, whose call takes `labels`.
    - `out_channels`: the number of channels of the output; by default that of the image.
    - `num_timesteps`: the number of steps of the noising process that it was trained with.
    - `dtype`: the dtype in which it computes; by default that of weights and images.
    - `checkpoint`: whether a derivative computes the blocks anew in place of keeping what they make.
    - `options`: further entries of a configuration: those that make no difference, such as `dropout`, are ignored, and
        those of forms that the network does not have are errors.

    **Raises:** `ValueError` for a kind of block or an option that the network does not have, which it names; its call,
    for images of other sizes.

    !!! cite "Reference"
        von Platen et al., Diffusers: state-of-the-art diffusion models, 2022; Ho, Jain, Abbeel, Denoising diffusion
        probabilistic models, 2020

    !!! example
        ```python
        import jax.numpy as jnp
        from flax import nnx
        import jaxinv
        network = jaxinv.models.DiffusersUNet(
            (None, None, 3),
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            rngs=nnx.Rngs(0),
        )
        noise = network(jnp.ones((2, 16, 16, 3)), jnp.full(2, 0.5))  # (2, 16, 16, 3)
        ```
    """

    def __init__(
        self,
        image_shape: Checked[Sequence[int | None]],
        *,
        rngs: Checked[nnx.Rngs],
        block_out_channels: Sequence[int] = (128, 256, 256, 256),
        layers_per_block: IntLike = 2,
        down_block_types: Sequence[str] = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types: Sequence[str] = ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups: IntLike = 32,
        attn_norm_num_groups: Checked[int | None] = None,
        norm_eps: Checked[float] = 1e-5,
        attention_head_dim: Checked[int | None] = 8,
        resnet_time_scale_shift: Checked[str] = "default",
        downsample_padding: Checked[int] = 1,
        downsample_type: Checked[str] = "conv",
        upsample_type: Checked[str] = "conv",
        mid_block_scale_factor: Checked[float] = 1.0,
        add_attention: BoolLike = True,
        flip_sin_to_cos: BoolLike = True,
        freq_shift: Checked[float] = 0.0,
        center_input_sample: BoolLike = False,
        num_class_embeds: Checked[int | None] = None,
        out_channels: Checked[int | None] = None,
        num_timesteps: IntLike = 1000,
        dtype: Checked[DTypeLike | None] = None,
        checkpoint: BoolLike = False,
        **options: Any,
    ):
        self.image_shape = check_any_shape(image_shape, rngs)
        widths = check_shape(block_out_channels, "block_out_channels")
        layers, groups = (
            check_count(layers_per_block, "layers_per_block"),
            check_count(norm_num_groups, "norm_num_groups"),
        )
        chosen = {
            "resnet_time_scale_shift": resnet_time_scale_shift,
            "downsample_type": downsample_type,
            "upsample_type": upsample_type,
        }
        _check_options(chosen | options)
        down_types = _check_blocks(down_block_types, widths, "down_block_types", "Down")
        up_types = _check_blocks(up_block_types, widths, "up_block_types", "Up")
        self.factor, self.checkpoint, self.num_classes = 2 ** (len(widths) - 1), checkpoint, num_class_embeds
        self.num_timesteps, self.centres, self.base_width = num_timesteps, center_input_sample, widths[0]
        self.embedding: dict[str, Any] = {"shift": float(freq_shift), "cosines_first": bool(flip_sin_to_cos)}
        channels, embedded = self.image_shape[-1], 4 * widths[0]
        common: dict[str, Any] = {"rngs": rngs, "dtype": dtype}
        shared = common | {"eps": norm_eps}
        scales = resnet_time_scale_shift == "scale_shift"
        heads = lambda width: 1 if attention_head_dim is None else max(width // attention_head_dim, 1)

        def residual(into: int, out: int, **more: Any) -> TimedResidual:
            return TimedResidual(into, out, embedded, scales=scales, groups=groups, **shared, **more)

        def attention(width: int, **more: Any) -> Attention:
            options: dict[str, Any] = shared | {"groups": groups} | more
            return Attention(width, heads(width), **options)

        self.conv_in = convolution(channels, widths[0], **common)
        self.time_embedding = nnx.List(
            [nnx.Linear(widths[0], embedded, **common), nnx.Linear(embedded, embedded, **common)]
        )
        self.labels = None if num_class_embeds is None else nnx.Embed(num_class_embeds, embedded, **common)
        down, into = [], widths[0]
        for level, (out, kind) in enumerate(zip(widths, down_types, strict=True)):
            attends, resamples = _BLOCKS[kind]
            resamples |= attends and downsample_type == "resnet"
            sampler = (
                residual(out, out, resampling="down")
                if resamples
                else StridedConvolution(out, downsample_padding, **common)
            )
            down.append(
                _Stage(
                    [residual(into if i == 0 else out, out) for i in range(layers)],
                    [attention(out) for _ in range(layers)] if attends else [],
                    [sampler] if level < len(widths) - 1 else [],
                )
            )
            into = out
        self.down_blocks = nnx.List(down)
        scaled = {"output_scale": float(mid_block_scale_factor)}
        middle: dict[str, Any] = {"groups": attn_norm_num_groups or (None if scales else groups)}
        self.mid_block = _Stage(
            [residual(into, into, **scaled) for _ in range(2)],
            [attention(into, **scaled, **middle)] if add_attention else [],
            [],
        )
        up, previous = [], widths[-1]
        backwards = widths[::-1]
        for level, (out, kind) in enumerate(zip(backwards, up_types, strict=True)):
            attends, resamples = _BLOCKS[kind]
            resamples |= attends and upsample_type == "resnet"
            below = backwards[min(level + 1, len(widths) - 1)]
            skips = [out] * layers + [below]
            sampler = residual(out, out, resampling="up") if resamples else UpsampledConvolution(out, **common)
            up.append(
                _Stage(
                    [residual((previous if i == 0 else out) + skip, out) for i, skip in enumerate(skips)],
                    [attention(out) for _ in skips] if attends else [],
                    [sampler] if level < len(widths) - 1 else [],
                )
            )
            previous = out
        self.up_blocks = nnx.List(up)
        self.norm = torch_normalisation(widths[0], groups, norm_eps, **common)
        self.last = convolution(widths[0], out_channels or channels, **common)

    def __call__(self, x: ArrayLike, t: ArrayLike, labels: Int[Array, " n"] | None = None) -> Float[Array, "n h w c"]:
        """The prediction for images `(n, h, w, c)` at process times `t`, `(n,)`, given their classes `labels`,
        `(n,)`."""
        x = check_any_batch(x, self.image_shape, "DiffusersUNet", self.factor)
        t = check_batch_times(t, x, "DiffusersUNet")
        if (labels is None) != (self.num_classes is None):
            raise ValueError(
                f"This DiffusersUNet has {self.num_classes or 'no'} classes: its call "
                f"{'does not take' if self.num_classes is None else 'takes'} `labels` of shape (n,)."
            )
        first, second = self.time_embedding
        time = sinusoids(self.num_timesteps * t - 1, self.base_width, **self.embedding)
        time = second(jax.nn.silu(first(time)))
        if self.labels is not None and labels is not None:
            time = time + self.labels(labels)
        apply = jax.checkpoint(_one) if self.checkpoint else _one
        hidden = self.conv_in(2 * x - 1 if self.centres else x)
        skips = [hidden]
        for stage in self.down_blocks:
            for i, block in enumerate(stage.resnets):
                hidden = apply(block, stage.attention(i), hidden, time)
                skips.append(hidden)
            for sampler in stage.samplers:
                hidden = _resample(sampler, hidden, time)
                skips.append(hidden)
        for i, block in enumerate(self.mid_block.resnets):
            hidden = apply(block, self.mid_block.attention(i), hidden, time)
        for stage in self.up_blocks:
            for i, block in enumerate(stage.resnets):
                hidden = jnp.concatenate([hidden, skips.pop()], axis=-1)
                hidden = apply(block, stage.attention(i), hidden, time)
            for sampler in stage.samplers:
                hidden = _resample(sampler, hidden, time)
        return self.last(jax.nn.silu(self.norm(hidden))).astype(x.dtype)

    def torch_keys(self) -> dict[str, str | tuple[str, ...]]:
        """The name in PyTorch of each layer here, as `models.from_torch` reads it."""
        names: dict[str, str | tuple[str, ...]] = {
            "conv_in": "conv_in",
            "time_embedding.0": "time_embedding.linear_1",
            "time_embedding.1": "time_embedding.linear_2",
            "labels": "class_embedding",
            "norm": "conv_norm_out",
            "last": "conv_out",
        }

        def add(here: str, there: str, inside: Mapping[str, str | tuple[str, ...]]) -> None:
            for name, keys in inside.items():
                several = isinstance(keys, tuple)
                names[f"{here}.{name}"] = tuple(f"{there}.{k}" for k in keys) if several else f"{there}.{keys}"

        def stage(path: str, module: "_Stage", samplers: str) -> None:
            for i in range(len(module.resnets)):
                add(f"{path}.resnets.{i}", f"{path}.resnets.{i}", _RESIDUAL)
            for i in range(len(module.attentions)):
                add(f"{path}.attentions.{i}", f"{path}.attentions.{i}", _ATTENTION)
            for i, sampler in enumerate(module.samplers):
                inside = _RESIDUAL if isinstance(sampler, TimedResidual) else {"layer": "conv"}
                add(f"{path}.samplers.{i}", f"{path}.{samplers}.{i}", inside)

        for i, module in enumerate(self.down_blocks):
            stage(f"down_blocks.{i}", module, "downsamplers")
        for i, module in enumerate(self.up_blocks):
            stage(f"up_blocks.{i}", module, "upsamplers")
        stage("mid_block", self.mid_block, "")
        return names


class _Stage(nnx.Module):
    """The blocks of a level, the attention after each of them if there is any, and what resamples at its end."""

    def __init__(self, resnets: list[Any], attentions: list[Any], samplers: list[Any]):
        self.resnets, self.attentions, self.samplers = nnx.List(resnets), nnx.List(attentions), nnx.List(samplers)

    def attention(self, i: int) -> Attention | None:
        """The attention after block `i`."""
        return self.attentions[i] if i < len(self.attentions) else None


def _one(block: TimedResidual, attention: Attention | None, x: Array, time: Array) -> Array:
    x = block(x, time)
    return x if attention is None else attention(x)


def _resample(sampler: Any, x: Array, time: Array) -> Array:
    return sampler(x, time) if isinstance(sampler, TimedResidual) else sampler(x)


def _check_options(options: Mapping[str, Any]) -> None:
    for name, allowed in _ONLY.items():
        if name in options and options[name] not in allowed:
            shown = " or ".join(map(repr, allowed))
            raise ValueError(f"DiffusersUNet has no `{name}` {options[name]!r}; it has {shown}.")


def _check_blocks(kinds: Any, widths: tuple[int, ...], name: str, direction: str) -> tuple[str, ...]:
    kinds = tuple(kinds)
    if len(kinds) != len(widths):
        raise ValueError(f"`{name}` must name a block for each of {len(widths)} levels; got {kinds}.")
    known = [kind for kind in _BLOCKS if direction in kind]
    for kind in kinds:
        if kind not in known:
            raise ValueError(f"DiffusersUNet has no block {kind!r} in `{name}`; it has {', '.join(known)}.")
    return kinds
