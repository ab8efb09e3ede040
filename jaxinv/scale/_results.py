"""Results in the memory of the host."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._types import PyTree
from ._processes import Processes
from ._stored import describe_leaves, with_codes


class Addressable(NamedTuple):
    """The results of one process of several.

    - `numbers`: the numbers of its problems, increasing.
    - `results`: their results, in that order, as `solve_many` returns them.
    """

    numbers: np.ndarray
    results: PyTree


class Gathered:
    """Results in memory, filled chunk by chunk.

    - `outcome`: shapes and dtypes of the results of one problem.
    - `capacity`: the number of problems to come, or `None` if it is unknown.
    """

    def __init__(self, outcome: PyTree, capacity: int | None):
        self.outcome, self.capacity = outcome, capacity
        self.arrays: list[np.ndarray] = []
        self.parts: list[list[np.ndarray]] = []
        self.ranges: list[tuple[int, int]] = []
        self.filled = 0

    def accept(self, start: int, arrays: list[np.ndarray]) -> None:
        """Keep a chunk, whose first problem has the number `start`."""
        size = len(arrays[0])
        if self.capacity is None:
            self.parts.append(arrays)
        else:
            self.arrays = self.arrays or [np.empty((self.capacity, *a.shape[1:]), a.dtype) for a in arrays]
            for whole, part in zip(self.arrays, arrays, strict=True):
                whole[self.filled : self.filled + size] = part
        self.ranges.append((start, size))
        self.filled += size

    def collect(self) -> list[np.ndarray]:
        """The arrays, one for each leaf."""
        if self.parts:
            self.arrays, self.parts = [np.concatenate(column) for column in zip(*self.parts, strict=True)], []
        if not self.arrays:
            structs = [_as_data(leaf) for leaf in jax.tree.leaves(self.outcome)]
            self.arrays = [np.empty((0, *leaf.shape), leaf.dtype) for leaf in structs]
        return self.arrays

    def tree(self) -> PyTree:
        """The results as one pytree."""
        return as_tree(self.outcome, self.collect())

    def addressable(self) -> Addressable:
        """The results with the numbers of their problems."""
        numbers = [np.arange(start, start + size) for start, size in self.ranges]
        return Addressable(np.concatenate([np.zeros(0, np.int64), *numbers]), self.tree())

    def gathered(self, processes: Processes, chunk: int) -> PyTree:
        """The results of all processes, a chunk of each at a time."""
        if processes.count == 1:
            return self.tree()
        own = self.collect()
        (counts,) = processes.gather([np.asarray([len(self.ranges), self.filled], np.int32)])
        total = int(counts[:, 1].sum())
        whole = [np.empty((total, *a.shape[1:]), a.dtype) for a in own]
        position = 0
        for turn in range(int(counts[:, 0].max())):
            start, size = self.ranges[turn] if turn < len(self.ranges) else (0, 0)
            rows = [_padded(a[position : position + size], chunk) for a in own]
            position += size
            # The size is 0 where the process has no chunk left.
            header, *found = processes.gather([np.asarray([start, size], np.int32), *rows])
            for process, (first, length) in enumerate(header.tolist()):
                for a, parts in zip(whole, found, strict=True):
                    a[first : first + length] = parts[process][:length]
        return as_tree(self.outcome, whole)


def as_tree(outcome: PyTree, arrays: list[np.ndarray]) -> PyTree:
    """Arrays as the pytree that `solve` returns; codes and random keys become JAX arrays."""
    leaves = [
        array if leaf.key is None else jax.random.wrap_key_data(jnp.asarray(array), impl=leaf.key)
        for array, leaf in zip(arrays, describe_leaves(outcome), strict=True)
    ]
    return with_codes(jax.tree.unflatten(jax.tree.structure(outcome), leaves))


def _as_data(leaf: Any) -> Any:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.eval_shape(jax.random.key_data, leaf) if is_key else leaf


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])
