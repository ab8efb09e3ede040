"""One process's part of a run: which chunks are its own, and the loop that solves them."""

import bisect
import logging
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from ._chunk_size import Planned
from ._problems import ProblemSpec, take, to_host
from ._program import put
from ._sources import AbstractSource, Chunk
from ._store import Store

_log = logging.getLogger("jaxinv.scale")


class Share:
    """The chunks of one process: every `count`-th of the missing ones, so that all processes have equally many.

    - `kept`: the numbers of the chunks that are there.
    - `index`, `count`: the number of this process, and of all.
    """

    def __init__(self, kept: list[int], index: int, count: int):
        self.kept, self.index, self.count = sorted(kept), index, count

    def owner(self, number: int) -> int | None:
        """The process that solves a chunk, or `None` if it is stored already."""
        before = bisect.bisect_left(self.kept, number)
        if before < len(self.kept) and self.kept[before] == number:
            return None
        return (number - before) % self.count

    def is_own(self, number: int) -> bool:
        """Whether this process solves a chunk."""
        return self.owner(number) == self.index

    def problems(self, count: int, size: int) -> int:
        """The number of problems in the chunks of this process, of `count` in chunks of `size`."""
        own = filter(self.is_own, range(math.ceil(count / size)))
        return sum(min(size, count - number * size) for number in own)


class _Running(NamedTuple):
    """What is being computed: a chunk, a piece of one, or several together."""

    chunks: list[Chunk]
    size: int
    is_last: bool
    leaves: list[jax.Array]


def solve_chunks(
    spec: ProblemSpec,
    planned: Planned,
    shared: list,
    chunks: Iterator[Chunk],
    accept: Callable[[Chunk, list[np.ndarray]], None],
    should_stop: Callable[[], bool],
) -> bool:
    """Solve chunks one after the other, reading each back while the next is computed.

    A program for more problems than a chunk has, on more devices than those of the run that began a store, takes
    several chunks at once.

    **Arguments:**

    - `spec`, `planned`, `shared`: the compiled program, and the arrays that all problems share.
    - `chunks`: the problems.
    - `accept`: called with each chunk and the arrays of its results.
    - `should_stop`: asked before each chunk.

    **Returns:** whether all chunks were solved. All that were begun are accepted, also if reading the next one raises.
    """
    running: _Running | None = None
    pieces: list[list[np.ndarray]] = []

    def read_back(ended: _Running) -> None:
        pieces.append([to_host(leaf)[: ended.size] for leaf in ended.leaves])
        if not ended.is_last:
            return
        arrays = pieces[0] if len(pieces) == 1 else [np.concatenate(c) for c in zip(*pieces, strict=True)]
        pieces.clear()
        start = 0
        for chunk in ended.chunks:
            accept(chunk, [array[start : start + chunk.size] for array in arrays])
            start += chunk.size

    def flush() -> None:
        nonlocal running
        ended, running = running, None
        if ended is not None:
            read_back(ended)

    groups = _grouped(chunks, planned.lanes)
    while not should_stop():
        try:
            group = next(groups, None)
        except Exception:
            flush()
            raise
        if group is None:
            flush()
            return True
        arrays = group[0].arrays
        if len(group) > 1:
            arrays = [np.concatenate(column) for column in zip(*(chunk.arrays for chunk in group), strict=True)]
        whole = len(arrays[0])
        for start in range(0, whole, planned.lanes):
            size = min(planned.lanes, whole - start)
            # The dispatch is asynchronous, so the previous chunk is read back meanwhile.
            outcome = planned.program(shared, put(spec, take(arrays, start, planned.lanes)))
            before = running
            running = _Running(group, size, start + size == whole, jax.tree.leaves(outcome))
            for leaf in running.leaves:
                leaf.copy_to_host_async()
            del outcome
            if before is not None:
                read_back(before)
    flush()
    return False


def _grouped(chunks: Iterator[Chunk], most: int) -> Iterator[list[Chunk]]:
    """Chunks alone, or as many together as one program for `most` problems solves.

    Those that were read before an exception come first.
    """
    group: list[Chunk] = []
    while True:
        try:
            chunk = next(chunks, None)
        except Exception:
            if group:
                yield group
            raise
        if chunk is not None:
            group.append(chunk)
        # All chunks but the last have as many problems.
        if group and (chunk is None or (len(group) + 1) * group[0].size > most):
            yield group
            group = []
        if chunk is None:
            return


def passing(source: AbstractSource, size: int, share: Share, store: Store | None) -> Iterator[Chunk]:
    """The chunks of this process, in order. Chunks of an iterator that are stored, or belong to others, are skipped.

    **Raises:** `ValueError` if a chunk that is there was of other problems.
    """
    for chunk in source.chunks(size, share.is_own):
        owner = share.owner(chunk.number)
        if owner == share.index:
            yield chunk
        elif owner is None and store is not None and store.problems_checksum(chunk.number) != chunk.checksum():
            raise ValueError(
                f"The store {store.url} is of another run: chunk {chunk.number} of `problems` (from problem "
                f"{chunk.start} on) has other values now. Give another path, or delete the store."
            )
