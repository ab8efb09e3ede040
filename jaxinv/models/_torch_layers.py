"""The layers of networks that were trained in PyTorch, with its conventions of padding and normalisation."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .._arrays import as_array, check_floating, common_dtype
from .._networks import check_rngs
from ._convolutional import GroupNorm, convolution


class Doubling(nnx.Module):
    """A transposed 2 x 2 convolution of stride 2 without a bias, `(n, h, w, into) -> (n, 2 h, 2 w, out)`.

    Its windows do not overlap, so it is one product of matrices and a reordering.
    """

    def __init__(self, into: int, out: int, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        self.dtype = dtype
        draw = nnx.initializers.lecun_normal(in_axis=0, out_axis=3)
        self.kernel = nnx.Param(draw(rngs.params(), (into, 2, 2, out), jnp.float32))

    def __call__(self, x: Float[Array, "n h w into"]) -> Float[Array, "n hh ww out"]:
        n, h, w, into = x.shape
        dtype = common_dtype(x, self.kernel[...]) if self.dtype is None else self.dtype
        x, kernel = x.astype(dtype), self.kernel[...].astype(dtype)
        out = kernel.shape[-1]
        pixels = x.reshape(n * h * w, into) @ kernel.reshape(into, 4 * out)
        return pixels.reshape(n, h, w, 2, 2, out).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, out)


class StridedConvolution(nnx.Module):
    """A 3 x 3 convolution of stride 2 that keeps the number of channels; `padding` is that of `strided`."""

    def __init__(self, width: int, padding: int, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        self.layer = strided(width, width, padding, rngs=rngs, dtype=dtype)

    def __call__(self, x: Array) -> Array:
        return self.layer(x)


class UpsampledConvolution(nnx.Module):
    """Nearest-neighbour upsampling by 2, and a 3 x 3 convolution that keeps the number of channels."""

    def __init__(self, width: int, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None):
        self.layer = convolution(width, width, rngs=rngs, dtype=dtype)

    def __call__(self, x: Array) -> Array:
        return self.layer(repeat_pixels(x))


class TimedResidual(nnx.Module):
    """Two 3 x 3 convolutions with an embedding of time between them and a skip connection.

    A group normalisation and SiLU precede each convolution. The embedding, `(n, embedded)`, scales and shifts the
    second normalisation, or is added before it. A block that resamples does so after its first activation, and on
    its skip connection: by the mean of 2 x 2 pixels, or by repeating them.
    """

    def __init__(
        self,
        into: int,
        out: int,
        embedded: int,
        *,
        rngs: nnx.Rngs,
        groups: int,
        eps: float,
        scales: bool,
        resampling: str | None = None,
        output_scale: float = 1.0,
        dtype: DTypeLike | None = None,
    ):
        self.scales, self.output_scale = scales, output_scale
        self.halves, self.doubles = resampling == "down", resampling == "up"
        self.norm1 = torch_normalisation(into, groups, eps, rngs=rngs, dtype=dtype)
        self.conv1 = convolution(into, out, rngs=rngs, dtype=dtype)
        self.time = nnx.Linear(embedded, 2 * out if scales else out, rngs=rngs, dtype=dtype)
        self.norm2 = torch_normalisation(out, groups, eps, rngs=rngs, dtype=dtype)
        self.conv2 = convolution(out, out, rngs=rngs, dtype=dtype)
        self.shortcut = convolution(into, out, 1, rngs=rngs, dtype=dtype) if into != out else None

    def __call__(self, x: Float[Array, "n h w into"], time: Float[Array, "n embedded"]) -> Float[Array, "n hh ww out"]:
        hidden = jax.nn.silu(self.norm1(x))
        if self.halves:
            hidden, x = mean_of_four(hidden), mean_of_four(x)
        if self.doubles:
            hidden, x = repeat_pixels(hidden), repeat_pixels(x)
        hidden = self.conv1(hidden)
        embedding = self.time(jax.nn.silu(time))[:, None, None, :]
        if self.scales:
            scale, shift = jnp.split(embedding, 2, axis=-1)
            hidden = self.norm2(hidden) * (1 + scale) + shift
        else:
            hidden = self.norm2(hidden + embedding)
        hidden = self.conv2(jax.nn.silu(hidden))
        skip = x if self.shortcut is None else self.shortcut(x)
        return (skip + hidden) / self.output_scale


class Attention(nnx.Module):
    """Every pixel attends to all pixels, by a number of heads, with a skip connection.

    `by_head` is the order of the channels of `qkv`: query, key and value of one head after those of another, or all
    queries first.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        rngs: nnx.Rngs,
        groups: int | None,
        eps: float,
        by_head: bool = False,
        output_scale: float = 1.0,
        dtype: DTypeLike | None = None,
    ):
        self.heads, self.by_head, self.output_scale = heads, by_head, output_scale
        self.norm = None if groups is None else torch_normalisation(width, groups, eps, rngs=rngs, dtype=dtype)
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs, dtype=dtype)
        self.out = nnx.Linear(width, width, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        n, h, w, c = x.shape
        normed = x if self.norm is None else self.norm(x)
        qkv = self.qkv(normed.reshape(n, h * w, c))
        if self.by_head:
            query, key, value = jnp.moveaxis(qkv.reshape(n, h * w, self.heads, 3, -1), 3, 0)
        else:
            query, key, value = jnp.moveaxis(qkv.reshape(n, h * w, 3, self.heads, -1), 2, 0)
        # Half of the scale on each side, so that products stay in the range of half precision.
        size = query.shape[-1] ** -0.25
        mixed = _attend(*(jnp.moveaxis(part, 2, 1) for part in (query * size, key * size, value)))
        mixed = jnp.moveaxis(mixed, 1, 2).reshape(n, h * w, c)
        return (x + self.out(mixed).reshape(n, h, w, c)) / self.output_scale


def _attend(query: Array, key: Array, value: Array) -> Array:
    """`softmax(query key^T) value`, with axes of problems, heads, pixels and channels."""
    # With the heads first, which the products of matrices of a CPU want, it takes a third of the time.
    scores = query @ jnp.swapaxes(key, -1, -2)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    # The division by the sum is at the end, where there are fewer numbers; half precision cannot add so many.
    total = jnp.sum(weights, axis=-1, keepdims=True, dtype=jnp.promote_types(weights.dtype, jnp.float32))
    return (weights @ value / total).astype(value.dtype)


def sinusoids(t: Float[Array, " n"], width: int, *, shift: float = 0.0, cosines_first: bool = True) -> Array:
    """Sines and cosines of steps at `width / 2` frequencies from 1 down to 1 / 10 000, `(n, width)`."""
    half = width // 2
    exponent = jnp.arange(half, dtype=t.dtype) / (half - shift)
    angles = t[:, None] * jnp.exp(-math.log(10_000.0) * exponent)[None, :]
    parts = [jnp.cos(angles), jnp.sin(angles)] if cosines_first else [jnp.sin(angles), jnp.cos(angles)]
    embedding = jnp.concatenate(parts, axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, width % 2)))


