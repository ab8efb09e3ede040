"""The description of an operator, on the command line or in a TOML file, and the check that it fits the measured file.

Nothing here needs JAX, and only headers of files are read, so that a wrong argument is said at once.
"""

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._formats import Measurement, peek, read, read_image

Shape = tuple[int, ...]
# The entries that each kind of operator takes; the first one may follow the name, as in `blur:2.5`.
KINDS: dict[str, tuple[str, ...]] = {
    "identity": (),
    "mask": ("file",),
    "blur": ("width", "file", "boundary"),
    "downsample": ("factor",),
    "parallel": ("angles", "offset", "every", "size"),
    "fan": ("angles", "source", "detector", "offset", "every", "size"),
    "fourier": ("file",),
    "matrix": ("file", "shape"),
}
SCANS = ("parallel", "fan")
_NUMBERS = ("width", "source", "detector", "offset")
_COUNTS = ("factor", "every", "size")
# Without `--size` the image of a scan has at most so many pixels on a side.
_SIZE = 256
# The largest length in pixels, the largest number of angles, of pixels on a side and factor, and the most pixels.
_LARGEST, _MOST, _MOST_PIXELS = 1e9, 100_000, 2**27
# A kernel that reaches so many deviations to each side holds 99.7 % of the blur.
_REACH = 3.0


class Spec(NamedTuple):
    """An operator that the user describes.

    - `kind`: a key of `KINDS`.
    - `values`: what is said of it: paths, numbers, and angles in degrees: `(start, stop, count or None)`, a path or
      a list.
    """

    kind: str
    values: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)


class Choice(NamedTuple):
    """The part of a file that is measured: `dataset` and `slice` as on the command line."""

    file: Path
    dataset: str | None
    slice: int | None
    flat: Path | None
    dark: Path | None


class Fitted(NamedTuple):
    """A measurement and an operator that fit each other, by their headers.

    - `domain`: the shape of the image, `(h, w, c)`.
    - `select`: the slice that is read, of the axis by its name.
    - `note`: what was chosen for the user, to be printed.
    """

    domain: Shape
    select: dict[str, int]
    note: str


def parse(text: str) -> Spec:
    """An operator from `KIND`, `KIND:VALUE`, or the name of a TOML file.

    **Raises:** `ValueError` that says what is allowed.
    """
    if text.lower().endswith(".toml"):
        return _of_toml(Path(text))
    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        raise ValueError(f"--operator {text}: {kind!r} is none of {', '.join(KINDS)}, nor a .toml file.")
    values: dict[str, Any] = {}
    if kind == "fan" and rest:
        parts = rest.split(":")
        if len(parts) not in (2, 4, 5):
            raise ValueError(f"--operator {text}: write fan:SOURCE:DETECTOR or fan:SOURCE:DETECTOR:START:STOP.")
        values = {"source": parts[0], "detector": parts[1]}
        rest = ":".join(parts[2:])
    if rest:
        if not KINDS[kind]:
            raise ValueError(f"--operator {text}: {kind} takes no value.")
        name = KINDS[kind][0]
        values["file" if kind == "blur" and _number(rest) is None else name] = rest
    return _checked(kind, values, Path(), f"--operator {text}")


def _of_toml(path: Path) -> Spec:
    if not path.is_file():
        raise ValueError(f"--operator {path}: there is no such file.")
    try:
        if path.stat().st_size > 2**20:
            raise ValueError("it is larger than any description of an operator")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--operator {path} is no TOML file: {error}.") from error
    kind = values.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f'--operator {path}: it should hold a line such as kind = "blur", one of {", ".join(KINDS)}.')
    return _checked(kind, values, path.parent, f"--operator {path}")


