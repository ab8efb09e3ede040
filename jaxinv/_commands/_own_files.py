"""The names of the files that `jaxinv reconstruct` writes, before anything is computed."""

from pathlib import Path

from .._formats import suffix_of
from .._writing import check_writable

IMAGES = (".npy", ".tif", ".tiff", ".nii", ".nii.gz", ".h5", ".png")
MEASUREMENTS = (".npy", ".npz", ".h5", ".tif", ".tiff")


def outputs_of(output: Path, *, deviation: bool, samples: bool) -> dict[str, Path]:
    """All files of a reconstruction, beside the image itself: `NAME_std`, `NAME_samples.npy` and `NAME_figure.png`."""
    suffix = suffix_of(output)
    stem = output.name[: -len(suffix)]
    named = {"image": output, "figure": output.with_name(f"{stem}_figure.png")}
    if deviation:
        named["deviation"] = output.with_name(f"{stem}_std{suffix}")
    if samples:
        named["samples"] = output.with_name(f"{stem}_samples.npy")
    return named


def check_output(output: Path, formats: tuple[str, ...], read: list[Path | None]) -> None:
    """Raise unless the outputs can be written, in one of these formats, and none of them is read.

    **Raises:** `ValueError` that names the file.
    """
    if suffix_of(output) not in formats:
        raise ValueError(f"--output {output}: the name should end in one of {', '.join(formats)}.")
    used = {path.resolve() for path in read if path is not None}
    folders = [path for path in used if path.is_dir()]
    for path in outputs_of(output, deviation=True, samples=True).values():
        within = path.exists() and any(folder in path.resolve().parents for folder in folders)
        if path.resolve() in used or within:
            raise ValueError(f"--output would overwrite {path}, which is read; choose another name.")
        check_writable(path)
