"""What couplings of a normalising flow share: how an image is cut into two halves, and the step that changes one half.

An image is kept as its parts: the pixels of one parity of row and column (and, of several channels, of one half of the
channels). Every half is a union of parts, so that cutting and joining are strided slices, which are as cheap backwards
as forwards; the gathers of an arbitrary mask are not.
"""

import abc
import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

# The parity of the row, that of the column, and which half of the channels.
Part = tuple[int, int, int]
Parts = dict[Part, Array]

_PATTERNS: tuple[Callable[[Part], int], ...] = (
    lambda part: sum(part) % 2,  # a checkerboard
    lambda part: part[2],
    lambda part: part[0],
    lambda part: part[1],
)


class AbstractCoupling(eqx.Module):
    """An increasing map of the line onto itself, a different one for every entry, with parameters from a network.

    Parameters that are all zero make it the identity, with which a flow starts.
    """

    @property
    @abc.abstractmethod
    def num_parameters(self) -> int:
        """`p`, the number of parameters of each entry."""

    @abc.abstractmethod
    def forward(
        self, x: Float[Array, "n m"], parameters: Float[Array, "n p m"]
    ) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
        """The values, and the logarithms of the slopes."""

    @abc.abstractmethod
    def inverse(self, y: Float[Array, "n m"], parameters: Float[Array, "n p m"]) -> Float[Array, "n m"]:
        """The entries that have the values `y`."""


@dataclasses.dataclass(frozen=True)
class Partition:
    """The parts of an image that a coupling reads, and those that it changes."""

    image_shape: tuple[int, int, int]
    kept: tuple[Part, ...]
    changed: tuple[Part, ...]

    @property
    def num_kept(self) -> int:
        """The number of entries that are kept."""
        return sum(math.prod(extent(part, self.image_shape)) for part in self.kept)

    @property
    def num_changed(self) -> int:
        """The number of entries that are changed."""
        return sum(math.prod(extent(part, self.image_shape)) for part in self.changed)


class Coupling(nnx.Module):
    """One step of a flow: half of the entries are mapped, with parameters that a network makes of the other half."""

    def __init__(self, partition: Partition, transform: AbstractCoupling, network: nnx.Module):
        self.partition, self.transform, self.network = partition, transform, network

    def forward(self, parts: Parts) -> tuple[Parts, Float[Array, " n"]]:
        """The image after the step, and the logarithm of the determinant of its derivative."""
        changed = jnp.concatenate([flat(parts[part]) for part in self.partition.changed], axis=1)
        changed, log_slopes = self.transform.forward(changed, self._parameters(parts))
        return self._joined(parts, changed), jnp.sum(log_slopes, axis=1)

    def inverse(self, parts: Parts) -> Parts:
        """The image before the step."""
        changed = jnp.concatenate([flat(parts[part]) for part in self.partition.changed], axis=1)
        return self._joined(parts, self.transform.inverse(changed, self._parameters(parts)))

    def _parameters(self, parts: Parts) -> Float[Array, "n p m"]:
        return self.network([parts[part] for part in self.partition.kept])

    def _joined(self, parts: Parts, changed: Float[Array, "n m"]) -> Parts:
        parts, start = dict(parts), 0
        for part in self.partition.changed:
            shape = extent(part, self.partition.image_shape)
            stop = start + math.prod(shape)
            parts[part] = changed[:, start:stop].reshape(-1, *shape)
            start = stop
        return parts


def partitions(image_shape: tuple[int, int, int], count: int) -> list[Partition]:
    """Of the couplings of a flow: each pattern that divides the image is used twice, once with each half kept."""
    every = [(a, b, g) for a in (0, 1) for b in (0, 1) for g in (0, 1) if math.prod(extent((a, b, g), image_shape))]
    patterns = []
    for pattern in _PATTERNS:
        halves = tuple(tuple(part for part in every if pattern(part) == side) for side in (0, 1))
        if all(halves) and halves not in patterns:
            patterns.append(halves)
    if not patterns:
        raise ValueError(f"A flow needs images of at least two entries; got `image_shape` {image_shape}.")
    chosen = [patterns[i // 2 % len(patterns)] for i in range(count)]
    return [Partition(image_shape, halves[i % 2], halves[1 - i % 2]) for i, halves in enumerate(chosen)]


def extent(part: Part, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape of a part of one image."""
    h, w, c = image_shape
    first = c - c // 2
    return (h - part[0] + 1) // 2, (w - part[1] + 1) // 2, c - first if part[2] else first


def cut(x: Float[Array, "n h w c"]) -> Parts:
    """The parts of images."""
    _, h, w, c = x.shape
    first = c - c // 2
    every = [(a, b, g) for a in (0, 1) for b in (0, 1) for g in (0, 1)]
    return {
        (a, b, g): x[:, a::2, b::2, first:] if g else x[:, a::2, b::2, :first]
        for a, b, g in every
        if math.prod(extent((a, b, g), (h, w, c)))
    }


def join(parts: Parts, image_shape: tuple[int, int, int]) -> Float[Array, "n h w c"]:
    """The images that have these parts."""
    h, w, c = image_shape
    first = c - c // 2
    spread = []
    for (a, b, g), part in parts.items():
        rows, columns, _ = part.shape[1:]
        padding = [
            (0, 0, 0),
            (a, h - a - (2 * rows - 1), 1),
            (b, w - b - (2 * columns - 1), 1),
            (first, 0, 0) if g else (0, c - first, 0),
        ]
        spread.append(jax.lax.pad(part, jnp.zeros((), part.dtype), padding))
    return sum(spread[1:], spread[0])


def flat(part: Float[Array, "n h w c"]) -> Float[Array, "n m"]:
    """Every image of a part as a vector."""
    return part.reshape(part.shape[0], -1)


def check_bound(bound: Any) -> None:
    """Raise unless `bound`, a field of a coupling, is a positive Python number."""
    if isinstance(bound, bool) or not isinstance(bound, numbers.Real) or not 0 < float(bound) < math.inf:
        raise ValueError(f"`bound` must be a positive Python number (it is static); got {bound!r}.")