def _checked(kind: str, values: dict[str, Any], folder: Path, source: str) -> Spec:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in KINDS[kind]:
            raise ValueError(f"{source}: {kind} knows {', '.join(KINDS[kind]) or 'no values'}, and not {name!r}.")
        if name in _NUMBERS:
            number = _number(value)
            if number is None or abs(number) > _LARGEST or (name != "offset" and number <= 0):
                raise ValueError(
                    f"{source}: {name} should be a {'' if name == 'offset' else 'positive '}number of at most "
                    f"{_LARGEST:g}; got {value!r}."
                )
            found[name] = number
        elif name in _COUNTS:
            number = _number(value)
            if number is None or number != int(number) or not 1 <= number <= _MOST:
                raise ValueError(f"{source}: {name} should be a positive whole number up to {_MOST}; got {value!r}.")
            found[name] = int(number)
        elif name == "angles":
            found[name] = _angles(value, folder, source)
        elif name == "boundary":
            if value not in ("zero", "circular", "reflect"):
                raise ValueError(f"{source}: boundary should be zero, circular or reflect; got {value!r}.")
            found[name] = value
        elif name == "shape":
            if (
                not isinstance(value, list)
                or len(value) not in (2, 3)
                or not all(type(n) is int and n > 0 for n in value)
            ):
                raise ValueError(f"{source}: shape should be [rows, columns] of the image; got {value!r}.")
            found[name] = (*value, 1)[:3]
        else:
            found[name] = _file(value, folder, source)
    if kind in ("mask", "fourier", "matrix") and "file" not in found:
        raise ValueError(f"{source}: name the file, as in {kind}:{kind}.npy.")
    if kind == "blur" and ("file" in found) == ("width" in found):
        raise ValueError(f"{source}: name the file of the kernel, or the standard deviation in pixels: blur:2.5.")
    if kind == "downsample" and "factor" not in found:
        raise ValueError(f"{source}: say the factor, as in downsample:2.")
    if kind == "fan" and not {"source", "detector"} <= found.keys():
        raise ValueError(f"{source}: say the distances from the axis, in detector bins: fan:SOURCE:DETECTOR.")
    return Spec(kind, found)


def _file(value: Any, folder: Path, source: str) -> Path:
    if not isinstance(value, str):
        raise ValueError(f"{source}: a file is named by a string; got {value!r}.")
    path = folder / Path(value).expanduser()
    if not path.exists():
        raise ValueError(f"{source}: there is no file {path}.")
    return path


def _angles(value: Any, folder: Path, source: str) -> Any:
    if (
        isinstance(value, list)
        and value
        and all(_number(entry) is not None and type(entry) is not str for entry in value)
    ):
        return tuple(float(entry) for entry in value)
    parts: list[Any] = [_number(part) for part in value.split(":")] if isinstance(value, str) else []
    if len(parts) in (2, 3) and None not in parts:
        if len(parts) == 3 and (parts[2] != int(parts[2]) or not 1 <= parts[2] <= _MOST):
            raise ValueError(
                f"{source}: the number of angles should be a positive whole number up to {_MOST}; got {parts[2]:g}."
            )
        return (parts[0], parts[1], int(parts[2]) if len(parts) == 3 else None)
    if isinstance(value, str) and len(parts) == 1 and parts[0] is None:
        return _file(value, folder, source)
    raise ValueError(f"{source}: angles are START:STOP in degrees, such as 0:180, a file or a list; got {value!r}.")


def _number(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):  # an integer of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def with_options(spec: Spec, given: Mapping[str, Any]) -> Spec:
    """The operator with further options of the command line, such as `--size`.

    **Raises:** `ValueError` for an option that the kind does not know.
    """
    given = {name: value for name, value in given.items() if value is not None}
    wrong = [f"--{name}" for name in given if name not in KINDS[spec.kind]]
    if wrong:
        raise ValueError(f"{' and '.join(wrong)} do not apply to the operator {spec.kind}.")
    return spec._replace(values={**spec.values, **given})


