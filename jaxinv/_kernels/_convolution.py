"""Convolutions that are as fast inside a loop as outside, as are their gradients; the networks use them.

XLA on a CPU calls its fast convolution only for the layout `NHWC, HWIO -> NHWC`. It converts other layouts to this one
in the outermost computation, but never inside a loop (https://github.com/jax-ml/jax/issues/12868), where the gradients
of `jax.lax.conv_general_dilated`, which have other layouts, are 50 times slower. Here a bilinear primitive keeps the
layout as a parameter down to the lowering, which transposes on a CPU, and on other platforms passes to XLA what
`jax.lax` would pass.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla
from jaxtyping import Array

from .._arrays import same_varying
from . import _winograd as winograd
from ._weight_gradient import Axis, weight_gradient

# On a CPU a gradient in the weights, as a convolution whose kernel is as large as an image, is 1.5 to 20 times slower
# than as products of matrices, which replace it for up to this number of weights per channel.
_MANY_TAPS = 64
# On a CPU Winograd's form is 1.2 to 2.2 times faster from this number of channels and this amount of work on, and no
# faster, or slower, below. It takes three times as long to compile. A gradient in the weights of 32 channels or more is
# 2.5 to 14 times faster on a CPU without AVX-512, and .8 to 1.9 times with it.
_MANY_CHANNELS = 48
_GRADIENT_CHANNELS = 32
_MUCH_WORK = 1.5e7


def conv_general_dilated(
    lhs: Any,
    rhs: Any,
    window_strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Array:
    """`jax.lax.conv_general_dilated`, argument for argument, for `flax.nnx.Conv(conv_general_dilated=...)`.

    All its derivatives are convolutions of the same kind. Under `jax.vmap` over `lhs` it is one convolution with more
    images, over `rhs` one with more output channels, and over both, on a CPU, a loop over the problems, which is 4
    times faster than the grouped convolution of `jax.lax`.

    For groups, complex or integer arrays, and a sharding of the output it calls `jax.lax`, gradients included.
    """
    lhs, rhs = jnp.asarray(lhs), jnp.asarray(rhs)
    spatial = lhs.ndim - 2
    dilated = lhs_dilation is not None and any(d != 1 for d in lhs_dilation)
    if (
        feature_group_count != 1
        or batch_group_count != 1
        or out_sharding is not None
        or lhs.dtype != rhs.dtype
        or not jnp.issubdtype(lhs.dtype, jnp.floating)
        or lhs.ndim != rhs.ndim
        or (isinstance(padding, str) and dilated)  # jax.lax raises the error.
    ):
        return jax.lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            batch_group_count,
            precision,
            preferred_element_type,
            out_sharding,
        )
    layout = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    dilation = (1,) * spatial if rhs_dilation is None else tuple(rhs_dilation)
    if isinstance(padding, str):
        image = [lhs.shape[axis] for axis in layout.lhs_spec[2:]]
        kernel = [_dilated(rhs.shape[axis], d) for axis, d in zip(layout.rhs_spec[2:], dilation, strict=True)]
        padding = jax.lax.padtype_to_pads(image, kernel, window_strides, padding)
    spec = ConvSpec(
        strides=tuple(window_strides),
        padding=tuple((int(low), int(high)) for low, high in padding),
        lhs_dilation=(1,) * spatial if lhs_dilation is None else tuple(lhs_dilation),
        rhs_dilation=dilation,
        layout=layout,
        precision=precision,
        dtype=None if preferred_element_type is None else jnp.dtype(preferred_element_type),
    )
    return _bind(lhs[None], rhs[None], spec)[0]


def conv_transpose(
    lhs: Any,
    rhs: Any,
    strides: Sequence[int],
    padding: Any,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    transpose_kernel: bool = False,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """`jax.lax.conv_transpose`, argument for argument, by `conv_general_dilated` of this file."""
    lhs, rhs = jnp.asarray(lhs), jnp.asarray(rhs)
    if dimension_numbers is None:
        letters = {2: "", 3: "H", 4: "HW", 5: "HWD"}[lhs.ndim]
        dimension_numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    layout = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    dilation = (1,) * len(strides) if rhs_dilation is None else tuple(rhs_dilation)
    if isinstance(padding, str) and padding in ("SAME", "VALID"):
        kernel = (_dilated(rhs.shape[axis], d) for axis, d in zip(layout.rhs_spec[2:], dilation, strict=True))
        padding = [_transposed_padding(k, s, padding == "SAME") for k, s in zip(kernel, strides, strict=True)]
    if transpose_kernel:
        rhs = jnp.flip(rhs, layout.rhs_spec[2:]).swapaxes(*layout.rhs_spec[:2])
    return conv_general_dilated(
        lhs,
        rhs,
        (1,) * len(strides),
        padding,
        strides,
        dilation,
        layout,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


def _transposed_padding(kernel: int, stride: int, same: bool) -> tuple[int, int]:
    if not same:
        return kernel - 1, kernel + stride - 2 + max(kernel - stride, 0) - (kernel - 1)
    total = kernel + stride - 2
    before = kernel - 1 if stride > kernel - 1 else math.ceil(total / 2)
    return before, total - before


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """The static parameters of a convolution; `layout` names the axis of the batch, or of output channels, first."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    layout: Any
    precision: Any
    dtype: Any

    def __call__(self, lhs: Array, rhs: Array) -> Array:
        return jax.lax.conv_general_dilated(
            lhs,
            rhs,
            self.strides,
            self.padding,
            self.lhs_dilation,
            self.rhs_dilation,
            self.layout,
            precision=self.precision,
            preferred_element_type=self.dtype,
        )


