"""The skip network of the deep image prior."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from .._arrays import check_count, check_shape
from .._networks import check_batch, check_network_shape
from .._types import ArrayLike, Checked
from ._convolutional import AbstractUpsampling, Bilinear, check_upsampling, convolution, normalisation

_SLOPE = 0.2


class SkipUNet(nnx.Module):
    """The skip network of the deep image prior, `network(z0)`: images from a noise image, or from a reconstruction.

    Each scale halves the image, rounding up, so that any height and width are possible; on the way up, a few channels
    that skip the coarser scales are concatenated. Group normalisation replaces batch normalisation, so each image is
    independent of the batch and no statistics are stored. With the default sizes it has .14 M weights. The papers have
    128 channels at every scale, 16 times the work.

    The weights on the way down are named `down...`: `dip.reconstruct(..., frozen=("down",))` tunes the others only.

    **Arguments:**

    - `image_shape`: the shape of an image, `(h, w, c)`.
    - `input_shape`: the shape of `z0`, `(h, w, k)`; by default `image_shape`, which suits noise, an adjoint and an FBP.
    - `rngs`: a `flax.nnx.Rngs`, from which the weights are drawn.
    - `scales`: the number of times that the image is halved.
    - `channels`, `skip_channels`: the numbers of channels, one for all scales or one for each scale from the finest; a
        skip may have 0.
    - `upsampling`: `Bilinear()` (the default) or `Nearest()`.
    - `output`: the function applied to the last layer. The default keeps images in `[0, 1]`.

    **Raises:** `ValueError` for sizes that are not positive integers, or an input of another height or width than the
    image; its call, for anything but a batch.

    !!! cite "Reference"
        Ulyanov, Vedaldi, Lempitsky, Deep Image Prior, 2018

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        network = jaxinv.models.SkipUNet((28, 28, 1), scales=2, rngs=nnx.Rngs(0))
        x = network(jax.random.normal(jax.random.key(0), (1, 28, 28, 1)))  # (1, 28, 28, 1)
        ```
    """

    def __init__(
        self,
        image_shape: Checked[Sequence[int]],
        *,
        input_shape: Checked[Sequence[int] | None] = None,
        rngs: Checked[nnx.Rngs],
        scales: Checked[int] = 5,
        channels: Checked[int | Sequence[int]] = 32,
        skip_channels: Checked[int | Sequence[int]] = 4,
        upsampling: Checked[AbstractUpsampling] = Bilinear(),  # noqa: B008
        output: Callable[[Array], Array] = jax.nn.sigmoid,
    ):
        self.image_shape = check_network_shape(image_shape, rngs)
        self.input_shape = check_input_shape(self.image_shape if input_shape is None else input_shape)
        if self.input_shape[:2] != self.image_shape[:2]:
            raise ValueError(
                f"The input of a SkipUNet has the height and width of its images, {self.image_shape[:2]}; got "
                f"input_shape={self.input_shape}. Its channels are free."
            )
        scales = check_count(scales, "scales")
        widths = per_scale(channels, scales, "channels", 1)
        skips = per_scale(skip_channels, scales, "skip_channels", 0)
        into = (self.input_shape[-1], *widths[:-1])
        # The widths of what the next coarser scale returns; at the coarsest it is the encoder's output.
        below = (*widths[1:], widths[-1])
        self.upsampling, self.output = check_upsampling(upsampling), output
        self.down = nnx.List(
            [
                nnx.List([_Layer(convolution(i, o, stride=2, rngs=rngs), o, rngs), _Layer.full(o, o, rngs)])
                for i, o in zip(into, widths, strict=True)
            ]
        )
        self.skips = nnx.List([_Layer.pointwise(i, s, rngs) for i, s in zip(into, skips, strict=True) if s])
        self.joined = nnx.List([normalisation(b + s, rngs=rngs) for b, s in zip(below, skips, strict=True)])
        self.up = nnx.List(
            [
                nnx.List([_Layer.full(b + s, o, rngs), _Layer.pointwise(o, o, rngs)])
                for b, s, o in zip(below, skips, widths, strict=True)
            ]
        )
        self.has_skip = tuple(s > 0 for s in skips)
        self.last = nnx.Linear(widths[0], self.image_shape[-1], rngs=rngs)

    def __call__(self, z0: ArrayLike) -> Float[Array, "n h w c"]:
        """The images, `(n, h, w, c)`, of inputs of shape `(n, *input_shape)`."""
        x = check_batch(z0, self.input_shape, "inputs", "SkipUNet")
        skips, layers = [], iter(self.skips)
        for has_skip, (halve, follow) in zip(self.has_skip, self.down, strict=True):
            skips.append((x.shape[1:3], next(layers)(x) if has_skip else None))
            x = follow(halve(x))
        for (size, skip), norm, (meet, follow) in reversed(list(zip(skips, self.joined, self.up, strict=True))):
            x = self.upsampling(x, size)
            x = x if skip is None else jnp.concatenate([x, skip], axis=-1)
            x = follow(meet(norm(x)))
        return self.output(self.last(x))


class _Layer(nnx.Module):
    """A linear layer, a group normalisation and a leaky ReLU."""

    def __init__(self, layer: nnx.Module, out: int, rngs: nnx.Rngs):
        self.layer, self.norm = layer, normalisation(out, rngs=rngs)

    @classmethod
    def full(cls, into: int, out: int, rngs: nnx.Rngs) -> "_Layer":
        return cls(convolution(into, out, rngs=rngs), out, rngs)

    @classmethod
    def pointwise(cls, into: int, out: int, rngs: nnx.Rngs) -> "_Layer":
        return cls(nnx.Linear(into, out, rngs=rngs), out, rngs)

    def __call__(self, x: Float[Array, "n h w into"]) -> Float[Array, "n hh ww out"]:
        return jax.nn.leaky_relu(self.norm(self.layer(x)), _SLOPE)  # pyright: ignore


def check_input_shape(shape: Any) -> tuple[int, ...]:
    """The shape of one input of a network of images, `(h, w, k)`."""
    shape = check_shape(shape, "input_shape")
    if len(shape) != 3:
        raise ValueError(f"`input_shape` must be (height, width, channels); got {shape}.")
    return shape


def per_scale(value: Any, scales: int, name: str, least: int) -> tuple[int, ...]:
    """One integer for each scale, of at least `least`."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * scales
    good = [isinstance(v, int | np.integer) and not isinstance(v, bool) and v >= least for v in values]
    if len(values) != scales or not all(good):
        raise ValueError(
            f"`{name}` must be an integer of at least {least}, or one for each of the {scales} scales; got {value!r}."
        )
    return tuple(int(v) for v in values)