def fit(spec: Spec, choice: Choice) -> Fitted:
    """Whether the measurement and the operator fit each other, by the headers of all files.

    **Raises:** `ValueError` that says what does not fit.
    """
    header = peek(choice.file, dataset=choice.dataset)
    if spec.kind in SCANS:
        return _fit_scan(spec, choice, header)
    if choice.flat is not None or choice.dark is not None:
        raise ValueError(f"--flat and --dark are for projections; the operator {spec.kind} takes none.")
    if "angle" in header.axes:
        raise ValueError(f"{choice.file} holds projections: the operator is parallel or fan, and not {spec.kind}.")
    select, note = _slice(choice, header)
    shape = _image_shape(header, choice.file)
    if spec.kind == "fourier" and header.values.dtype.kind != "c":
        raise ValueError(f"{choice.file} should hold complex values of k-space; it has {header.values.dtype}.")
    if spec.kind != "fourier" and header.values.dtype.kind == "c":
        raise ValueError(f"{choice.file} holds complex values, which only the operator fourier measures.")
    if spec.kind == "matrix":
        return Fitted(_fit_matrix(spec, header, choice.file), {}, note)
    h, w, c = shape
    if spec.kind in ("mask", "fourier"):
        other = _image_shape(peek(spec.values["file"]), spec.values["file"])
        if other[:2] != shape[:2] or other[2] not in (1, c):
            raise ValueError(
                f"The mask {spec.values['file']} has the shape {other}, and {choice.file} {shape}. They must be of the "
                "same size; the mask is white where a value is known."
            )
        if not np.any(read_image(spec.values["file"]) > 0.5):
            raise ValueError(
                f"The mask {spec.values['file']} is black: nothing is known. It is white where a value is."
            )
    if spec.kind == "blur":
        size = kernel_size(spec, choice.file)
        if size[0] > h or size[1] > w:
            raise ValueError(f"The kernel has {size[0]} x {size[1]} pixels, and {choice.file} only {h} x {w}.")
    if spec.kind == "downsample":
        return Fitted(_sized((h * spec.values["factor"], w * spec.values["factor"], c)), select, note)
    return Fitted(shape, select, note)


def kernel_size(spec: Spec, file: Path) -> tuple[int, int]:
    """The numbers of rows and columns of the kernel of a blur."""
    if "width" in spec.values:
        side = 2 * math.ceil(_REACH * spec.values["width"]) + 1
        return side, side
    rows, columns, _ = _image_shape(peek(spec.values["file"]), spec.values["file"])
    return rows, columns


def gaussian_kernel(width: float) -> np.ndarray:
    """The kernel of a Gaussian blur, whose standard deviation is `width` pixels."""
    reach = math.ceil(_REACH * width)
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    kernel = np.outer(line, line)
    return (kernel / kernel.sum()).astype(np.float32)


def _fit_scan(spec: Spec, choice: Choice, header: Measurement) -> Fitted:
    views = projections(header, choice.file)
    if views.values.dtype.kind == "c":
        raise ValueError(f"{choice.file} holds complex values, which only the operator fourier measures.")
    count, bins = views.values.shape[0], views.values.shape[-1]
    slices = views.size("slice") or 1
    note = ""
    select: dict[str, int] = {}
    if views.values.ndim == 3:
        chosen = choice.slice if choice.slice is not None else slices // 2
        if not 0 <= chosen < slices:
            raise ValueError(f"--slice {chosen}: {choice.file} has {slices} slices, numbered from 0.")
        select = {header.axes[1]: chosen}
        note = f"Slice {chosen} of {slices}." if choice.slice is None and slices > 1 else ""
    elif choice.slice not in (None, 0):
        raise ValueError(f"--slice {choice.slice}: {choice.file} has one slice.")
    for name, path in (("--flat", choice.flat), ("--dark", choice.dark)):
        frames = None if path is None else peek(path).values.shape
        if frames is not None and frames[-(views.values.ndim - 1) :] != views.values.shape[1:]:
            raise ValueError(
                f"{name} {path} has frames of shape {frames[-(views.values.ndim - 1) :]}; those of {choice.file} have "
                f"{views.values.shape[1:]}."
            )
    if choice.dark is not None and choice.flat is None and views.flat is None:
        raise ValueError("--dark needs --flat: without a flat field there are no line integrals.")
    angles = spec.get("angles")
    if angles is None and views.angles is None:
        raise ValueError(f"{choice.file} does not say its angles: give them, as in --operator {spec.kind}:0:180.")
    if angles is not None:
        known = len(degrees(spec, count))
        if known != count:
            raise ValueError(f"--operator speaks of {known} angles, and {choice.file} has {count} projections.")
    if spec.get("every", 1) > count:
        raise ValueError(f"--every {spec.get('every')}: {choice.file} has only {count} projections.")
    size = spec.get("size") or min(bins, _SIZE)
    return Fitted(_sized((size, size, 1)), select, note)


