"""The output files of a command, and its scratch files in a separate folder. This file does not import JAX."""

import contextlib
from collections.abc import Iterable, Iterator
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


def check_output(output: Path, formats: tuple[str, ...], inputs: Iterable[str | Path | None]) -> None:
    """Raise unless all files of a reconstruction can be written, in one of these formats, and none is an input.

    **Raises:** `ValueError` that names the file.
    """
    if suffix_of(output) not in formats:
        raise ValueError(f"--output {output}: the name should end in one of {', '.join(formats)}.")
    check_outputs(outputs_of(output, deviation=True, samples=True).values(), inputs)


def check_outputs(outputs: Iterable[Path], inputs: Iterable[str | Path | None]) -> None:
    """Raise, before the work, if an output cannot be written or is an input of the command.

    **Raises:** `ValueError` that names the file.
    """
    read = {Path(path).resolve() for path in inputs if path is not None}
    folders = [path for path in read if path.is_dir()]
    for path in outputs:
        is_in_folder = path.exists() and any(folder in path.resolve().parents for folder in folders)
        if path.resolve() in read or is_in_folder:
            raise ValueError(f"--output would overwrite {path}, which is read; choose another name.")
        check_writable(path)


def scratch_file(output: Path) -> Path:
    """The path of the progress of a run that writes `output`: `.jaxinv/NAME.checkpoint` in the same folder.

    NAME is the full name of the output, and the folder differs from the output's, so no output has this path.
    """
    folder = output.parent / ".jaxinv"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{output.name}.checkpoint"


@contextlib.contextmanager
def keeping(scratch: Path) -> Iterator[None]:
    """Discard a scratch file once the outputs are written; if they cannot be, the error says that the run is kept."""
    try:
        yield
    except OSError as error:
        if not scratch.is_file():
            raise
        raise OSError(
            f"{error}. The run itself is not lost: {scratch} holds it, and the same command goes on from there."
        ) from error
    discard(scratch)


def discard(scratch: Path) -> None:
    """Delete a scratch file, and its folder if it is then empty."""
    scratch.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # The folder holds a file of another run.
        scratch.parent.rmdir()
