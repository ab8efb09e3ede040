"""Phantoms of ellipses: random ones, and the one of Shepp and Logan."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from .._arrays import check_count, check_key
from .._types import IntLike, Key


def raster(table: Float32[Array, "ellipses 6"], size: int) -> Float32[Array, "size size"]:
    """The sum of the ellipses in `table` at the pixel centres of a `size` x `size` grid over `[-1, 1]^2`.

    A row of `table` is (value, semi-axis along x, semi-axis along y, centre x, centre y, angle): the ellipse with axes
    along x and y, rotated anticlockwise by the angle in radians, where x points right and y points up.
    """
    along = (2 * jnp.arange(size, dtype=jnp.float32) + (1 - size)) / size
    x, y = jnp.meshgrid(along, -along)

    # A scan bounds the memory to one image for any number of ellipses.
    def add(image, row):
        value, a, b, x0, y0, angle = row
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        u = (x - x0) * cos + (y - y0) * sin
        v = (y - y0) * cos - (x - x0) * sin
        inside = (u / a) ** 2 + (v / b) ** 2 <= 1
        return image + jnp.where(inside, value, 0), None

    # The empty image inherits its type from the table, since under `shard_map` the carry must vary as the table does.
    empty = jnp.zeros((size, size), table.dtype) + 0 * table[0, 0]
    return jax.lax.scan(add, empty, table, unroll=5)[0]


_MOST = 70
_MEAN = 40
# The extremes on this grid, that of the published data set, scale the phantom at every image size.
_REFERENCE = 128
# P(count <= k) for k = 0 .. 69, where count is Poisson(40).
_CUMULATIVE = np.cumsum([math.exp(k * math.log(_MEAN) - _MEAN - math.lgamma(k + 1)) for k in range(_MOST)])


def ellipses(n: IntLike, size: IntLike, *, key: Key) -> Float32[Array, "n size size 1"]:
    r"""Random phantoms, each the sum of about 40 ellipses in the square `[-1, 1]^2`.

    The number of ellipses is Poisson(40) and at most 70; their values are `U(-.4, 1)`, semi-axes `.2 Exp(1)`, centres
    `U(-.9, .9)^2` and angles `U(0, 2 pi)`. The values in the union of the ellipses are then shifted and scaled to
    [0, 1], and the background is 0.

    The draws do not depend on `size`, and neither do shift and scale, which are computed on a 128 x 128 grid (finer
    grids contain slivers that it misses; these are clipped to [0, 1]). So the same key at two sizes gives two pictures
    of one continuous object: simulate a measurement on a fine grid and reconstruct on a coarse one to avoid the inverse
    crime. Each pixel holds the value at its centre.

    Image `i` depends on `jax.random.fold_in(key, i)` alone, so that a larger `n` changes none of the first images.

    **Arguments:**

    - `n`: the number of images.
    - `size`: the number of pixels along each side.
    - `key`: one typed key, such as `jax.random.key(0)`.

    **Returns:** the images, float32 in [0, 1], of shape `(n, size, size, 1)`; x points right, y points up, and row 0
    is the top.

    **Raises:** `ValueError` if `n` or `size` is not a positive integer, or `key` not one typed key.

    **Reference:** Baguer, Leuschner, Schmidt, Computed Tomography Reconstruction Using Deep Image Prior and Learned
    Reconstruction Methods, 2020.

    !!! example
        ```python
        import jax, jaxinv
        key = jax.random.key(0)
        fine = jaxinv.data.ellipses(2, 96, key=key)  # to simulate with
        coarse = jaxinv.data.ellipses(2, 32, key=key)  # the same objects, to compare a reconstruction with
        ```
    """
    n, size = check_count(n, "n"), check_count(size, "size")
    check_key(key)
    return _ellipses(n, size, key)


@partial(jax.jit, static_argnums=(0, 1))
def _ellipses(n: int, size: int, key: Key) -> Float32[Array, "n size size 1"]:
    # The chunk depends on `size` alone and every chunk is full, so that the same program makes an image for every `n`,
    # and the images agree to the last bit.
    chunk = max(1, 2**16 // max(size, _REFERENCE) ** 2)
    chunks = -(-n // chunk)
    indices = jnp.arange(chunks * chunk).reshape(chunks, chunk)
    images = jax.lax.map(jax.vmap(lambda i: _phantom(size, jax.random.fold_in(key, i))), indices)
    return images.reshape(chunks * chunk, size, size, 1)[:n]


def _phantom(size: int, key: Key) -> Float32[Array, "size size"]:
    table = _draw(key)
    reference = raster(table, _REFERENCE)
    image = reference if size == _REFERENCE else raster(table, size)
    # The background is exactly 0, and covered pixels are not, almost surely.
    lowest = jnp.min(reference)
    highest = jnp.max(jnp.where(reference != 0, reference - lowest, 0))
    return jnp.where(image != 0, jnp.clip((image - lowest) / jnp.where(highest > 0, highest, 1), 0, 1), 0)


def _draw(key: Key) -> Float32[Array, "ellipses 6"]:
    # One call draws all numbers, also those for the count, since each call adds to the compile time.
    uniform = jax.random.uniform(key, (_MOST + 1, 6), jnp.float32)
    value, first, second, x, y, angle = uniform[:-1].T
    # Ellipse k exists if the count is above k, that is if the uniform number for the count is above P(count <= k).
    value = jnp.where(uniform[-1, 0] >= jnp.asarray(_CUMULATIVE, jnp.float32), 1.4 * value - 0.4, 0)
    # An axis of exactly 0 would divide 0 by 0 at the centre.
    first, second = (jnp.maximum(-0.2 * jnp.log1p(-axis), 1e-6) for axis in (first, second))
    return jnp.stack([value, first, second, 1.8 * x - 0.9, 1.8 * y - 0.9, 2 * math.pi * angle], axis=1)


# Columns: value, semi-axes along x and y, centre x and y, angle in degrees.
_ELLIPSES = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)


def shepp_logan(size: IntLike) -> Float32[Array, "size size 1"]:
    """The modified Shepp-Logan phantom, the one with the visible contrast: 0 outside, 1 in the skull, .2 in the brain.

    The phantom fills the square `[-1, 1]^2`, where x points right and y points up, so that row 0 is the top of the
    head; each pixel holds the value at its centre.

    **Arguments:**

    - `size`: the number of pixels along each side.

    **Returns:** the image, float32 in [0, 1], of shape `(size, size, 1)`.

    **Raises:** `ValueError` if `size` is not a positive integer.

    **Reference:** Shepp, Logan, The Fourier Reconstruction of a Head Section, 1974; Toft, The Radon Transform: Theory
    and Implementation, 1996 (the values).

    !!! example
        ```python
        import jaxinv
        image = jaxinv.data.shepp_logan(128)
        ```
    """
    return _shepp_logan(check_count(size, "size"))


@partial(jax.jit, static_argnums=0)
def _shepp_logan(size: int) -> Float32[Array, "size size 1"]:
    table = np.array(_ELLIPSES)
    table[:, 5] = np.deg2rad(table[:, 5])
    image = raster(jnp.asarray(table, jnp.float32), size)
    # 1 - .8 - .2 is not 0 in floating point, and the attenuation must not be negative.
    return jnp.clip(image, 0, 1)[..., None]
