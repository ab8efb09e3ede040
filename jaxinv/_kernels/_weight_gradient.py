"""The gradient of a convolution in its weights, as products of matrices, for `_convolution.py` on a CPU."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Axis(NamedTuple):
    """One axis: `taps`, the number of sums; `dilation`, the distance of taps; `step`, that of the terms of a sum."""

    taps: int
    dilation: int
    step: int
    padding: tuple[int, int]


def weight_gradient(
    images: Float[Array, "n *image a"],
    others: Float[Array, "n *other b"],
    axes: Sequence[Axis],
    precision: Any,
    dtype: Any,
) -> Array:
    """`out[j] = sum_{n, k} images[n, dilation j + step k]^T others[n, k]` over all positions `k` of `others`.

    It first pads `images`. The taps along the last axis become channels; those along the other axes are separate
    products of matrices.
    """
    padded = jax.lax.pad(
        images, jnp.zeros((), images.dtype), [(0, 0, 0), *((*axis.padding, 0) for axis in axes), (0, 0, 0)]
    )
    *outer, last = range(1, len(axes) + 1)

    def window(array: Array, tap: int, number: int) -> Array:
        along, count = axes[number - 1], others.shape[number]
        start = tap * along.dilation
        return jax.lax.slice_in_dim(array, start, start + along.step * (count - 1) + 1, along.step, number)

    wide = jnp.concatenate([window(padded, tap, last) for tap in range(axes[-1].taps)], axis=-1)
    columns, products = others.reshape(-1, others.shape[-1]), []
    for taps in itertools.product(*(range(axis.taps) for axis in axes[:-1])):
        rows = wide
        for tap, number in zip(taps, outer, strict=True):
            rows = window(rows, tap, number)
        rows = rows.reshape(-1, rows.shape[-1])
        products.append(
            jax.lax.dot_general(rows, columns, (((0,), (0,)), ((), ())), precision, preferred_element_type=dtype)
        )
    return jnp.stack(products).reshape(*(axis.taps for axis in axes), images.shape[-1], others.shape[-1])