# Both operands have a further leading axis of problems, each with its own image and its own kernel.
_primitive = Primitive("jaxinv_convolution")


def _bind(lhs: Array, rhs: Array, spec: ConvSpec) -> Array:
    return _primitive.bind(*same_varying(lhs, rhs), spec=spec)


@_primitive.def_abstract_eval
def _(lhs: Any, rhs: Any, *, spec: ConvSpec) -> Any:
    out = jax.eval_shape(spec, *(jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for a in (lhs, rhs)))
    return lhs.update(shape=(lhs.shape[0], *out.shape), dtype=out.dtype, weak_type=False)


_primitive.def_impl(functools.partial(xla.apply_primitive, _primitive))


# Differentiation. In each axis, position k of the output sums, over the taps j of the kernel,
# `image[(stride k + rhs_dilation j - low) / lhs_dilation] kernel[j]`. Solving this relation of three positions for that
# of the image, or of the kernel, gives the two transposes.
def _transpose_lhs(cotangent: Array, lhs: Any, rhs: Array, *, spec: ConvSpec) -> Array:
    layout = spec.layout
    padding = []
    for image, kernel, out, low, _ in _lengths(lhs.aval, rhs, cotangent, spec):
        before = kernel - low - 1
        padding.append((before, image + kernel - 1 - out - before))
    turned = dataclasses.replace(
        spec,
        strides=spec.lhs_dilation,
        lhs_dilation=spec.strides,
        padding=tuple(padding),
        layout=jax.lax.ConvDimensionNumbers(layout.out_spec, _swapped(layout.rhs_spec), layout.lhs_spec),
        dtype=None,
    )
    flipped = jnp.flip(rhs, [1 + axis for axis in layout.rhs_spec[2:]])
    return _bind_promoted(cotangent, flipped, turned).astype(lhs.aval.dtype)


def _transpose_rhs(cotangent: Array, lhs: Array, rhs: Any, *, spec: ConvSpec) -> Array:
    layout = spec.layout
    lengths = _lengths(lhs, rhs.aval, cotangent, spec)
    turned = dataclasses.replace(
        spec,
        strides=spec.rhs_dilation,
        rhs_dilation=spec.strides,
        padding=tuple((low, kernel - 1 + out - image - low) for image, kernel, out, low, _ in lengths),
        layout=jax.lax.ConvDimensionNumbers(*map(_swapped, (layout.lhs_spec, layout.out_spec, layout.rhs_spec))),
        dtype=None,
    )
    return _bind_promoted(lhs, cotangent, turned).astype(rhs.aval.dtype)


def _bind_promoted(lhs: Array, rhs: Array, spec: ConvSpec) -> Array:
    # With `preferred_element_type` a cotangent has another dtype than the other operand.
    dtype = jnp.result_type(lhs, rhs)
    return _bind(lhs.astype(dtype), rhs.astype(dtype), spec)