def torch_normalisation(
    width: int, groups: int, eps: float, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None
) -> GroupNorm:
    """A group normalisation with the number of groups and the guard of PyTorch's."""
    return GroupNorm(width, num_groups=groups, epsilon=eps, use_fast_variance=False, rngs=rngs, dtype=dtype)


def strided(into: int, out: int, padding: int, *, rngs: nnx.Rngs, dtype: DTypeLike | None = None) -> nnx.Conv:
    """A 3 x 3 convolution of stride 2 that pads by `padding` pixels on the first sides, and by 1 on the last ones."""
    sides = [(padding, 1), (padding, 1)]
    return convolution(into, out, stride=2, padding=sides, rngs=rngs, dtype=dtype)


def mean_of_four(x: Float[Array, "n h w c"]) -> Float[Array, "n hh ww c"]:
    """The mean of every 2 x 2 pixels."""
    n, h, w, c = x.shape
    return jnp.mean(x.reshape(n, h // 2, 2, w // 2, 2, c), axis=(2, 4))


def repeat_pixels(x: Float[Array, "n h w c"]) -> Float[Array, "n hh ww c"]:
    """Nearest-neighbour upsampling by 2: every pixel becomes 2 x 2 pixels."""
    n, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (n, h, 2, w, 2, c)).reshape(n, 2 * h, 2 * w, c)


def check_any_shape(image_shape: Any, rngs: Any) -> tuple[int | None, int | None, int]:
    """Return `(h, w, c)`, where `h` and `w` may be `None`, for any; raise unless weights can be drawn from `rngs`."""
    check_rngs(rngs)
    positive = lambda n: isinstance(n, int) and not isinstance(n, bool) and n > 0
    try:
        h, w, c = image_shape
    except (TypeError, ValueError):
        h = w = c = 0
    if not (positive(c) and all(size is None or positive(size) for size in (h, w))):
        raise ValueError(
            f"`image_shape` must be (height, width, channels), or (None, None, channels) for any size; got "
            f"{image_shape!r}."
        )
    return h, w, c


def check_any_batch(x: Any, shape: tuple[int | None, int | None, int], name: str, factor: int = 1) -> Array:
    """`x` as images `(n, h, w, c)`, of these sizes where they are given, and divisible by `factor`."""
    x = as_array(x)
    expected = "(n, " + ", ".join("any" if size is None else str(size) for size in shape) + ")"
    fits = x.ndim == 4 and all(size is None or size == got for size, got in zip(shape, x.shape[1:], strict=True))
    if not fits:
        advice = "add the batch axis: `x[None]`." if x.ndim == 3 else "the channels come last."
        raise ValueError(f"{name} expects images of shape {expected}; got {x.shape}. Networks take a batch; {advice}")
    if x.shape[1] % factor or x.shape[2] % factor:
        raise ValueError(
            f"{name} halves an image {int(math.log2(factor))} times: height and width must be multiples of {factor}; "
            f"got {x.shape[1]} x {x.shape[2]}. Pad the image."
        )
    return check_floating(x, "images", name)
