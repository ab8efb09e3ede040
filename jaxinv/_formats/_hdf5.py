"""The reader of HDF5: the layouts Data Exchange and NeXus, MATLAB 7.3, and any other file by the name of a data set."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from .._reading import Refused, needing, reading
from ._entries import Entry, Roles, measured_from, roles_of
from ._measurement import Measurement
from ._request import Request

_EXCHANGE = "exchange/"
# The reader lists at most so many data sets of a file.
_MOST_SETS = 2000
_MILLIMETRES = {"m": 1e3, "metre": 1e3, "meter": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "nm": 1e-6}
# The paths at which the two layouts store the size of a detector pixel.
_PIXELS = (
    "measurement/instrument/detector/pixel_size_x",
    "measurement/instrument/detector/actual_pixel_size_x",
    "instrument/detector/x_pixel_size",
)
# NeXus has a number for each frame: it shows the object, or is a flat or a dark one.
_OBJECT, _FLAT, _DARK = 0, 1, 2


def read_hdf5(path: Path, request: Request, *, matlab: bool = False) -> Measurement:
    """A data set of an HDF5 file, with flat, dark and angles if its layout is known."""
    with needing("h5py", "Reading an HDF5 file"):
        import h5py

    with reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
        entries, sets = _entries(file, h5py, matlab)
        if matlab:
            return measured_from(entries, roles_of(entries, request), request, format="MATLAB")
        spacing = _pixel_size(sets)
        if request.dataset is None and "exchange/data" in entries:
            present = lambda name: _EXCHANGE + name if _EXCHANGE + name in entries else None
            roles = Roles("exchange/data", present("data_white"), present("data_dark"), present("theta"))
            measured = measured_from(entries, _unit(roles, sets), request, format="HDF5, Data Exchange")
            return _spaced(measured, spacing)
        keys = next((name for name in sets if name.rpartition("/")[2] == "image_key"), None)
        if request.dataset is None and keys is not None:
            return _spaced(_nexus(entries, sets, keys, request), spacing)
        # In other layouts, data sets belong together by their names only if they are in one group, or in the root.
        chosen = roles_of(entries, request)
        return measured_from(entries, _unit(chosen, sets), request, format="HDF5")


def _entries(file: Any, h5py: Any, matlab: bool) -> tuple[dict[str, Entry], dict[str, Any]]:
    """The data sets of numbers, which are in the file itself; links to other files are not followed."""
    sets: dict[str, Any] = {}

    def visit(name: str, found: Any) -> bool | None:
        if isinstance(found, h5py.Dataset):
            sets[name] = found
        return True if len(sets) > _MOST_SETS else None

    file.visititems(visit)
    entries = {}
    for name, found in sets.items():
        if found.dtype.kind not in "biufc" or not found.shape or name.startswith("#"):
            continue
        stored = found.id.get_storage_size()
        if found.external or found.is_virtual:
            load = _refuse(name)
        elif matlab:
            load = lambda index, found=found: np.asarray(found[index[::-1]]).T
        else:
            load = lambda index, found=found: found[index]
        shape = found.shape[::-1] if matlab else found.shape
        entries[name] = Entry(shape, found.dtype, stored, load)
    return entries, sets


def _refuse(name: str) -> Any:
    def load(index: Any) -> Any:
        raise Refused(f"its data set {name} lies in other files, which are not opened. Copy it into one file.")

    return load


def _nexus(entries: dict[str, Entry], sets: dict[str, Any], keys: str, request: Request) -> Measurement:
    """The projections of NXtomo, where flat and dark frames stand among those of the object."""
    frames = entries[keys].shape
    named = [name for name, entry in entries.items() if len(entry.shape) == 3 and entry.shape[:1] == frames]
    data = min((name for name in named if name.rpartition("/")[2] == "data"), default=named[0] if named else None)
    if data is None:
        raise Refused(f"it has {keys}, and no data set of {frames[0]} frames beside it.")
    angles = next((name for name in entries if name.rpartition("/")[2] == "rotation_angle"), None)
    key = np.asarray(sets[keys][()]).reshape(-1)
    if "angle" in request.select:
        raise Refused("projections of a NeXus file are not selected by `angle`, since flat frames are among them.")
    roles = _unit(Roles(data, angles=angles), sets)
    if angles is None or entries[angles].shape != frames:
        raise Refused(f"it has no rotation_angle for each of the {frames[0]} frames of {data}.")
    measured = measured_from(entries, roles, request, format="HDF5, NeXus")
    if request.headers:
        count = int(np.sum(key == _OBJECT))
        zeros = np.broadcast_to(measured.values[:1], (count, *measured.values.shape[1:]))
        flat = measured.values[:1] if np.any(key == _FLAT) else None
        return dataclasses.replace(measured, values=zeros, angles=np.zeros(count), flat=flat)
    part = lambda which: measured.values[key == which] if np.any(key == which) else None
    values, turned = part(_OBJECT), measured.angles
    if values is None or turned is None:
        raise ValueError(f"{keys} says that no frame shows the object")
    return dataclasses.replace(
        measured, values=values, angles=turned[key == _OBJECT], flat=part(_FLAT), dark=part(_DARK)
    )


def _unit(roles: Roles, sets: dict[str, Any]) -> Roles:
    """The roles with the unit of the angles: what the file says, or else degrees, as both layouts have them."""
    if roles.angles is None:
        return roles
    unit = _text(sets[roles.angles].attrs.get("units", "deg"))
    return dataclasses.replace(roles, radians=unit.startswith("rad"))


def _pixel_size(sets: dict[str, Any]) -> float | None:
    """The pitch of the detector in mm, if the file has it with a unit that is known."""
    for name, found in sets.items():
        if name.endswith(_PIXELS) and found.size == 1 and found.dtype.kind in "iuf":
            factor = _MILLIMETRES.get(_text(found.attrs.get("units", "")))
            value = float(np.asarray(found[()]).reshape(()))
            if factor is not None and 0 < value * factor < 1e4:
                return value * factor
    return None


def _spaced(measured: Measurement, pixel: float | None) -> Measurement:
    if pixel is None:
        return measured
    return dataclasses.replace(measured, spacing=tuple(None if axis == "angle" else pixel for axis in measured.axes))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
