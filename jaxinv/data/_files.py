"""The search for data files in folders, and their download."""

import contextlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """The folder for downloads."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "jaxinv"


def checkout() -> Path | None:
    """The checkout that contains this package; `None` for an installed package."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "tests").is_dir() else None


def shared_folder() -> Path | None:
    """`../shared/data` beside the checkout, for developers of jaxinv; `None` for an installed package."""
    root = checkout()
    return None if root is None else root.parent / "shared" / "data"


def folders() -> list[Path]:
    """The folders that are searched for data files, in this order."""
    chosen = os.environ.get("JAXINV_DATA")
    candidates = [Path(chosen).expanduser() if chosen else None, shared_folder(), cache_folder()]
    return [folder for folder in candidates if folder is not None]


def fetch(name: str, *, folder: str, mirrors: Sequence[str], sha256: str) -> Path:
    """The path of `name` or `folder/name` in one of `folders()`; a file that is in none of them is downloaded.

    The file may also be there unpacked, without its `.gz`.

    **Raises:** `ValueError` that names the ways to obtain the file.
    """
    for root in folders():
        for parent in (root / folder, root):
            for candidate in (parent / name, parent / name.removesuffix(".gz")):
                if candidate.is_file():
                    return candidate
    return _download(name, folder=folder, mirrors=mirrors, sha256=sha256)


def _download(name: str, *, folder: str, mirrors: Sequence[str], sha256: str) -> Path:
    try:
        import pooch
    except ImportError as error:
        reason = 'pooch is not installed: `python -m pip install "jaxinv[demo]"`'
        raise ValueError(_ways(name, folder, [reason])) from error

    target = cache_folder() / folder
    # The type is Any because the annotations of pooch's downloaders and of its `retrieve` have other parameter names.
    downloader: Any = pooch.HTTPDownloader(progressbar=importlib.util.find_spec("tqdm") is not None, timeout=20)
    reasons, last = [], None
    try:
        for mirror in mirrors:
            try:
                # pooch writes to a temporary file in the same folder, and renames it once the checksum agrees.
                found = pooch.retrieve(
                    mirror + name, known_hash=f"sha256:{sha256}", fname=name, path=target, downloader=downloader
                )
                return Path(found)
            except (OSError, ValueError) as error:
                reasons.append(f"{mirror} failed ({type(error).__name__}: {str(error)[:200]})")
                last = error
    finally:
        # Remove the folders if they are empty, so that an interrupted download leaves nothing.
        with contextlib.suppress(OSError):
            target.rmdir()
            target.parent.rmdir()
    raise ValueError(_ways(name, folder, reasons)) from last


def _ways(name: str, folder: str, reasons: Sequence[str]) -> str:
    chosen, shared = os.environ.get("JAXINV_DATA"), shared_folder()
    now = f"it is {chosen}, which does not hold the file" if chosen else "it is not set"
    ways = [f"set the environment variable JAXINV_DATA to a folder that holds {folder}/{name} ({now})"]
    if shared is not None:
        ways.append(f"put it into ../shared/data/{folder} beside the checkout, {shared / folder}")
    ways.append(f"put it into the user cache, {cache_folder() / folder}")
    ways.append(f"let it be downloaded, which needs pooch and a network: {'; '.join(reasons)}")
    count = ("one", "two", "three", "four")[len(ways) - 1]
    listed = ";\n".join(f"{number}. {way}" for number, way in enumerate(ways, 1))
    return (
        f"The data file {name} was not found and could not be downloaded. There are {count} ways to have it:\n{listed}."
    )
