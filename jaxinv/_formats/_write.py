"""The writer of images and measurements, in the format that the name of the file says."""

import gzip
import math
import os
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np

from .._reading import Checked, as_path, needing
from .._writing import write_bytes
from ._measurement import Measurement
from ._read import suffix_of
from ._request import image_axes


def write(
    path: Checked[str | os.PathLike[str]],
    image: Checked[np.ndarray | Measurement],
    *,
    spacing: Checked[float | tuple[float, ...] | None] = None,
) -> None:
    """Write an image, a stack of images or a measurement to a file, whole or not at all.

    The name says the format: `.npy`, `.npz`, `.tif`, `.nii`, `.nii.gz`, `.h5` or `.png`. Values stay as they are, in
    the same precision, except in a PNG, which holds images with values in [0, 1], in 16 bits if they are grey and in 8
    bits if they are not. What the format can hold of a `Measurement` is kept: `.npz` and `.h5` (in the layout Data
    Exchange, or `image` for what is no projection) keep angles, flat and dark frames, and NIfTI and TIFF the sizes of
    pixels.

    **Arguments:**

    - `path`: the path of the file, whose folder must exist.
    - `image`: an array `(h, w)`, `(h, w, c)`, `(slices, h, w)`, or a `Measurement`.
    - `spacing`: the size of a pixel in mm, one number or one for each axis; by default what a `Measurement` knows.

    **Raises:** `ValueError` if the format is none of these, cannot hold such an array, or the file cannot be written;
    `OSError` if the disk is full.

    !!! example
        ```python
        import os, tempfile
        import numpy as np
        from jaxinv import io
        path = os.path.join(tempfile.mkdtemp(), "image.npy")
        io.write(path, np.ones((8, 8, 1), np.float32))
        ```
    """
    path = as_path(path, "the file to write")
    suffix = suffix_of(path)
    if suffix not in _WRITERS:
        raise ValueError(f"{path} names no format that is written here: {', '.join(_WRITERS)}.")
    values = np.asarray(image.values if isinstance(image, Measurement) else image)
    if values.dtype.kind not in "biufc" or not values.size or not values.ndim:
        raise ValueError(f"An array of numbers is expected; got {values.dtype} of shape {values.shape}.")
    measured = image if isinstance(image, Measurement) else _as_measurement(values)
    sizes = measured.spacing if spacing is None else _sizes(spacing, values.ndim)
    by_name = {name: size for name, size in zip(measured.axes, sizes or (), strict=False) if size}
    write_bytes(path, _WRITERS[suffix](measured, by_name))


def _sizes(spacing: Any, ndim: int) -> tuple[float | None, ...]:
    """The size of a pixel along each axis.

    **Raises:** `ValueError` for what is no length.
    """
    several = isinstance(spacing, tuple | list) or (isinstance(spacing, np.ndarray) and spacing.ndim > 0)
    sizes: tuple[Any, ...] = tuple(spacing) if several else (spacing,) * ndim
    is_length = lambda size: isinstance(size, int | float | np.integer | np.floating) and not isinstance(size, bool)
    if len(sizes) != ndim or not all(size is None or (is_length(size) and 0 < size < math.inf) for size in sizes):
        raise ValueError(
            f"`spacing` must be a positive number of mm, or {ndim} of them, one for each axis; got {spacing!r}."
        )
    return tuple(None if size is None else float(size) for size in sizes)


def _as_measurement(values: np.ndarray) -> Measurement:
    if values.ndim > 2 and values.shape[-1] in (1, 3) and values.ndim <= 4:
        before = ("slice",) if values.ndim == 4 else ()
        return Measurement(values, (*before, "row", "column", "channel"))
    return Measurement(values, image_axes(values.shape))


def _without_channel(measured: Measurement) -> tuple[np.ndarray, tuple[str, ...]]:
    """The values and their axes without a last axis of one channel."""
    if measured.axes[-1] == "channel" and measured.values.shape[-1] == 1:
        return measured.values[..., 0], measured.axes[:-1]
    return measured.values, measured.axes


def _npy(measured: Measurement, sizes: dict[str, float]) -> bytes:
    return _stored(lambda stored: np.save(stored, measured.values, allow_pickle=False))


def _npz(measured: Measurement, sizes: dict[str, float]) -> bytes:
    named = {"data": measured.values, "angles": measured.angles, "flat": measured.flat, "dark": measured.dark}
    arrays = {name: value for name, value in named.items() if value is not None}
    return _stored(lambda stored: np.savez(stored, **arrays))