def _sized(shape: Shape) -> Shape:
    """The shape of an image, before memory is taken for it."""
    if math.prod(shape) > _MOST_PIXELS:
        raise ValueError(
            f"An image of shape {shape} has {math.prod(shape):.3g} values; at most {_MOST_PIXELS} are made."
        )
    return shape


def projections(header: Measurement, file: Path) -> Measurement:
    """A measurement with the axes of projections: a stack without names has angles, slices and detectors."""
    if "angle" in header.axes:
        return header
    shape = header.values.shape
    if len(shape) == 3 and shape[2] == 1:
        return dataclasses.replace(header, values=header.values[..., 0], axes=("angle", "detector"), spacing=None)
    if len(shape) not in (2, 3) or header.values.dtype.kind == "c":
        raise ValueError(
            f"{file} should hold projections, (angles, detectors) or (angles, slices, detectors); it has "
            f"{header.values.dtype} of shape {shape}."
        )
    axes = ("angle", "detector") if len(shape) == 2 else ("angle", "slice", "detector")
    spacing = None if header.spacing is None else (None, *header.spacing[1:])
    return dataclasses.replace(header, axes=axes, spacing=spacing)


def degrees(spec: Spec, count: int) -> np.ndarray:
    """The angles that the user gave, in degrees; a range without a number of angles has `count` of them."""
    angles = spec.values["angles"]
    if isinstance(angles, Path):
        found = read(angles).values
        if found.dtype.kind == "c" or not np.isfinite(found).all():
            raise ValueError(f"{angles} should hold angles in degrees, real and finite; it has {found.dtype}.")
        return np.asarray(found, np.float64).reshape(-1)
    if len(angles) == 3 and (angles[2] is None or isinstance(angles[2], int)):
        start, stop, number = angles
        return np.linspace(start, stop, number or count, endpoint=False)
    return np.asarray(angles, np.float64)


def files_of(text: str, spec: Spec) -> list[Path]:
    """All files that describe an operator, which no output may replace."""
    described = [Path(text)] if text.lower().endswith(".toml") else []
    return described + [value for value in spec.values.values() if isinstance(value, Path)]


def _fit_matrix(spec: Spec, header: Measurement, file: Path) -> Shape:
    entries = peek(spec.values["file"]).values
    if entries.dtype.kind == "c":
        raise ValueError(f"The matrix {spec.values['file']} has complex entries; images and their sums are real here.")
    matrix = entries.shape
    if len(matrix) != 2 or matrix[0] != header.values.size:
        raise ValueError(
            f"The matrix {spec.values['file']} has the shape {matrix}; it needs a row for each of the "
            f"{header.values.size} values of {file}."
        )
    side = math.isqrt(matrix[1])
    shape = spec.get("shape", (side, side, 1))
    if math.prod(shape) != matrix[1]:
        raise ValueError(
            f"The matrix has {matrix[1]} columns, and an image of shape {shape} has {math.prod(shape)} pixels. Say the "
            "shape in a TOML file: shape = [rows, columns]."
        )
    return shape


def _slice(choice: Choice, header: Measurement) -> tuple[dict[str, int], str]:
    if header.size("slice") is None:
        if choice.slice not in (None, 0):
            raise ValueError(f"--slice {choice.slice}: {choice.file} holds one image.")
        return {}, ""
    slices = header.size("slice") or 1
    chosen = choice.slice if choice.slice is not None else slices // 2
    if not 0 <= chosen < slices:
        raise ValueError(f"--slice {chosen}: {choice.file} has {slices} slices, numbered from 0.")
    return {"slice": chosen}, f"Slice {chosen} of {slices}." if choice.slice is None and slices > 1 else ""


def _image_shape(header: Measurement, file: Path) -> Shape:
    """The shape `(h, w, c)` of the image, or of each slice."""
    sizes = dict(zip(header.axes, header.values.shape, strict=True))
    if "row" not in sizes and header.values.ndim == 1:
        return (1, header.values.shape[0], 1)
    if "row" not in sizes or any(
        n > 1 for name, n in sizes.items() if name not in ("row", "column", "channel", "slice")
    ):
        raise ValueError(f"{file} should hold an image; it has {header.axes} of {header.values.shape}.")
    channels = sizes.get("channel", 1)
    return sizes["row"], sizes["column"], 3 if channels == 4 else channels
