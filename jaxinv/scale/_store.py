"""The store of a run: a group of Zarr 3 arrays that tensorstore writes, and one row of a further array for each chunk.

A chunk is there once its row is: the row is written last, whole or not at all, and holds the checksums of the arrays.
Every file has the checksum of its own codec too.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ._memory import in_words
from ._sources import checksum

FORMAT = 1
# The columns of a row before the checksums of the arrays: the number of problems, and the checksum of the problems.
_ROWS, _PROBLEMS, _FIRST = 0, 1, 2
_COMMITS = "commits"
# If the number of problems is not known yet, arrays have room for so many.
_UNKNOWN = 2**52
_AT_ONCE = 64
_VERSIONS = ("jaxinv", "jax", "jaxlib", "flax", "optax", "equinox", "backend")


class Leaf(NamedTuple):
    """One array of the results: its name in the tree, that of its Zarr array, and what one problem has of it."""

    name: str
    array: str
    dtype: str
    shape: tuple[int, ...]
    key: str | None  # The generator of random keys.


class Store:
    """An open store.

    - `url`: as the user gave it.
    - `about`: what the store says of itself: `chunk` (its number of problems), `width` (how many of them a device
        solved at once), `count` (of all problems, `None` while it is unknown), `leaves`, `tree`, `settings` and
        `versions`.
    """

    def __init__(self, url: str | os.PathLike[str]):
        self.url = os.fspath(url)
        self.tensorstore = _tensorstore()
        spec: Any = self.url
        if "://" not in self.url:
            spec = {"driver": "file", "path": os.path.abspath(self.url) + "/"}
        elif not self.url.endswith("/"):
            spec = self.url + "/"
        try:
            self.files = self.tensorstore.KvStore.open(spec).result()
        except ValueError as error:
            raise ValueError(f"`store` is {self.url!r}, which cannot be opened: {first_line(error)}") from error
        self.about: dict[str, Any] = {}
        self.leaves: list[Leaf] = []
        self.arrays: list[Any] = []
        self.commits: Any = None

    def exists(self) -> bool:
        """Whether a run has begun here."""
        return self._read("zarr.json") is not None

    def check_empty(self) -> None:
        """Raise a `ValueError` if the folder holds anything but the store of a run."""
        if self._read(f"{_COMMITS}/zarr.json") is None and self._list_some():
            raise ValueError(
                f"{self.url} is not a store of `solve_many`, and is not empty. Give a path at which there is nothing "
                "yet."
            )

    def create(self, about: dict[str, Any], leaves: list[Leaf]) -> None:
        """Make the arrays of a new store; the entry that makes it one is written last.

        **Raises:** `ValueError` if it cannot be written, or the results do not fit the disk.
        """
        self.leaves = leaves
        self.check_room(about["count"] or about["chunk"])
        self.about = {**about, "format": FORMAT, "leaves": [leaf._asdict() for leaf in leaves]}
        try:
            self._open_arrays(create=True)
            self._write_about()
        except (ValueError, OSError) as error:
            raise ValueError(
                f"Cannot write the store {self.url}: {first_line(error)}. Choose another path, or change its "
                "permissions."
            ) from error

    def open(self) -> None:
        """Open the arrays of a store that exists.

        **Raises:** `ValueError` if this is no store.
        """
        found = self._read("zarr.json")
        if found is None:
            raise ValueError(f"There is no store of `solve_many` at {self.url}.")
        try:
            self.about = json.loads(found)["attributes"]["jaxinv"]
            self.leaves = [Leaf(**{**leaf, "shape": tuple(leaf["shape"])}) for leaf in self.about["leaves"]]
            form = self.about["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.url} is not a store of `solve_many`, or its `zarr.json` is corrupt ({error!r})."
            ) from error
        if form != FORMAT:
            raise ValueError(f"The store {self.url} has the format {form}; this version reads the format {FORMAT}.")
        try:
            self._open_arrays(create=False)
        except ValueError as error:
            raise ValueError(f"The store {self.url} is damaged: {first_line(error)}. Delete it.") from error

    def compare(self, settings: dict[str, str], versions: dict[str, str]) -> None:
        """Raise a `ValueError` that says what differs if the store is of another run."""
        found = {**self.about["versions"], **self.about["settings"]}
        now = {**versions, **settings}
        names = [*settings, *(name for name in _VERSIONS if name in versions)]
        differing = [name for name in names if found.get(name) != now[name]]
        if differing:
            said = "; ".join(f"{name} was {found.get(name)}, and is {now[name]}" for name in differing[:4])
            raise ValueError(f"The store {self.url} is of another run: {said}. Give another path, or delete the store.")

    def check_room(self, count: int) -> None:
        """Raise a `ValueError` if the results of `count` further problems cannot be written here.

        It sees what a disk says; of a bucket it knows nothing.
        """
        if not self.files.url.startswith("file:"):
            return
        folder = os.path.abspath(self.files.path)
        while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
            folder = os.path.dirname(folder)
        if not os.access(folder, os.W_OK):
            raise ValueError(
                f"Cannot write the store {self.url}: permission denied in {folder}. Choose another path, or change its "
                "permissions."
            )
        size = count * sum(int(np.prod(leaf.shape)) * _itemsize(leaf.dtype) for leaf in self.leaves)
        free = shutil.disk_usage(folder).free
        if size > free:
            raise ValueError(
                f"The results of {count} problems take {in_words(size)}, and {in_words(free)} are free on the disk of "
                f"the store {self.url}. Make room, choose another disk, or let `solve` return less."
            )

    def chunk_numbers(self) -> list[int]:
        """The numbers of the chunks that have a row, in order; whether it is sound is not known yet."""
        keys = self._keys(f"{_COMMITS}/c/")
        return sorted(int(key.split("/")[2]) for key in keys if re.fullmatch(rf"{_COMMITS}/c/\d+/\d+", key))

    def rows(self, numbers: Iterable[int]) -> Iterator[tuple[int, np.ndarray | None]]:
        """The rows of chunks; `None` for one that is damaged."""
        for group in _groups(numbers, _AT_ONCE):
            futures = [self.commits[number].read() for number in group]
            for number, future in zip(group, futures, strict=True):
                try:
                    row = np.asarray(future.result())
                except ValueError:
                    row = None
                yield number, row if row is not None and 0 < row[_ROWS] <= self.about["chunk"] else None

    def damage(self, numbers: Iterable[int]) -> dict[int, str]:
        """The chunks, of these, whose arrays are not what was written, and what is wrong with each."""
        wrong = {}
        for number, row in self.rows(numbers):
            if row is None:
                wrong[number] = "its row is damaged"
                continue
            futures = [array[self._range(number, int(row[_ROWS]))].read() for array in self.arrays]
            for leaf, future, expected in zip(self.leaves, futures, row[_FIRST:], strict=True):
                try:
                    if checksum([np.asarray(future.result())]) != expected:
                        wrong[number] = f"the checksum of {leaf.name or 'the array'} differs"
                except ValueError as error:
                    wrong[number] = f"{leaf.name or 'the array'}: {first_line(error)}"
        return wrong

    def problems_checksum(self, number: int) -> int | None:
        """The checksum of the problems of a chunk that is there."""
        ((_, row),) = self.rows([number])
        return None if row is None else int(row[_PROBLEMS])

    def write(self, number: int, problems: int, arrays: list[np.ndarray]) -> None:
        """Write a chunk: its arrays, and then the row that makes it count.

        **Raises:** `OSError` if that fails, the disk being full for instance.
        """
        size = len(arrays[0])
        where = self._range(number, size)
        try:
            futures = [array[where].write(part) for array, part in zip(self.arrays, arrays, strict=True)]
            for future in futures:
                future.result()
            row = np.asarray([size, problems, *(checksum([part]) for part in arrays)], np.uint32)
            self.commits[number].write(row).result()
        except (ValueError, OSError) as error:
            raise OSError(
                f"Cannot write chunk {number} to the store {self.url}: {first_line(error)}. Once it can be written, "
                "the same call of `solve_many` goes on."
            ) from error

    def close(self, count: int) -> None:
        """Record the number of problems, once it is known."""
        if self.about["count"] is None:
            self.about["count"] = count
            chunks = -(-count // self.about["chunk"])
            sizes = [count] * len(self.arrays) + [chunks]
            for array, size in zip([*self.arrays, self.commits], sizes, strict=True):
                # The other dimensions are unchanged.
                array.resize(
                    exclusive_max=[size] + [None] * (array.rank - 1), resize_metadata_only=True, expand_only=False
                ).result()
            self._write_about()

    def _range(self, number: int, size: int) -> slice:
        start = number * self.about["chunk"]
        return slice(start, start + size)

    def _open_arrays(self, create: bool) -> None:
        count, chunk = self.about["count"], self.about["chunk"]
        rows = _UNKNOWN if count is None else count
        # The rows are created first, so that an incomplete store can be recognised as that of a run that was killed.
        shape = (-(-rows // chunk), _FIRST + len(self.leaves))
        self.commits = self._open_array(_COMMITS, "uint32", shape, 1, create).result()
        opened = [self._open_array(leaf.array, leaf.dtype, (rows, *leaf.shape), chunk, create) for leaf in self.leaves]
        self.arrays = [future.result() for future in opened]

    def _open_array(self, name: str, dtype: str, shape: tuple[int, ...], chunk: int, create: bool) -> Any:
        files = self.files.spec().to_json()
        spec = {
            "driver": "zarr3",
            "kvstore": {**files, "path": f"{files['path']}{name}/"},
            # A chunk without a file is an error; it is not read as zeros.
            "fill_missing_data_reads": False,
            "store_data_equal_to_fill_value": True,
        }
        if not create:
            return self.tensorstore.open(spec, open=True)
        spec["metadata"] = {
            "shape": list(shape),
            "data_type": dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [chunk, *(max(1, n) for n in shape[1:])]},
            },
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        }
        # The existing files are those of a run that was killed before it began.
        return self.tensorstore.open(spec, create=True, delete_existing=True)

    def _write_about(self) -> None:
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"jaxinv": self.about}}
        self.files.write("zarr.json", json.dumps(group, indent=1).encode()).result()

    def _read(self, key: str) -> bytes | None:
        found = self.files.read(key).result()
        return found.value if found.state == "value" else None

    def _keys(self, prefix: str) -> list[str]:
        after = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        found = self.files.list(self.tensorstore.KvStore.KeyRange(prefix, after)).result()
        return [key.decode() for key in found]

    def _list_some(self) -> bool:
        if self.files.url.startswith("file:") and not os.path.isdir(self.files.path):
            return False
        return bool(self.files.list().result())


def named(names: Iterable[str]) -> list[str]:
    """Names of Zarr arrays for names of leaves."""
    taken, chosen = {_COMMITS}, []
    for name in names:
        base = re.sub(r"[^A-Za-z0-9._-]", "_", name.removesuffix("._value")).lstrip("._") or "array"
        unique, further = base, 1
        while unique in taken:
            further += 1
            unique = f"{base}-{further}"
        taken.add(unique)
        chosen.append(unique)
    return chosen


def warn_of_damage(store: Store, wrong: dict[int, str]) -> None:
    """Say which chunks are solved again."""
    size = store.about["chunk"]
    shown = [f"chunk {n} (problems from {n * size} on): {why}" for n, why in sorted(wrong.items())[:4]]
    more = f", and {len(wrong) - len(shown)} more" if len(wrong) > len(shown) else ""
    warnings.warn(
        f"The store {store.url} is damaged, and what is damaged is solved again: {'; '.join(shown)}{more}.",
        stacklevel=5,
    )


def _itemsize(dtype: str) -> int:
    import jax.numpy as jnp

    return jnp.dtype(dtype).itemsize


def first_line(error: Exception) -> str:
    # The messages of tensorstore contain the whole specification of an array.
    line = str(error).splitlines()[0]
    return re.split(r" \[(?:tensorstore_spec|source locations|os_error_code)", line)[0].rstrip(".")


def _groups(items: Iterable[int], size: int) -> Iterator[list[int]]:
    group: list[int] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _tensorstore() -> Any:
    try:
        import tensorstore
    except ImportError as error:
        raise ImportError(
            "`store` needs tensorstore: `python -m pip install 'jaxinv[scale]'`, or `pip install tensorstore`."
        ) from error
    return tensorstore
