"""The choice among the arrays of a file that holds several: HDF5, MATLAB, .npz, groups of Zarr."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .._reading import Refused
from ._measurement import Measurement
from ._request import Index, Request, image_axes

# The usual names of such arrays; the reader takes the first one that exists.
_DATA = ("data", "values", "sinogram", "projections", "y", "image", "images", "x", "volume", "arr_0")
_FLAT = ("flat", "flats", "white", "data_white", "flat_field")
_DARK = ("dark", "darks", "data_dark", "dark_field")
_ANGLES = ("angles", "theta", "rotation_angle")
_SHOWN = 12
# Angles beyond a turn, with a margin for rounding, are in degrees.
_TURN = 6.3


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of a file: what its header says, and the function that reads it at an index."""

    shape: tuple[int, ...]
    dtype: np.dtype
    stored: int
    load: Callable[[Index], Any]
    copies: int = 1

    def read(self, request: Request, axes: tuple[str, ...]) -> np.ndarray:
        return request.values(self.shape, self.dtype, axes, self.stored, self.load, self.copies)


@dataclasses.dataclass(frozen=True)
class Roles:
    """The entries by their roles. `radians` says whether the angles are in radians; with `None` their size decides."""

    data: str
    flat: str | None = None
    dark: str | None = None
    angles: str | None = None
    radians: bool | None = None


def roles_of(entries: Mapping[str, Entry], request: Request) -> Roles:
    """The roles of entries, by their names.

    **Raises:** `Refused`, which lists the entries, if it is not plain which is meant.
    """
    first = lambda names: next((name for name in names if name in entries), None)
    flat, dark, angles = first(_FLAT), first(_DARK), first(_ANGLES)
    names = list(entries)
    if request.dataset is not None:
        if request.dataset not in entries:
            raise Refused(f"it holds no array of numbers {request.dataset!r}; it holds {_listed(names)}.")
        return Roles(request.dataset, flat, dark, angles)
    others = [name for name in names if name not in (flat, dark, angles)]
    large = [name for name in others if len(entries[name].shape) >= 2]
    chosen = next((name for name in _DATA if name in large), None)
    if chosen is None:
        candidates = large or others
        if len(candidates) != 1:
            raise Refused(f"name one of its arrays by `dataset`; it holds {_listed(names)}.")
        (chosen,) = candidates
    return Roles(chosen, flat, dark, angles)


def measured_from(entries: Mapping[str, Entry], roles: Roles, request: Request, **known: Any) -> Measurement:
    """The measurement whose parts are the entries with these roles.

    Entries of angles that do not fit the data play no role, and with `request.headers` their values are not read.
    """
    data = entries[roles.data]
    angles = None if roles.angles is None else entries[roles.angles]
    if len(data.shape) not in (2, 3) or angles is None or angles.shape not in (data.shape[:1], (data.shape[0], 1)):
        return Measurement(data.read(request, image_axes(data.shape)), image_axes(data.shape), **known)
    axes = ("angle", "detector") if len(data.shape) == 2 else ("angle", "slice", "detector")
    values = data.read(request, axes)
    turned = angles.read(request._replace(select={}), ("angle",) * len(angles.shape)).astype(np.float64).reshape(-1)
    if not np.isfinite(turned).all():
        raise ValueError(f"{roles.angles} holds angles that are not finite")
    radians = roles.radians if roles.radians is not None else bool(np.max(np.abs(turned)) <= _TURN)
    turned = turned if radians else np.deg2rad(turned)
    if "angle" in request.select:
        turned = turned[request.select["angle"]][None]
    frames = {}
    for name in ("flat", "dark"):
        role = getattr(roles, name)
        if role is not None:
            frame = entries[role]
            if frame.shape[-(len(axes) - 1) :] != data.shape[1:] or len(frame.shape) not in (len(axes), len(axes) - 1):
                raise Refused(
                    f"{role} has the shape {frame.shape}, which is not of frames of {roles.data}, {data.shape}."
                )
            named = ("frame", *axes[1:])[-len(frame.shape) :]
            within = {axis: k for axis, k in request.select.items() if axis in axes[1:]}
            frames[name] = frame.read(request._replace(select=within), named)
    return Measurement(values, axes, angles=turned, **frames, **known)


def _listed(names: list[str]) -> str:
    more = "" if len(names) <= _SHOWN else f", and {len(names) - _SHOWN} more"
    return ", ".join(names[:_SHOWN]) + more if names else "none"
