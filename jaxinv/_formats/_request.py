"""The requested part of a file, and the only function that allocates memory for it."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from .._reading import Refused, check_unpacked

Index = tuple[slice, ...]
# The default limit of the size of an array, in bytes.
MOST = 2**33


class Request(NamedTuple):
    """The requested part of a file.

    - `dataset`: the name of an array, in a file that holds several.
    - `select`: for some axes, the one entry that is wanted.
    - `max_bytes`: the most bytes that the array may take; `None` for what the size of the file makes plausible.
    - `headers`: whether only shapes are wanted: then `values` returns zeros that take no memory.
    """

    dataset: str | None = None
    select: Mapping[str, int] = {}
    max_bytes: int | None = None
    headers: bool = False

    def values(
        self,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        axes: tuple[str, ...],
        stored: int,
        load: Callable[[Index], Any],
        copies: int = 1,
    ) -> np.ndarray:
        """The selected values of an array that a file describes, after a check that its size is plausible.

        - `shape`, `dtype`, `axes`: what the header says.
        - `stored`: the number of bytes in the file.
        - `load`: the function that reads the values at an index, a slice for each axis.
        - `copies`: the number of arrays of that size that reading takes.
        """
        dtype, shape = np.dtype(dtype), tuple(int(n) for n in shape)
        if dtype.kind not in "biufc":
            raise ValueError(f"it should hold numbers, and has the dtype {dtype}")
        if not shape or min(shape) < 1:
            raise ValueError(f"it holds no values: its shape is {shape}")
        index = self._index(shape, axes)
        taken = tuple(len(range(n)[part]) for n, part in zip(shape, index, strict=True))
        if self.max_bytes is None:
            check_unpacked(math.prod(shape) * dtype.itemsize, stored)
        limit, needed = self.max_bytes or MOST, copies * math.prod(taken) * dtype.itemsize
        if needed > limit:
            raise Refused(
                f"its array of shape {shape} and dtype {dtype} would take {needed / 2**30:.3g} GiB, and the limit is "
                f"{limit / 2**30:.3g} GiB. Read one entry of an axis with `select`, or give more by `max_bytes`."
            )
        if self.headers:
            return np.broadcast_to(np.zeros((), dtype.newbyteorder("=")), taken)
        found = np.asarray(load(index))
        if found.shape != taken:
            raise ValueError(f"it holds values of shape {found.shape}, and its header says {taken}")
        return np.array(found, found.dtype.newbyteorder("="), order="C", copy=True if found.base is not None else None)

    def _index(self, shape: tuple[int, ...], axes: tuple[str, ...]) -> Index:
        index = [slice(0, n) for n in shape]
        for name, entry in self.select.items():
            if name not in axes:
                raise Refused(f"it has no axis {name!r} to select from; its axes are {', '.join(axes)}.")
            axis = axes.index(name)
            if not 0 <= entry < shape[axis]:
                raise Refused(f"there is no entry {entry} of axis {name!r}, which has {shape[axis]} entries.")
            index[axis] = slice(entry, entry + 1)
        return tuple(index)


def image_axes(shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names for the axes of an array without names: rows and columns, before them slices, behind them colours."""
    ndim = len(shape)
    if ndim == 1:
        return ("column",)
    if ndim == 3 and shape[2] in (1, 3, 4) and min(shape[:2]) > 4:
        return ("row", "column", "channel")
    before = ("time", "slice")[4 - ndim :] if ndim in (3, 4) else tuple(f"axis{i}" for i in range(ndim - 2))
    return (*before, "row", "column")
