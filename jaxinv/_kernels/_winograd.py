"""Winograd's minimal filtering, for `_convolution.py`: 3 x 3 convolutions by 4 products in place of every 9."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# F(2, 3): two neighbouring outputs of a filter g of three taps are B ((G g) * (D d)), from four data d.
_DATA = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_FILTER = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_BACK = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


def convolve(
    images: Float[Array, "n h w into"],
    kernel: Float[Array, "3 3 into out"],
    padding: Sequence[tuple[int, int]],
    precision: Any,
    dtype: Any,
) -> Float[Array, "n hh ww out"]:
    """`jax.lax.conv_general_dilated` in the layout `NHWC, HWIO -> NHWC`, without strides.

    It computes blocks of 2 x 2 outputs from 4 x 4 inputs. Each of the 16 places of a transformed block is one matrix
    product over all blocks. Its rounding is that of the definition, since all factors are 1 and 1/2.

    **Reference:** Lavin, Gray, Fast algorithms for convolutional neural networks, 2016.
    """
    n, h, w, into = images.shape
    size = (h + sum(padding[0]) - 2, w + sum(padding[1]) - 2)
    count = [-(-length // 2) for length in size]
    images = _padded(images, [(low, high + length % 2) for (low, high), length in zip(padding, size, strict=True)])
    multiply = lambda block, kernel: jax.lax.dot(
        block.reshape(-1, into), kernel, precision=precision, preferred_element_type=dtype
    )
    made = [
        [multiply(block, g) for block, g in zip(_combined(_DATA, _phases(row, 2, count[1])), filters, strict=True)]
        for row, filters in zip(_combined(_DATA, _phases(images, 1, count[0])), _transformed(kernel), strict=True)
    ]
    down = [_combined(_BACK, list(column)) for column in zip(*made, strict=True)]
    rows = [_combined(_BACK, list(row)) for row in zip(*down, strict=True)]
    return _interleaved(rows, (n, count[0], count[1], kernel.shape[-1]))[:, : size[0], : size[1]]


def kernel_gradient(
    images: Float[Array, "n h w into"],
    cotangent: Float[Array, "n hh ww out"],
    padding: Sequence[tuple[int, int]],
    precision: Any,
    dtype: Any,
) -> Float[Array, "3 3 into out"]:
    """The transpose of `convolve` in its kernel."""
    n, hh, ww, out = cotangent.shape
    tiles, into = (n, -(-hh // 2), -(-ww // 2)), images.shape[-1]
    images = _padded(images, [(low, high + size % 2) for (low, high), size in zip(padding, (hh, ww), strict=True)])
    cotangent = _padded(cotangent, [(0, hh % 2), (0, ww % 2)])
    # One product of matrices for each of the 4 x 4 places sums over the blocks.
    multiply = lambda block, part: jax.lax.dot_general(
        block.reshape(-1, into),
        part.reshape(-1, out),
        (((0,), (0,)), ((), ())),
        precision=precision,
        preferred_element_type=dtype,
    )
    blocks = [_combined(_DATA, _phases(row, 2, tiles[2])) for row in _combined(_DATA, _phases(images, 1, tiles[1]))]
    parts = [_combined(_BACK.T, _halves(row, 2)) for row in _combined(_BACK.T, _halves(cotangent, 1))]
    made = [[multiply(*pair) for pair in zip(*rows, strict=True)] for rows in zip(blocks, parts, strict=True)]
    down = [_combined(_FILTER.T, list(column)) for column in zip(*made, strict=True)]
    return jnp.stack([jnp.stack(_combined(_FILTER.T, list(row))) for row in zip(*down, strict=True)])


def _padded(images: Array, padding: Sequence[tuple[int, int]]) -> Array:
    return jax.lax.pad(images, jnp.zeros((), images.dtype), [(0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0)])


def _halves(images: Array, axis: int) -> list[Array]:
    """Every second entry along an axis, and the others."""
    return [jax.lax.slice_in_dim(images, i, images.shape[axis], 2, axis) for i in range(2)]


def _transformed(kernel: Float[Array, "3 3 into out"]) -> list[list[Array]]:
    """The kernel at each of the 4 x 4 places."""
    down = _combined(_FILTER, list(kernel))
    return [_combined(_FILTER, list(row)) for row in down]


def _phases(images: Array, axis: int, count: int) -> list[Array]:
    """The first entries of all blocks of four along an axis, then the second, and so on; blocks overlap by two."""
    stop = 2 * (count - 1) + 1
    return [jax.lax.slice_in_dim(images, i, i + stop, 2, axis) for i in range(4)]


def _combined(matrix: np.ndarray, parts: list[Array]) -> list[Array]:
    """The combinations of arrays whose coefficients are the rows of a matrix."""
    return [_combination(row, parts) for row in matrix]


def _combination(row: np.ndarray, parts: list[Array]) -> Array:
    total = None
    for factor, part in zip(row, parts, strict=True):
        if factor:
            term = part if factor == 1 else -part if factor == -1 else part * jnp.asarray(factor, part.dtype)
            total = term if total is None else total + term
    assert total is not None
    return total


def _interleaved(rows: list[list[Array]], shape: tuple[int, int, int, int]) -> Float[Array, "n hh ww out"]:
    n, h, w, out = shape
    lines = [jnp.stack([part.reshape(shape) for part in row], axis=3).reshape(n, h, 2 * w, out) for row in rows]
    return jnp.stack(lines, axis=2).reshape(n, 2 * h, 2 * w, out)
