"""The contents of a file of measurements or images: an array, its units and its geometry."""

import dataclasses

import numpy as np

# Differences below half a count are noise, and so are differences below this share of the flat field, if the counts
# were converted to floating-point numbers.
_HALF_A_COUNT, _SMALLEST_SHARE = 0.5, 0.5 / 65535


@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """An array from a file, with its physical units and the geometry that the file holds; `io.read` makes one.

    What a file does not say is `None`: nothing is guessed.

    - `values`: the values, a NumPy array in the precision of the file, after the rescaling that the file itself
      asks for (DICOM's slope and intercept, NIfTI's slope).
    - `axes`: a name for each axis of `values`: `"slice"`, `"row"`, `"column"`, `"channel"`, `"time"`, or, if the file
      says that these are projections, `"angle"`, `"slice"`, `"detector"`.
    - `spacing`: the distance from one entry to the next along each axis, in mm.
    - `unit`: the unit of the values, such as `"HU"`; empty if the file does not say.
    - `angles`: the angle of each projection, in radians, `(angles,)`.
    - `flat`, `dark`: the frames without the object, and those with the beam off: `(frames, slices, detectors)`, or
      `(frames, rows, columns)`.
    - `affine`: the map from `(column, row, slice, 1)` to millimetres in the patient or scanner, `(4, 4)`: NIfTI's
      (x right, y to the front, z up) or DICOM's (x left, y to the back, z up), as the file has it.
    - `format`: the format of the file, such as `"TIFF"`.

    **Raises:** `ValueError` if `axes` or `spacing` does not have an entry for each axis of `values`.

    !!! example
        ```python
        import numpy as np
        from jaxinv import io
        counts = np.full((3, 2, 4), 500, np.uint16)  # (angles, slices, detectors)
        flat, dark = np.full((1, 2, 4), 1100), np.full((1, 2, 4), 100)
        measured = io.Measurement(counts, ("angle", "slice", "detector"), flat=flat, dark=dark)
        sinograms = measured.line_integrals().values  # -log(.4)
        ```
    """

    values: np.ndarray
    axes: tuple[str, ...]
    spacing: tuple[float | None, ...] | None = None
    unit: str = ""
    angles: np.ndarray | None = None
    flat: np.ndarray | None = None
    dark: np.ndarray | None = None
    affine: np.ndarray | None = None
    format: str = ""

    def __post_init__(self) -> None:
        for name in ("axes", "spacing"):
            value = getattr(self, name)
            if value is not None and len(value) != np.ndim(self.values):
                raise ValueError(
                    f"Measurement expects an entry of `{name}` for each axis of `values`, {np.shape(self.values)}; got "
                    f"{value}."
                )

    def size(self, axis: str) -> int | None:
        """The number of entries along an axis.

        **Arguments:**

        - `axis`: its name.

        **Returns:** the number; `None` if there is no such axis.
        """
        return self.values.shape[self.axes.index(axis)] if axis in self.axes else None

    def line_integrals(self) -> "Measurement":
        """The line integrals `-log((values - dark) / (flat - dark))`, with the mean flat and the mean dark field.

        A difference below half a count becomes half a count, if the values are integers, and otherwise 1/131070 of the
        largest mean of a flat field, which is half a count of 16 bits. Without dark frames the dark field is zero.

        **Returns:** a measurement of the same axes, float32, without flat and dark frames.

        **Raises:** `ValueError` if there is no flat field, or the frames do not fit.
        """
        if self.flat is None:
            raise ValueError(
                "Line integrals of counts need the flat field: what the detector counts without an object."
            )
        flat = self._mean_frame(self.flat, "flat")
        dark = np.float32(0) if self.dark is None else self._mean_frame(self.dark, "dark")
        flat = flat - dark
        least = _HALF_A_COUNT if self.values.dtype.kind in "iu" else _SMALLEST_SHARE * float(np.max(flat))
        if not least > 0:
            raise ValueError("The flat field is nowhere brighter than the dark field; are the two exchanged?")
        counts = self.values.astype(np.float32) - dark
        values = -np.log(np.maximum(counts, least) / np.maximum(flat, least))
        return dataclasses.replace(self, values=values.astype(np.float32), unit="", flat=None, dark=None)

    def _mean_frame(self, frames: np.ndarray, name: str) -> np.ndarray:
        frames = np.asarray(frames)
        frames = frames[None] if frames.ndim == self.values.ndim - 1 else frames
        if frames.ndim != self.values.ndim or frames.shape[1:] != self.values.shape[1:] or not len(frames):
            raise ValueError(
                f"The {name} field should have the shape of a projection, {self.values.shape[1:]}, or several of them "
                f"one behind the other; got {frames.shape}."
            )
        if not np.isfinite(frames).all():
            raise ValueError(f"The {name} field holds {int(np.sum(~np.isfinite(frames)))} values that are not finite.")
        return np.asarray(np.mean(frames, axis=0, dtype=np.float64), np.float32)
