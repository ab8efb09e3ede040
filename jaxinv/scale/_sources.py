"""The sources of problems: arrays, a data source, or an iterator of chunks. Each is read piece by piece.

A chunk is a range of numbered problems. That makes it the same whoever solves it, on however many devices.
"""

import abc
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from .._sources import has_items, is_source
from .._types import Checked, PyTree
from ..io import leaf_names
from ._problems import Lazy, ProblemSpec, describe, is_array, is_array_like, is_key, readable, split

# The number of problems of a source that its checksum reads, evenly spread; arrays in memory are read whole.
_SAMPLED = 16


class Chunk(NamedTuple):
    """A range of problems, with its number in the order of all chunks and that of its first problem."""

    number: int
    start: int
    arrays: list[Any]

    @property
    def size(self) -> int:
        """The number of problems."""
        return len(self.arrays[0])

    def checksum(self) -> int:
        """A checksum of the values."""
        return checksum(self.arrays)


class AbstractSource(abc.ABC):
    """The problems of one call: what they are, and how to read them.

    - `spec`, `shared`: of `split`.
    - `mapped`: arrays of the dtypes and shapes of the problems, with a leading axis.
    - `example`: a pytree of such arrays, for messages.
    - `count`: the number of problems, or `None` if it shows only at the end.
    - `chunk_size`: the number of problems of a chunk, where the source itself decides.
    """

    spec: ProblemSpec
    shared: list
    mapped: list[Any]
    example: PyTree
    count: int | None
    chunk_size: int | None = None

    @abc.abstractmethod
    def chunks(self, size: int, is_wanted: Callable[[int], bool]) -> Iterator[Chunk]:
        """The chunks whose numbers are wanted, in order; an iterator gives all of them."""

    @abc.abstractmethod
    def checksum(self) -> str:
        """A checksum of all problems, or of as many as can be read quickly."""


class Arrays(AbstractSource):
    """A pytree of arrays with the problems along the first axis."""

    def __init__(self, solve: Checked[Callable[..., Any]], problems: PyTree, mesh: Mesh | None):
        self.spec, self.shared, self.mapped, self.count = split(solve, problems, mesh)
        self.example = problems

    def chunks(self, size: int, is_wanted: Callable[[int], bool]) -> Iterator[Chunk]:
        assert self.count is not None
        for number in filter(is_wanted, range(math.ceil(self.count / size))):
            rows = slice(number * size, min((number + 1) * size, self.count))
            yield Chunk(number, rows.start, [array[rows] for array in self.mapped])

    def checksum(self) -> str:
        assert self.count is not None
        parts = []
        for array in self.mapped:
            whole = [array[: self.count]] if isinstance(array, np.ndarray) else None
            parts.append(checksum(whole or [array[i : i + 1] for i in _spread(self.count)]))
        return " ".join(f"{part:08x}" for part in parts)


class Items(AbstractSource):
    """A data source, with one problem at each index: anything with `__len__` and `__getitem__`."""

    def __init__(self, solve: Checked[Callable[..., Any]], problems: Any, mesh: Mesh | None):
        self.items, self.count = problems, len(problems)
        if self.count == 0:
            raise ValueError("`problems` is empty: its length is 0.")
        self.example = _stacked(problems[0])
        self.spec, self.shared, self.mapped, _ = split(solve, self.example, mesh)

    def chunks(self, size: int, is_wanted: Callable[[int], bool]) -> Iterator[Chunk]:
        assert self.count is not None
        for number in filter(is_wanted, range(math.ceil(self.count / size))):
            start = number * size
            yield Chunk(number, start, self._read(range(start, min(start + size, self.count))))

    def checksum(self) -> str:
        assert self.count is not None
        return f"{checksum(self._read(_spread(self.count))):08x}"

    def _read(self, numbers: Iterable[int]) -> list[np.ndarray]:
        rows = [_leaves(_stacked(self.items[i]), self.example, f"`problems[{i}]`", whole=True) for i in numbers]
        return [np.concatenate(column) for column in zip(*rows, strict=True)]


