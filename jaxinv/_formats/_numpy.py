"""The readers of the files that `numpy.save` and `numpy.savez` write; pickled objects are refused."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .._reading import map_array, reading
from ._entries import Entry, measured_from, roles_of
from ._measurement import Measurement
from ._request import Index, Request, image_axes

# An archive of more arrays than this is not a measurement.
_MOST_MEMBERS = 10_000


def read_npy(path: Path, request: Request) -> Measurement:
    """The array of a .npy file."""
    with reading(path, "an array written by `numpy.save`"):
        mapped = map_array(path)
        axes = image_axes(mapped.shape)
        load = lambda index: np.asarray(mapped[index])
        return Measurement(
            request.values(mapped.shape, mapped.dtype, axes, path.stat().st_size, load), axes, format="npy"
        )


def read_npz(path: Path, request: Request) -> Measurement:
    """An array of a .npz file, with flat, dark and angles if it holds arrays of those names."""
    with reading(path, "an archive written by `numpy.savez`"), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > _MOST_MEMBERS:
            raise ValueError(f"it holds {len(members)} members")
        entries = {}
        for member in members:
            entry = _entry(archive, member, path) if member.filename.endswith(".npy") else None
            if entry is not None:
                entries[member.filename.removesuffix(".npy")] = entry
        return measured_from(entries, roles_of(entries, request), request, format="npz")


def _entry(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> Entry | None:
    """What the header of a member says; `None` if it holds no numbers."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version](file)
    shape, _, dtype = header
    if dtype.kind not in "biufc":
        return None
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > member.file_size:
        raise ValueError(f"{member.filename} is shorter than its header says")

    def load(index: Index) -> Any:
        with archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)[index]

    return Entry(shape, dtype, min(member.compress_size, path.stat().st_size), load)
