"""The reader of all formats, and that of pictures; each format has a file beside this one."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .._reading import Checked, as_path
from ._dicom import read_dicom
from ._folder import natural_order, read_folder
from ._hdf5 import read_hdf5
from ._matlab import read_matlab
from ._measurement import Measurement
from ._nifti import read_nifti
from ._numpy import read_npy, read_npz
from ._pictures import read_picture
from ._request import Request
from ._tiff import read_tiff
from ._zarr import is_zarr, read_zarr

_READERS: dict[str, Callable[[Path, Request], Measurement]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".png": read_picture,
    ".jpg": read_picture,
    ".jpeg": read_picture,
    ".tif": read_tiff,
    ".tiff": read_tiff,
    ".dcm": read_dicom,
    ".nii": read_nifti,
    ".nii.gz": read_nifti,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".hdf": read_hdf5,
    ".nxs": read_hdf5,
    ".mat": read_matlab,
}
# A folder may hold many files of these kinds, which are one array.
_SLICES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".npy")


def read(
    path: Checked[str | os.PathLike[str]],
    *,
    dataset: Checked[str | None] = None,
    select: Checked[Mapping[str, int] | None] = None,
    max_bytes: Checked[int | None] = None,
) -> Measurement:
    """Read a measurement or an image from a file of any format that scanners and cameras write.

    | file | what is read |
    |---|---|
    | `.tif`, `.tiff` | the first series, also of ImageJ and OME, with the size of a pixel |
    | `.dcm` | the pixels after slope and intercept, with the size of a pixel and the place in the patient |
    | `.nii`, `.nii.gz` | the array, `(slice, row, column)`, with the size of a voxel and the affine map |
    | `.h5`, `.hdf5`, `.nxs` | Data Exchange and NeXus: projections, flat and dark frames, angles; others by `dataset` |
    | `.mat` | an array of version 5 or 7.3 |
    | `.npy`, `.npz` | an array, in an archive with `angles`, `flat` and `dark` if they are there |
    | `.zarr`, a folder | an array of version 2 or 3, of OME-Zarr the finest |
    | `.png`, `.jpg` | a picture of 8 or 16 bits; palettes become colours, EXIF's orientation is applied |
    | a folder | its TIFF, DICOM, PNG, JPEG or `.npy` files as slices of one array, in the order of their numbers |

    Nothing in a file is executed, files that it refers to are not opened, and its size is checked before memory is
    taken. Each format needs its library, which the extra holds: `python -m pip install "jaxinv[files]"`.

    **Arguments:**

    - `path`: the path of a file, or of a folder.
    - `dataset`: the name of the array, if the file holds several and it is not plain which is meant, such as
      `"entry/data/data"`.
    - `select`: one entry of some axes, such as `{"slice": 12}`: only it is read, where the format allows, and the axis
      keeps one entry.
    - `max_bytes`: the most memory that the array may take; by default 8 GiB, and 1100 times the size of the file, the
      largest ratio of the compression methods in use.

    **Returns:** a `Measurement`.

    **Raises:** `ValueError` that names the file and its fault, or the extra that holds the missing library.

    !!! example
        ```python
        import os, tempfile
        import numpy as np
        from jaxinv import io
        path = os.path.join(tempfile.mkdtemp(), "scan.npz")
        np.savez(path, sinogram=np.ones((6, 8)), angles=np.linspace(0, np.pi, 6, endpoint=False))
        measured = io.read(path)
        print(measured.values.shape, measured.axes)  # (6, 8) ('angle', 'detector')
        ```
    """
    return _read(path, Request(_named(dataset), _entries(select), _checked(max_bytes)))


def peek(
    path: Checked[str | os.PathLike[str]],
    *,
    dataset: Checked[str | None] = None,
    select: Checked[Mapping[str, int] | None] = None,
) -> Measurement:
    """What `read` would return, with zeros that take no memory for its values: only the header is read."""
    return _read(path, Request(_named(dataset), _entries(select), headers=True))


def read_image(
    path: Checked[str | os.PathLike[str]],
    *,
    dataset: Checked[str | None] = None,
    index: Checked[int | None] = None,
    max_bytes: Checked[int | None] = None,
) -> np.ndarray:
    """Read one image from a file of any format that `read` knows.

    **Arguments:**

    - `path`, `dataset`, `max_bytes`: as for `read`.
    - `index`: the number of the slice, from 0, if the file holds several.

    **Returns:** the image, float32, of shape `(h, w, c)`, with one or three channels; its values are in [0, 1] if the
    file holds 8 or 16 bits without sign and no unit, and otherwise those of the file (Hounsfield units, for example).

    **Raises:** `ValueError` that names the file, if it holds no such image, several and no `index` is given, or values
    that are not finite.

    !!! example
        ```python
        import os, tempfile
        import numpy as np
        from jaxinv import io
        path = os.path.join(tempfile.mkdtemp(), "volume.npy")
        np.save(path, np.full((5, 8, 9), 255, np.uint8))
        image = io.read_image(path, index=2)  # (8, 9, 1), all ones
        ```
    """
    if index is not None and not _is_integer(index):
        raise ValueError(f"`index` must be the number of a slice, an integer; got {index!r}.")
    request = Request(_named(dataset), {} if index is None else {"slice": int(index)}, _checked(max_bytes))
    return as_image(_read(path, request), path)


def as_image(measured: Measurement, path: Checked[str | os.PathLike[str]]) -> np.ndarray:
    """The values of a measurement as one image, `(h, w, c)`, in [0, 1] if they have 8 or 16 bits and no unit."""
    values, axes = measured.values, list(measured.axes)
    for name in [name for name in axes if name not in ("row", "column", "channel", "angle", "detector")]:
        axis = axes.index(name)
        if values.shape[axis] != 1:
            raise ValueError(
                f"{path} holds {values.shape[axis]} images along its axis {name!r}: name one of them (its number, from "
                "0, as `index` or --slice)."
            )
        values = np.squeeze(values, axis)
        axes.remove(name)
    values = np.moveaxis(values, axes.index("channel"), -1) if "channel" in axes else values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4):
        raise ValueError(f"{path} should hold an image with one or three channels; its values have {values.shape}.")
    values = values[..., :3] if values.shape[2] == 4 else values
    if values.dtype.kind == "c" or not np.isfinite(values).all():
        what = f"{values.dtype}" if values.dtype.kind == "c" else f"{np.sum(~np.isfinite(values))} non-finite values"
        raise ValueError(f"{path} should hold integers or finite floating values; it has {what}.")
    bits = values.dtype in (np.uint8, np.uint16) and not measured.unit
    image = values.astype(np.float32)
    if not np.isfinite(image).all():
        raise ValueError(f"{path} holds values up to {np.abs(values).max():.3g}, too large for single precision.")
    return image / np.float32(np.iinfo(values.dtype).max) if bits else image


def suffix_of(path: Path) -> str:
    """The suffix by which the format is known."""
    lowered = path.name.lower()
    return ".nii.gz" if lowered.endswith(".nii.gz") else os.path.splitext(lowered)[1]


def slices_of(path: Path) -> list[Path]:
    """The files of a folder that are pictures or slices, of one suffix, in the order of their numbers.

    **Raises:** `ValueError` if there are none, or of several kinds.
    """
    files = [child for child in path.iterdir() if child.is_file() and suffix_of(child) in _SLICES]
    kinds = sorted({_READERS[suffix_of(child)].__name__ for child in files})
    if len(kinds) != 1:
        found = "files of several formats" if kinds else f"none of {', '.join(_SLICES)}"
        raise ValueError(f"The folder {path} should hold slices or pictures of one format; it holds {found}.")
    return sorted(files, key=natural_order)


def _read(path: Any, request: Request) -> Measurement:
    path = as_path(path, "a file or a folder")
    if not path.exists():
        raise ValueError(f"There is no file {path}.")
    if path.is_dir():
        if is_zarr(path):
            return read_zarr(path, request)
        files = slices_of(path)
        return read_folder(path, files, request, _READERS[suffix_of(files[0])])
    reader = _READERS.get(suffix_of(path))
    if reader is None or not path.is_file():
        raise ValueError(f"{path} is of no format that is read here: {', '.join(_READERS)}, or a folder of slices.")
    return reader(path, request)


def _checked(max_bytes: Any) -> int | None:
    if max_bytes is not None and (not _is_integer(max_bytes) or max_bytes < 1):
        raise ValueError(f"`max_bytes` must be a number of bytes, an integer of at least 1; got {max_bytes!r}.")
    return None if max_bytes is None else int(max_bytes)


def _named(dataset: Any) -> str | None:
    if not (dataset is None or isinstance(dataset, str)):
        raise ValueError(f"`dataset` must be the name of an array in the file; got {dataset!r}.")
    return dataset


def _entries(select: Any) -> dict[str, int]:
    if select is None:
        return {}
    if not isinstance(select, Mapping) or not all(_is_integer(entry) for entry in select.values()):
        raise ValueError(
            f"`select` must name the number of one entry for some axes, such as {{'slice': 12}}; got {select!r}."
        )
    return {name: int(entry) for name, entry in select.items()}


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
