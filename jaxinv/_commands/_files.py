"""Which files a command writes: what the user named, and its own scratch files in a folder of their own."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from .. import io


def check_outputs(outputs: Iterable[Path], inputs: Iterable[str | Path | None]) -> None:
    """Raise, before the work, where a file cannot be written or is one that the command reads.

    **Raises:** `ValueError` that names the file.
    """
    read = {Path(path).resolve() for path in inputs if path is not None}
    for path in outputs:
        if path.resolve() in read:
            raise ValueError(f"--output would overwrite {path}, which is read; choose another name.")
        io.check_writable(path)


def scratch_file(output: Path) -> Path:
    """Where a run that writes `output` keeps its progress: `.jaxinv/NAME.checkpoint` beside it.

    The name holds all of the output's and lies in another folder, so that no output has it.
    """
    folder = output.parent / ".jaxinv"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{output.name}.checkpoint"


def discard(scratch: Path) -> None:
    """Delete a scratch file, and its folder if it was the last in it."""
    scratch.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a file of another run is in it
        scratch.parent.rmdir()