def _swapped(spec: Sequence[int]) -> tuple[int, ...]:
    return (spec[1], spec[0], *spec[2:])


def _dilated(length: int, dilation: int) -> int:
    return 1 + (length - 1) * dilation if length else 0


def _lengths(lhs: Any, rhs: Any, out: Any, spec: ConvSpec) -> list[tuple[int, int, int, int, int]]:
    """For each spatial axis, the lengths of image, kernel and output with their holes, and the padding."""
    arrays = zip((lhs, rhs, out), spec.layout, strict=True)
    image, kernel, result = ([array.shape[1 + axis] for axis in spec[2:]] for array, spec in arrays)
    return [
        (_dilated(image[i], spec.lhs_dilation[i]), _dilated(kernel[i], spec.rhs_dilation[i]))
        + (_dilated(result[i], spec.strides[i]), *spec.padding[i])
        for i in range(len(image))
    ]


ad.defbilinear(_primitive, _transpose_lhs, _transpose_rhs)


def _batch(operands: Any, axes: Any, *, spec: ConvSpec) -> tuple[Array, int]:
    (lhs, rhs), (lhs_axis, rhs_axis), layout = operands, axes, spec.layout
    count = lhs.shape[lhs_axis] if rhs_axis is None else rhs.shape[rhs_axis]
    if rhs_axis is None:
        lhs, axis = _merge(lhs, lhs_axis, 1 + layout.lhs_spec[0]), 1 + layout.out_spec[0]
    elif lhs_axis is None:
        rhs, axis = _merge(rhs, rhs_axis, 1 + layout.rhs_spec[0]), 1 + layout.out_spec[1]
    else:
        lhs, rhs, axis = _merge(lhs, lhs_axis, 0), _merge(rhs, rhs_axis, 0), 0
    out = _bind(lhs, rhs, spec)
    return out.reshape(*out.shape[:axis], count, out.shape[axis] // count, *out.shape[axis + 1 :]), axis


def _merge(array: Array, axis: int, into: int) -> Array:
    """Merge the mapped axis into axis `into` of the other axes, as its slower part."""
    array = jnp.moveaxis(array, axis, into)
    shape = array.shape
    return array.reshape(*shape[:into], shape[into] * shape[into + 1], *shape[into + 2 :])


batching.primitive_batchers[_primitive] = _batch


def _plain(lhs: Array, rhs: Array, *, spec: ConvSpec) -> Array:
    """The form of `jax.lax`: many problems are one convolution in groups."""
    if lhs.shape[0] == 1:
        return spec(lhs[0], rhs[0])[None]
    return jax.vmap(spec)(lhs, rhs)


def _on_processor(lhs: Array, rhs: Array, *, spec: ConvSpec) -> Array:
    """The form on a CPU: a loop over the problems, each in the layout of the fast path."""
    layout = spec.layout
    images = (layout.lhs_spec[0], *layout.lhs_spec[2:], layout.lhs_spec[1])
    kernels = (*layout.rhs_spec[2:], layout.rhs_spec[1], layout.rhs_spec[0])
    out = (layout.out_spec[0], *layout.out_spec[2:], layout.out_spec[1])
    back = tuple(out.index(axis) for axis in range(len(out)))
    spec = dataclasses.replace(spec, layout=_canonical(len(out)))

    def one(pair: tuple[Array, Array]) -> Array:
        return _fast(jnp.transpose(pair[0], images), jnp.transpose(pair[1], kernels), spec).transpose(back)

    return one((lhs[0], rhs[0]))[None] if lhs.shape[0] == 1 else jax.lax.map(one, (lhs, rhs))


def _canonical(rank: int) -> Any:
    spatial = tuple(range(1, rank - 1))
    images = (0, rank - 1, *spatial)
    return jax.lax.ConvDimensionNumbers(images, (rank - 1, rank - 2, *(i - 1 for i in spatial)), images)


def _fast(lhs: Array, rhs: Array, spec: ConvSpec) -> Array:
    """A convolution in the canonical layout; a large kernel (in a gradient in the weights) has another form."""
    image, kernel = lhs.shape[1:-1], rhs.shape[:-2]
    shape = jax.eval_shape(spec, lhs, rhs).shape
    out = shape[1:-1]
    if math.prod(kernel) <= math.prod(out):
        if kernel == (3, 3) and _suits_winograd(lhs, rhs.shape[-2:], spec, _MANY_CHANNELS):
            return winograd.convolve(lhs, rhs, spec.padding, spec.precision, spec.dtype)
        return spec(lhs, rhs)
    if out == (3, 3) and _suits_winograd(lhs, (lhs.shape[0], rhs.shape[-1]), spec, _GRADIENT_CHANNELS):
        images, cotangent = lhs.transpose(3, 1, 2, 0), rhs.transpose(2, 0, 1, 3)
        made = winograd.kernel_gradient(images, cotangent, spec.padding, spec.precision, spec.dtype)
        return made.transpose(2, 0, 1, 3)
    trivial = {*out, *spec.lhs_dilation, *spec.rhs_dilation} == {1} and not any(map(any, spec.padding))
    if trivial and image == kernel:
        # The gradient in a 1 x 1 kernel is one sum over all pixels.
        axes = (tuple(range(1, lhs.ndim)), tuple(range(lhs.ndim - 1)))
        options = {"precision": spec.precision, "preferred_element_type": spec.dtype}
        return jax.lax.dot_general(lhs, rhs, (axes, ((), ())), **options).reshape(shape)
    if math.prod(out) > _MANY_TAPS or not lhs.size or not rhs.size:
        return spec(lhs, rhs)
    return _by_taps(lhs, rhs, spec, out)


def _by_taps(lhs: Array, rhs: Array, spec: ConvSpec, out: tuple[int, ...]) -> Array:
    """The gradient as products of matrices; taps and channels of the smaller operand form one axis."""
    images, others = jnp.swapaxes(lhs, 0, -1), jnp.moveaxis(rhs, -2, 0)
    fields = (spec.strides, spec.lhs_dilation, spec.rhs_dilation, spec.padding)
    settings = list(zip(out, *fields, strict=True))
    options = (spec.precision, spec.dtype)
    holes, steps = set(spec.lhs_dilation) != {1}, set(spec.rhs_dilation) != {1}
    if holes and steps:
        images = jax.lax.pad(images, jnp.zeros((), lhs.dtype), _holes(lhs.ndim, spec.lhs_dilation))
    if steps or (not holes and images.shape[-1] <= others.shape[-1]):
        axes = [Axis(taps, stride, step, padding) for taps, stride, _, step, padding in settings]
        return jnp.moveaxis(weight_gradient(images, others, axes, *options), -2, 0)
    # Position `hole m` of an image with holes meets position `hole m + low - stride j` of the other at tap `j`.
    axes = []
    for i, (taps, stride, hole, _, (low, _)) in enumerate(settings):
        before = stride * (taps - 1) - low
        length = stride * (taps - 1) + hole * (images.shape[1 + i] - 1) + 1
        axes.append(Axis(taps, stride, hole, (before, length - before - others.shape[1 + i])))
    made = jnp.flip(weight_gradient(others, images, axes, *options), range(len(out)))
    return jnp.moveaxis(made, -1, 0)


def _holes(rank: int, dilation: Sequence[int]) -> list[tuple[int, int, int]]:
    return [(0, 0, 0), *((0, 0, d - 1) for d in dilation), (0, 0, 0)][:rank]


def _suits_winograd(lhs: Array, channels: tuple[int, ...], spec: ConvSpec, fewest: int) -> bool:
    """Whether Winograd's form suits a 3 x 3 convolution between `channels`, or the gradient in its weights."""
    holes = {*spec.strides, *spec.lhs_dilation, *spec.rhs_dilation}
    if holes != {1} or any(low < 0 or high < 0 for low, high in spec.padding):
        return False
    # Winograd's sums of data lose digits, which half precision cannot spare.
    if jnp.finfo(lhs.dtype).bits < 32:
        return False
    return min(channels) >= fewest and math.prod(lhs.shape) * channels[1] >= _MUCH_WORK


mlir.register_lowering(_primitive, mlir.lower_fun(_plain, multiple_results=False))
mlir.register_lowering(_primitive, mlir.lower_fun(_on_processor, multiple_results=False), platform="cpu")
