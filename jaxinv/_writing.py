"""Files that are written whole or not at all, with the mode, the owner and the place that a file had before."""

import contextlib
import os
import secrets
import stat
from typing import Any

from ._reading import Checked

# The name of the temporary file contains at most so many characters of that of the file, since file systems limit the
# length.
_SHOWN = 40


def write_bytes(path: Checked[str | os.PathLike[str]], content: bytes) -> None:
    """Write a file atomically: a temporary file in the same folder is flushed to the disk and renamed.

    A new file has the permissions of any new file of the process; an existing one keeps its permissions, and its owner
    where the process may set it. A symbolic link stays, and the file that it names is written. What is no file, such as
    `/dev/null` or a pipe, is written into.

    **Arguments:**

    - `path`: the path of the file, whose folder must exist.
    - `content`: all bytes of it.

    **Raises:** `ValueError` if the path is a folder or read-only, or the folder cannot be written to; `OSError` if the
    disk is full.

    !!! example
        ```python
        import os, tempfile
        from jaxinv import io
        io.write_bytes(os.path.join(tempfile.mkdtemp(), "results.json"), b"{}")
        ```
    """
    path = _decoded(path)
    target, found = _look_up(path)
    if found is not None and not stat.S_ISREG(found.st_mode):
        with open(target, "wb") as file:
            file.write(content)
        return
    handle, temporary = _open_beside(path, target, found)
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        # The original error may not name the file.
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
    finally:
        # After the renaming there is no temporary file.
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    _flush_folder(os.path.dirname(target))


def check_writable(path: Checked[str | os.PathLike[str]]) -> None:
    """Raise unless a file can be written at `path`; call it before the work whose result the file will hold.

    **Arguments:**

    - `path`: the path of the file.

    **Raises:** `ValueError` that describes the problem with the path.
    """
    path = _decoded(path)
    target, found = _look_up(path)
    if found is None or stat.S_ISREG(found.st_mode):
        handle, temporary = _open_beside(path, target, found)
        os.close(handle)
        os.unlink(temporary)


def _decoded(path: Any) -> str:
    if not isinstance(path, str | bytes | os.PathLike):
        raise ValueError(f"Cannot write {path!r}: give the path of a file.")
    path = os.path.expanduser(os.fsdecode(path))
    if "\0" in path:
        raise ValueError(f"Cannot write {path!r}: no file system takes a null character in a name.")
    return path


def _look_up(path: str) -> tuple[str, os.stat_result | None]:
    """The path without symbolic links, and what is there now.

    **Raises:** `ValueError` if it is a folder, or a file or device that must not be written to.
    """
    target = os.path.realpath(path)
    try:
        found = os.stat(target)
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise ValueError(f"Cannot write {path}: {error.strerror} ({target}). Choose another name.") from error
    # `realpath` drops the slash with which the name of a folder may end.
    if (found is not None and stat.S_ISDIR(found.st_mode)) or path.endswith(os.sep):
        raise ValueError(f"Cannot write {path}: it is a folder. Give the name of a file in it.")
    if found is not None and not os.access(target, os.W_OK):
        raise ValueError(f"Cannot write {path}: it is read-only. Change its permissions, or choose another name.")
    return target, found


def _open_beside(path: str, target: str, found: os.stat_result | None) -> tuple[int, str]:
    """A new file in the folder of `target`, open, with the mode that the finished file is to have."""
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name[:_SHOWN]}.{secrets.token_hex(8)}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        # The system applies the process's mask to 0666. Only the owner sees what replaces a file until it has its mode.
        handle = os.open(temporary, flags, 0o666 if found is None else 0o600)
    except OSError as error:
        raise ValueError(
            f"Cannot write {path}: {error.strerror} ({folder}). Make the folder, or choose another."
        ) from (error)
    if found is not None:
        if hasattr(os, "chown"):
            with contextlib.suppress(OSError):
                os.chown(temporary, found.st_uid, found.st_gid)
        with contextlib.suppress(OSError):
            os.chmod(temporary, stat.S_IMODE(found.st_mode))
    return handle, temporary


def _flush_folder(folder: str) -> None:
    """Flush the renaming to the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
