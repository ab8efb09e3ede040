"""The reader of MATLAB files, of version 5 and of version 7.3, which is HDF5."""

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from .._reading import reading
from ._entries import Entry, measured_from, roles_of
from ._measurement import Measurement
from ._request import MOST, Index, Request

# The types of the elements of a MATLAB file of version 5.
_MATRIX, _COMPRESSED = 14, 15
_CLASSES = {
    "double": "f8",
    "single": "f4",
    "logical": "?",
    **{f"{sign}int{8 * n}": f"{sign or 'i'}{n}" for sign in ("u", "") for n in (1, 2, 4, 8)},
}


def read_matlab(path: Path, request: Request) -> Measurement:
    """The arrays of numbers in a .mat file; structures, cells, text and functions are not read."""
    with reading(path, "a MATLAB file"):
        with path.open("rb") as file:
            is_hdf5 = file.read(520)[512:] == b"\x89HDF\r\n\x1a\n"
        if is_hdf5:
            from ._hdf5 import read_hdf5

            return read_hdf5(path, request, matlab=True)
        return _read_version_5(path, request)


def _read_version_5(path: Path, request: Request) -> Measurement:
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadWarning

    stored = path.stat().st_size
    with warnings.catch_warnings():
        warnings.simplefilter("error", MatReadWarning)
        check_elements(path.read_bytes(), request.max_bytes or min(MOST, 1100 * stored))

        def load(name: str, index: Index) -> Any:
            found = loadmat(path, variable_names=[name])[name]
            if not isinstance(found, np.ndarray):
                raise ValueError(f"{name} is no full array")
            return found[index]

        entries = {}
        for name, shape, kind in whosmat(path):
            if kind in _CLASSES and len(shape) >= 2:
                entry = Entry(shape, np.dtype(_CLASSES[kind]), stored, lambda index, name=name: load(name, index))
                entries[name] = _flat_vector(entry)
        return measured_from(entries, roles_of(entries, request), request, format="MATLAB")


def _flat_vector(entry: Entry) -> Entry:
    """MATLAB has no vectors: a row or a column of several numbers is one."""
    if len(entry.shape) != 2 or min(entry.shape) != 1 or max(entry.shape) == 1:
        return entry
    count, load = max(entry.shape), entry.load
    whole = tuple(slice(0, n) for n in entry.shape)
    return Entry((count,), entry.dtype, entry.stored, lambda index: np.reshape(load(whole), -1)[index])


def check_elements(raw: bytes, most: int) -> None:
    """Raise a `ValueError` or `zlib.error` unless the elements of this MATLAB file of version 5 are intact,
    and take no more than `most` bytes once they are unpacked.

    scipy's reader ignores the checksums of compressed variables, and
    damage can make it crash the process.
    """
    order = {b"IM": "<", b"MI": ">"}.get(raw[126:128])
    if raw[512:520] == b"\x89HDF\r\n\x1a\n":
        raise ValueError("it is of MATLAB 7.3, and is read as one of version 5; `save -v7` makes one")
    if order is None:
        raise ValueError("the header of a MATLAB file of version 5 is not there")
    position, room = 128, most
    while position < len(raw):
        if len(raw) < position + 8:
            raise ValueError("the file ends within a tag")
        kind, count = struct.unpack_from(f"{order}2I", raw, position)
        position += 8
        if kind not in (_MATRIX, _COMPRESSED) or position + count > len(raw):
            raise ValueError(f"the element at byte {position - 8} is none, or goes beyond the end of the file")
        if kind == _COMPRESSED:
            room -= _unpacked(raw[position : position + count], room)
        position += count
    if position == 128:
        raise ValueError("it holds no variable")


def _unpacked(packed: bytes, room: int) -> int:
    """The number of bytes of a compressed variable, which is unpacked and checked piece by piece."""
    stream, count = zlib.decompressobj(), 0
    while not stream.eof:
        piece = stream.decompress(packed, 1 << 20)
        packed = stream.unconsumed_tail
        count += len(piece)
        if count > room:
            raise ValueError("its variables have more bytes than any file of its kind, once they are unpacked")
        if not piece and not stream.eof:
            raise ValueError("a compressed variable is truncated")
    return count
