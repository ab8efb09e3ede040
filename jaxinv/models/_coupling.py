"""The couplings of a normalising flow: affine maps and splines, and the step that changes one half of an image.

An image is stored as its parts: the pixels of one parity of row and column (and, with several channels, of one half of
the channels). Every half is a union of parts, so that cutting and joining are strided slices, whose transposes are as
cheap as they are; those of the gathers of an arbitrary mask are not.
"""

import abc
import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .._types import Checked

# The parity of the row, the parity of the column, and the half of the channels.
Part = tuple[int, int, int]
Parts = dict[Part, Array]

# The values of the paper on splines: the smallest width and height of a bin, as a fraction of the interval, and the
# smallest slope at a knot.
_LEAST_BIN = 1e-3
_LEAST_SLOPE = 1e-3

_PATTERNS: tuple[Callable[[Part], int], ...] = (
    lambda part: sum(part) % 2,  # a checkerboard
    lambda part: part[2],
    lambda part: part[0],
    lambda part: part[1],
)


class AbstractCoupling(eqx.Module):
    """An increasing map of the line onto itself, a different one for every entry, with parameters from a network.

    Parameters that are all zero make it the identity, with which a flow starts. To define a coupling, implement these
    three members.
    """

    @property
    @abc.abstractmethod
    def num_parameters(self) -> int:
        """`p`, the number of parameters of each entry.

        **Returns:** a positive Python integer.
        """

    @abc.abstractmethod
    def forward(
        self, x: Float[Array, "n m"], parameters: Float[Array, "n p m"]
    ) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
        """Map entries forwards.

        **Arguments:**

        - `x`: a batch of entries, `(n, m)`.
        - `parameters`: the output of the network, `(n, p, m)`.

        **Returns:** the values, and the logarithms of the slopes there, both `(n, m)`.
        """

    @abc.abstractmethod
    def inverse(self, y: Float[Array, "n m"], parameters: Float[Array, "n p m"]) -> Float[Array, "n m"]:
        """Map values backwards.

        **Arguments:**

        - `y`: a batch of values, `(n, m)`.
        - `parameters`: the output of the network, `(n, p, m)`.

        **Returns:** the entries that have these values, `(n, m)`.
        """


class Affine(AbstractCoupling):
    """Affine couplings, `y = x exp(s) + t`, with `|s| < bound`.

    `s = bound tanh(s' / bound)`, with the output `s'` of the network, keeps the inverse well-conditioned.

    **Arguments:**

    - `bound`: the bound of the logarithm of the scale, a positive number, static.

    **Raises:** `ValueError` if it is not a positive number.

    !!! cite "Reference"
        Dinh, Sohl-Dickstein, Bengio, Density estimation using Real NVP, 2017
    """

    bound: Checked[float] = eqx.field(default=2.0, static=True)

    def __check_init__(self):
        check_bound(self.bound)

    @property
    def num_parameters(self) -> int:
        return 2

    def forward(
        self, x: Float[Array, "n m"], parameters: Float[Array, "n p m"]
    ) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
        log_scale = self._log_scale(parameters)
        return x * jnp.exp(log_scale) + parameters[:, 1], log_scale

    def inverse(self, y: Float[Array, "n m"], parameters: Float[Array, "n p m"]) -> Float[Array, "n m"]:
        return (y - parameters[:, 1]) * jnp.exp(-self._log_scale(parameters))

    def _log_scale(self, parameters: Float[Array, "n p m"]) -> Float[Array, "n m"]:
        return self.bound * jnp.tanh(parameters[:, 0] / self.bound)


