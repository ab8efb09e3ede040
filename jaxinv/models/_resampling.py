"""How decoders enlarge images."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class AbstractUpsampling(eqx.Module):
    """A linear map from images to larger ones, `(n, h, w, c) -> (n, *size, c)`, for any sizes."""

    @abc.abstractmethod
    def along(self, x: Float[Array, "n h w c"], axis: int, out: int) -> Float[Array, "n hh ww c"]:
        """`x` with `out` entries along an axis."""

    def __call__(self, x: Float[Array, "n h w c"], size: tuple[int, int]) -> Float[Array, "n hh ww c"]:
        for axis, out in zip((1, 2), size, strict=True):
            x = self.along(x, axis, out) if x.shape[axis] != out else x
        return x


# Gathers of whole rows and columns, at positions that are known: 4 times faster than products with matrices on a
# processor, their transposes included.
class Nearest(AbstractUpsampling):
    """Every pixel takes the value of the nearest."""

    def along(self, x: Float[Array, "n h w c"], axis: int, out: int) -> Float[Array, "n hh ww c"]:
        return jnp.take(x, np.arange(out) * x.shape[axis] // out, axis=axis, mode="clip")


class Bilinear(AbstractUpsampling):
    """Linear interpolation between the centres of pixels along both axes, constant beyond the outermost."""

    def along(self, x: Float[Array, "n h w c"], axis: int, out: int) -> Float[Array, "n hh ww c"]:
        length = x.shape[axis]
        position = np.clip((np.arange(out) + 0.5) * length / out - 0.5, 0, length - 1)
        below = position.astype(int)
        shape = tuple(out if i == axis else 1 for i in range(x.ndim))
        share = jnp.asarray((position - below).reshape(shape), x.dtype)
        take = lambda index: jnp.take(x, index, axis=axis, mode="clip")
        return (1 - share) * take(below) + share * take(np.minimum(below + 1, length - 1))


def check_upsampling(upsampling: Any) -> AbstractUpsampling:
    """`upsampling`, which must be one of the above."""
    if not isinstance(upsampling, AbstractUpsampling):
        raise ValueError(f"`upsampling` must be `models.Nearest()` or `models.Bilinear()`; got {upsampling!r}.")
    return upsampling


def growing_sizes(first: tuple[int, int], last: tuple[int, int], steps: int) -> list[tuple[int, int]]:
    """The sizes after each of `steps` enlargements by a constant factor, rounded up."""
    along = [
        [int(np.ceil(a * (b / a) ** (i / steps) - 1e-9)) for i in range(1, steps)] + [b]
        for a, b in zip(first, last, strict=True)
    ]
    return list(zip(*along, strict=True))