class Stream(AbstractSource):
    """An iterator of chunks, each of them a pytree of arrays with the problems along the first axis."""

    def __init__(
        self, solve: Checked[Callable[..., Any]], problems: Iterable[Any], mesh: Mesh | None, count: int | None
    ):
        self.rest = iter(problems)
        try:
            self.example = next(self.rest)
        except StopIteration:
            raise ValueError("`problems` is an iterator that gives nothing.") from None
        self.spec, self.shared, self.mapped, self.chunk_size = split(solve, self.example, mesh)
        self.count = count

    def chunks(self, size: int, is_wanted: Callable[[int], bool]) -> Iterator[Chunk]:
        del size, is_wanted
        assert self.chunk_size is not None
        number, done = 0, 0
        arrays: list[Any] | None = self.mapped
        self.mapped = [np.empty((0, *a.shape[1:]), a.dtype) for a in self.mapped]
        while arrays is not None:
            arrays = [np.asarray(a[: None if self.count is None else self.count - done]) for a in arrays]
            size = len(arrays[0])
            is_whole = done + size == self.count
            if size < self.chunk_size and not is_whole and self._following(number + 1) is not None:
                raise ValueError(
                    f"Chunk {number} of `problems` has {size} problems, and those before it have {self.chunk_size}; "
                    "only the last may have fewer."
                )
            yield Chunk(number, done, arrays)
            number, done = number + 1, done + size
            arrays = None
            if not is_whole and size == self.chunk_size:
                arrays = self._following(number)
        if self.count not in (None, done):
            raise ValueError(
                f"The iterator `problems` ended after {done} of {self.count} problems; `num_problems` says how many "
                "there are."
            )
        self.count = done

    def _following(self, number: int) -> list[Any] | None:
        assert self.chunk_size is not None
        try:
            following = next(self.rest)
        except StopIteration:
            return None
        return _leaves(following, self.example, f"Chunk {number} of `problems`", most=self.chunk_size)

    def checksum(self) -> str:
        # The checksum of each chunk is compared when the chunk is read.
        return "of each chunk"


def open_source(
    solve: Checked[Callable[..., Any]], problems: Any, mesh: Mesh | None, num_problems: Any
) -> AbstractSource:
    """The source that fits the type of `problems`.

    **Raises:** `ValueError` that names what cannot be mapped, or a number of problems that does not fit.
    """
    whole = isinstance(num_problems, int | np.integer) and not isinstance(num_problems, bool)
    if num_problems is not None and not (whole and num_problems >= 1):
        raise ValueError(f"`num_problems` must be a positive integer; got {num_problems!r}.")
    if not is_array_like(problems) and is_source(problems):
        if has_items(problems):
            return _first(Items(solve, problems, mesh), num_problems)
        return Stream(solve, problems, mesh, None if num_problems is None else int(num_problems))
    return _first(Arrays(solve, problems, mesh), num_problems)


def checksum(arrays: Iterable[Any]) -> int:
    """The CRC-32 of the bytes of arrays, one after the other."""
    total = 0
    for array in arrays:
        flat = np.ascontiguousarray(array).reshape(-1)
        total = zlib.crc32(flat.view(np.uint8).data if flat.size else b"", total)
    return total


def _first(source: AbstractSource, num_problems: Any) -> AbstractSource:
    if num_problems is not None:
        assert source.count is not None
        if num_problems > source.count:
            raise ValueError(f"`num_problems` is {num_problems}, and `problems` holds {source.count}.")
        source.count = int(num_problems)
    return source


def _spread(count: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, _SAMPLED))})


def _stacked(item: PyTree) -> PyTree:
    """One problem with a leading axis; its numbers become arrays, as they may differ from problem to problem."""

    def stacked(leaf: Any) -> Any:
        if isinstance(leaf, bool | int | float | complex | np.generic) or (is_array_like(leaf) and not is_array(leaf)):
            leaf = np.asarray(leaf)
        return leaf[None] if is_array(leaf) else leaf

    return jax.tree.map(stacked, item)


def _leaves(tree: PyTree, example: PyTree, name: str, whole: bool = False, most: int = 1) -> list[np.ndarray]:
    """The arrays of a tree of the same structure, static leaves, dtypes and shapes as `example`.

    **Raises:** `ValueError` that says what differs.
    """
    expected, structure = jax.tree.flatten(example)
    found, other = jax.tree.flatten(tree)
    if other != structure:
        raise ValueError(f"{name} is a tree of another structure than the first: {other}, not {structure}.")
    arrays = []
    for leaf, first, of in zip(found, expected, leaf_names(example), strict=True):
        where = f"{name}{of and f' at {of}'}"
        if not is_array_like(first):
            if type(leaf) is not type(first) or leaf != first:
                raise ValueError(f"{where} is {leaf!r}, and in the first it is {first!r}; make it an array.")
            continue
        if not is_array_like(leaf) or is_key(leaf) != is_key(first):
            raise ValueError(f"{where} is a {type(leaf).__name__}, not an array as the first.")
        got, want = readable(leaf), readable(first)
        if got.shape[1:] != want.shape[1:] or got.dtype != want.dtype:
            skip = 1 if whole else 0
            shown = lambda a, skip=skip: f"{a.dtype}{list(a.shape[skip:])}"
            raise ValueError(f"{where} is {shown(got)}; in the first it is {shown(want)}. All must be alike.")
        arrays.append(np.asarray(got[:]) if isinstance(got, Lazy) else got)
    sizes = {len(array) for array in arrays}
    if len(sizes) != 1 or not 1 <= max(sizes) <= most:
        raise ValueError(
            f"{name} has {' or '.join(map(str, sorted(sizes)))} problems, and the first had {most}; all chunks have as "
            "many, except the last, which may have fewer."
        )
    return arrays


def in_words(source: AbstractSource) -> str:
    """The arrays of one problem in words."""
    return describe(source.example)
