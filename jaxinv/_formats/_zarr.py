"""The reader of Zarr, versions 2 and 3, through tensorstore."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from .._reading import Refused, needing, reading
from ._entries import Entry, measured_from, roles_of
from ._measurement import Measurement
from ._request import Request

_MARKS = (".zarray", "zarr.json", ".zgroup")
# The metadata of an array fill about a page, and a group with more members than this is not a measurement.
_LARGEST_METADATA, _MOST_MEMBERS, _MOST_FILES = 2**20, 1000, 10**6


def is_zarr(path: Path) -> bool:
    """Whether a folder is an array or a group of Zarr."""
    return path.suffix == ".zarr" or any((path / mark).is_file() for mark in _MARKS)


def read_zarr(path: Path, request: Request) -> Measurement:
    """The array in a folder of Zarr, or one of a group: for OME-Zarr the finest."""
    with needing("tensorstore", "Reading Zarr"):
        import tensorstore

    with reading(path, "an array or a group of Zarr"):
        members = [path] if _is_array(path) else [child for child in sorted(path.iterdir()) if _is_array(child)]
        if len(members) > _MOST_MEMBERS:
            raise ValueError(f"it has {len(members)} members")
        # OME-Zarr has the same image at several resolutions, the finest of which is called 0.
        named = {child.name: child for child in members}
        if request.dataset is None and "0" in named and all(name.isdecimal() for name in named):
            members = [named["0"]]
        entries = {}
        for child in members:
            store: Any = tensorstore.open(_spec(child), open=True, read=True).result()
            if np.dtype(store.dtype.numpy_dtype).kind in "biufc":
                load = lambda index, store=store: np.asarray(store[index].read().result())
                entries[child.name] = Entry(tuple(store.shape), np.dtype(store.dtype.numpy_dtype), _stored(child), load)
        return measured_from(entries, roles_of(entries, request), request, format="Zarr")


def _spec(path: Path) -> dict[str, Any]:
    driver = "zarr" if (path / ".zarray").is_file() else "zarr3"
    return {"driver": driver, "kvstore": {"driver": "file", "path": str(path.resolve()) + "/"}}


def _is_array(path: Path) -> bool:
    if (path / ".zarray").is_file():
        return True
    metadata = path / "zarr.json"
    if not metadata.is_file():
        return False
    if metadata.stat().st_size > _LARGEST_METADATA:
        raise Refused(f"{metadata.name} has {metadata.stat().st_size} bytes, which are no description of an array.")
    described = json.loads(metadata.read_text())
    return isinstance(described, dict) and described.get("node_type") == "array"


def _stored(path: Path) -> int:
    """The bytes of the files of an array."""
    total = 0
    for count, file in enumerate(path.rglob("*")):
        if count > _MOST_FILES:
            break
        total += file.stat().st_size if file.is_file() else 0
    return total
