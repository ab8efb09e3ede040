"""The networks in the couplings of a normalising flow, from the kept half of an image to parameters of the other."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .._types import Checked
from ._convolutional import convolution
from ._coupling import Partition, extent, flat
from ._trunks import MLP, AbstractTrunk, Convolutional, Dense


def conditioners(
    trunk: Checked[AbstractTrunk], partitions: Sequence[Partition], num_parameters: int, *, rngs: nnx.Rngs
) -> list[nnx.Module]:
    """One network for each coupling: from a list of the kept parts to parameters `(n, p, m)`, zero at the start."""
    if isinstance(trunk, Dense):
        return [_Dense(partition, num_parameters, trunk.widths, rngs=rngs) for partition in partitions]
    if isinstance(trunk, Convolutional):
        # The first couplings use the finest level, the last ones the coarsest.
        count, levels = len(partitions), len(trunk.channels)
        return [
            _Convolutional(partition, num_parameters, trunk.channels[level], level, rngs=rngs)
            for partition, level in zip(partitions, (i * levels // count for i in range(count)), strict=True)
        ]
    raise ValueError(f"`trunk` of a flow must be `models.Dense()` or `models.Convolutional()`; got {trunk!r}.")


class _Dense(nnx.Module):
    """Dense layers between the kept entries and the parameters."""

    def __init__(self, partition: Partition, num_parameters: int, widths: tuple[int, ...], *, rngs: nnx.Rngs):
        self.num_parameters = num_parameters
        self.hidden = MLP((partition.num_kept, *widths), rngs=rngs)
        outputs = num_parameters * partition.num_changed
        self.last = nnx.Linear(widths[-1], outputs, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)

    def __call__(self, kept: list[Array]) -> Float[Array, "n p m"]:
        x = jnp.concatenate([flat(part) for part in kept], axis=1)
        x = self.last(jax.nn.silu(self.hidden(x)))
        return x.reshape(x.shape[0], self.num_parameters, -1)


class _Convolutional(nnx.Module):
    """Convolutions on a grid of cells, the parts of `2^(level + 1) x 2^(level + 1)` pixels as its channels."""

    def __init__(self, partition: Partition, num_parameters: int, width: int, level: int, *, rngs: nnx.Rngs):
        self.partition, self.num_parameters, self.factor = partition, num_parameters, 2**level
        shape = partition.image_shape
        kept, changed = (sum(extent(p, shape)[2] for p in side) for side in (partition.kept, partition.changed))
        self.first = convolution(kept * self.factor**2, width, rngs=rngs)
        self.middle = nnx.List([convolution(width, width, rngs=rngs) for _ in range(2)])
        self.last = convolution(width, num_parameters * changed * self.factor**2, 1, zero=True, rngs=rngs)

    def __call__(self, kept: list[Array]) -> Float[Array, "n p m"]:
        h, w, _ = self.partition.image_shape
        # Parts of an odd image differ by a row or a column, so all are padded to whole cells, and cropped at the end.
        rows, columns = (-(-size // (2 * self.factor)) for size in (h, w))
        x = jnp.concatenate([self._filled(part, rows, columns) for part in kept], axis=3)
        n, f = x.shape[0], self.factor
        x = x.reshape(n, rows, f, columns, f, -1).transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, -1)
        x = self.first(x)
        x = x + self.middle[1](jax.nn.silu(self.middle[0](jax.nn.silu(x))))
        x = self.last(jax.nn.silu(x))
        x = x.reshape(n, rows, columns, f, f, self.num_parameters, -1).transpose(0, 5, 1, 3, 2, 4, 6)
        x = x.reshape(n, self.num_parameters, rows * f, columns * f, -1)
        return self._cut(x)

    def _filled(self, part: Float[Array, "n h w c"], rows: int, columns: int) -> Float[Array, "n hh ww c"]:
        missing = rows * self.factor - part.shape[1], columns * self.factor - part.shape[2]
        return jnp.pad(part, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))

    def _cut(self, x: Float[Array, "n p hh ww c"]) -> Float[Array, "n p m"]:
        parameters, start = [], 0
        for part in self.partition.changed:
            h, w, c = extent(part, self.partition.image_shape)
            piece = x[:, :, :h, :w, start : start + c]
            parameters.append(piece.reshape(*x.shape[:2], h * w * c))
            start += c
        return jnp.concatenate(parameters, axis=2)