def _tiff(measured: Measurement, sizes: dict[str, float]) -> bytes:
    with needing("tifffile", "Writing a TIFF file"):
        import tifffile

    values, axes = _without_channel(measured)
    if values.dtype.kind == "c":
        raise ValueError("A TIFF is read by few programs if its values are complex: write an .npy, or real arrays.")
    if values.ndim < 2 or values.dtype.itemsize > 8:
        raise ValueError(f"A TIFF holds images of up to 64 bits; got {values.dtype} of {values.shape}: write an .npy.")
    values = values.astype(np.float32) if values.dtype == np.float64 else values
    colour = axes[-1] == "channel" and values.shape[-1] == 3
    options = {}
    if "column" in sizes and "row" in sizes:
        options = {"resolution": (10 / sizes["column"], 10 / sizes["row"]), "resolutionunit": "CENTIMETER"}
    photometric = "rgb" if colour else "minisblack"
    return _stored(lambda stored: tifffile.imwrite(stored, values, photometric=photometric, **options))


def _nifti(measured: Measurement, sizes: dict[str, float]) -> bytes:
    with needing("nibabel", "Writing a NIfTI file"):
        import nibabel

    values, axes = _without_channel(measured)
    if values.ndim > 4 or "channel" in axes:
        raise ValueError(f"A NIfTI file holds grey images and volumes; got an array of shape {measured.values.shape}.")
    if values.dtype in (np.longdouble, np.clongdouble):
        raise ValueError(f"A NIfTI file holds numbers of up to 64 bits; got {values.dtype}: write an .npy.")
    values = values.astype({"bool": np.uint8, "float16": np.float32}.get(values.dtype.name, values.dtype))
    affine = measured.affine
    if affine is None or measured.format != "NIfTI":
        affine = np.diag([*(sizes.get(name, 1.0) for name in ("column", "row", "slice")), 1.0])
    kind = {np.dtype(np.int64), np.dtype(np.uint64)}
    image = nibabel.Nifti1Image(values.T, affine, dtype=values.dtype if values.dtype in kind else None)
    image.header.set_xyzt_units("mm")
    return image.to_bytes()


def _hdf5(measured: Measurement, sizes: dict[str, float]) -> bytes:
    with needing("h5py", "Writing an HDF5 file"):
        import h5py

    file = BytesIO()
    with h5py.File(file, "w") as store:
        if measured.angles is None:
            written = store.create_dataset("image", data=measured.values)
            for name, size in sizes.items():
                written.attrs[f"spacing_{name}"] = size
            written.attrs["units"] = measured.unit
            return _closed(store, file)
        store["exchange/data"] = measured.values
        store["exchange/theta"] = np.rad2deg(measured.angles)
        store["exchange/theta"].attrs["units"] = "deg"
        for name, frames in (("data_white", measured.flat), ("data_dark", measured.dark)):
            if frames is not None:
                store[f"exchange/{name}"] = frames
        if "detector" in sizes:
            store["measurement/instrument/detector/pixel_size_x"] = sizes["detector"]
            store["measurement/instrument/detector/pixel_size_x"].attrs["units"] = "mm"
        return _closed(store, file)


def _closed(store, file: BytesIO) -> bytes:
    store.close()
    return file.getvalue()


def _png(measured: Measurement, sizes: dict[str, float]) -> bytes:
    with needing("pillow", "Writing a PNG"):
        from PIL import Image

    values, _ = _without_channel(measured)
    if values.dtype.kind == "c" or values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3):
        raise ValueError(f"A PNG holds one image, grey or of three colours; got {values.dtype} of {values.shape}.")
    if values.dtype not in (np.uint8, np.uint16):
        if not (np.min(values) >= 0 and np.max(values) <= 1):
            raise ValueError(
                f"A PNG holds values in [0, 1], or of 8 or 16 bits; got {np.min(values):.4g} to {np.max(values):.4g}. "
                "Map them to [0, 1] first, or write a TIFF."
            )
        most = 65535 if values.ndim == 2 else 255
        values = np.round(values.astype(np.float64) * most).astype(np.uint16 if most > 255 else np.uint8)
    if values.ndim == 3 and values.dtype == np.uint16:
        raise ValueError("A PNG of colours is written in 8 bits: divide by 65535, or write a TIFF.")
    return _stored(lambda stored: Image.fromarray(np.ascontiguousarray(values)).save(stored, format="PNG"))


def _stored(save: Callable[[BytesIO], object]) -> bytes:
    file = BytesIO()
    save(file)
    return file.getvalue()


_WRITERS: dict[str, Callable[[Measurement, dict[str, float]], bytes]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".tif": _tiff,
    ".tiff": _tiff,
    ".nii": _nifti,
    # Without a time the same image gives the same bytes.
    ".nii.gz": lambda measured, sizes: gzip.compress(_nifti(measured, sizes), mtime=0),
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".png": _png,
}