class RationalQuadratic(AbstractCoupling):
    """Monotone rational-quadratic splines on `[-bound, bound]`, and the identity outside.

    They are more flexible than `Affine`, and slower: the network gives `3 bins - 1` parameters for each entry, the
    widths and heights of the bins and the slopes at the knots between them.

    **Arguments:**

    - `bins`: the number of bins, at least 2, static.
    - `bound`: the bound of the interval, in the unit of the latents, static.

    **Raises:** `ValueError` if `bins` is not such an integer or `bound` not a positive number.

    !!! cite "Reference"
        Durkan, Bekasov, Murray, Papamakarios, Neural Spline Flows, 2019
    """

    bins: Checked[int] = eqx.field(default=8, static=True)
    bound: Checked[float] = eqx.field(default=4.0, static=True)

    def __check_init__(self):
        if isinstance(self.bins, bool) or not isinstance(self.bins, int) or not 2 <= self.bins <= 500:
            raise ValueError(f"`bins` must be a static integer from 2 to 500; got {self.bins!r}.")
        check_bound(self.bound)

    @property
    def num_parameters(self) -> int:
        return 3 * self.bins - 1

    def forward(
        self, x: Float[Array, "n m"], parameters: Float[Array, "n p m"]
    ) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
        inside = jnp.abs(x) < self.bound
        # Outside entries are replaced by 0, so that the gradient of the unselected branch cannot be NaN.
        within = jnp.where(inside, x, 0)
        b = self._bin(within, parameters, inverse=False)
        t = (within - b.left) / b.width
        s = b.height / b.width
        denominator = s + (b.slope_right + b.slope_left - 2 * s) * t * (1 - t)
        y = b.bottom + b.height * (s * t**2 + b.slope_left * t * (1 - t)) / denominator
        slope = b.slope_right * t**2 + 2 * s * t * (1 - t) + b.slope_left * (1 - t) ** 2
        log_slope = 2 * jnp.log(s) + jnp.log(slope) - 2 * jnp.log(denominator)
        return jnp.where(inside, y, x), jnp.where(inside, log_slope, 0)

    def inverse(self, y: Float[Array, "n m"], parameters: Float[Array, "n p m"]) -> Float[Array, "n m"]:
        inside = jnp.abs(y) < self.bound
        within = jnp.where(inside, y, 0)
        b = self._bin(within, parameters, inverse=True)
        s, v = b.height / b.width, within - b.bottom
        bend = b.slope_right + b.slope_left - 2 * s
        quadratic = b.height * (s - b.slope_left) + v * bend
        linear = b.height * b.slope_left - v * bend
        constant = -s * v
        # The root in [0, 1], in a form without cancellation for either sign of the linear coefficient. It is simple for
        # a monotone spline, so the discriminant is positive up to rounding.
        least = jnp.finfo(y.dtype).tiny
        size = jnp.abs(linear) + jnp.sqrt(jnp.maximum(linear**2 - 4 * quadratic * constant, least))
        falling = linear < 0
        t = jnp.where(falling, size / (2 * jnp.where(falling, quadratic, 1)), -2 * constant / size)
        return jnp.where(inside, b.left + b.width * t, y)

    def _bin(self, at: Float[Array, "n m"], parameters: Float[Array, "n p m"], *, inverse: bool) -> "_Bin":
        """The bin in which each entry lies, along the heights if `inverse`, else along the widths."""
        bins = self.bins
        widths, lefts = self._knots(parameters[:, :bins])
        heights, bottoms = self._knots(parameters[:, bins : 2 * bins])
        # A parameter of 0 is a slope of 1, that of the identity outside.
        shift = math.log(math.expm1(1 - _LEAST_SLOPE))
        inner = _LEAST_SLOPE + jax.nn.softplus(parameters[:, 2 * bins :] + shift)
        one = jnp.ones_like(inner[:, :1])
        ends = bottoms if inverse else lefts
        index = jnp.sum(at[:, None] >= ends[:, 1:], axis=1)
        here = index[:, None] == jnp.arange(bins)[None, :, None]
        # A sum over the few bins vectorises, forwards and backwards, while a gather does not.
        pick = lambda values: jnp.sum(jnp.where(here, values, 0), axis=1)
        return _Bin(
            left=pick(lefts),
            width=pick(widths),
            bottom=pick(bottoms),
            height=pick(heights),
            slope_left=pick(jnp.concatenate([one, inner], axis=1)),
            slope_right=pick(jnp.concatenate([inner, one], axis=1)),
        )

    def _knots(self, raw: Float[Array, "n k m"]) -> tuple[Float[Array, "n k m"], Float[Array, "n k m"]]:
        """The sizes of the bins, which fill the interval, and their lower ends."""
        fractions = _LEAST_BIN + (1 - _LEAST_BIN * self.bins) * jax.nn.softmax(raw, axis=1)
        lower = jnp.cumsum(fractions[:, :-1], axis=1)
        lower = jnp.concatenate([jnp.zeros_like(raw[:, :1]), lower], axis=1)
        return 2 * self.bound * fractions, 2 * self.bound * lower - self.bound


class _Bin(NamedTuple):
    left: Array
    width: Array
    bottom: Array
    height: Array
    slope_left: Array
    slope_right: Array


def check_bound(bound: Any) -> None:
    """Raise unless `bound`, a field of a coupling, is a positive Python number."""
    if isinstance(bound, bool) or not isinstance(bound, numbers.Real) or not 0 < float(bound) < math.inf:
        raise ValueError(f"`bound` must be a positive Python number (it is static); got {bound!r}.")


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
    """One step of a flow: it maps half of the entries, with parameters that a network computes from the other half."""

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
    """The partitions of a flow: each pattern that divides the image is used twice, once with each half kept."""
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
    """Cut images into their parts."""
    _, h, w, c = x.shape
    first = c - c // 2
    every = [(a, b, g) for a in (0, 1) for b in (0, 1) for g in (0, 1)]
    return {
        (a, b, g): x[:, a::2, b::2, first:] if g else x[:, a::2, b::2, :first]
        for a, b, g in every
        if math.prod(extent((a, b, g), (h, w, c)))
    }


def join(parts: Parts, image_shape: tuple[int, int, int]) -> Float[Array, "n h w c"]:
    """Join parts to images; the inverse of `cut`."""
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
    """Flatten every image of a part to a vector."""
    return part.reshape(part.shape[0], -1)
