"""Sums of ellipses on a grid."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32


def raster(table: Float32[Array, "ellipses 6"], size: int) -> Float32[Array, "size size"]:
    """The sum of the ellipses in `table` at the pixel centres of a `size` x `size` grid over `[-1, 1]^2`.

    A row of `table` is (value, semi-axis along x, semi-axis along y, centre x, centre y, angle): the ellipse with axes
    along x and y, turned anticlockwise by the angle in radians, x to the right and y up.
    """
    along = (2 * jnp.arange(size, dtype=jnp.float32) + (1 - size)) / size
    x, y = jnp.meshgrid(along, -along)

    # A scan, so that the memory is that of one image however many the ellipses.
    def add(image, row):
        value, a, b, x0, y0, angle = row
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        u = (x - x0) * cos + (y - y0) * sin
        v = (y - y0) * cos - (x - x0) * sin
        inside = (u / a) ** 2 + (v / b) ** 2 <= 1
        return image + jnp.where(inside, value, 0), None

    # The empty image takes its type from the table: under `shard_map` the carry must vary as the table does.
    empty = jnp.zeros((size, size), table.dtype) + 0 * table[0, 0]
    return jax.lax.scan(add, empty, table, unroll=5)[0]
