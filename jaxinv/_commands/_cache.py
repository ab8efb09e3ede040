"""The cache that keeps compiled programs from one run of a command to the next."""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from ..data._files import cache_folder

# The many small programs together take seconds to compile: keep all that take longer to compile than to read back.
_LEAST_SECONDS = 0.05


def compiled_folder() -> Path:
    """The folder of compiled programs: `$JAXINV_CACHE`, or `xla` in the user's cache folder."""
    chosen = os.environ.get("JAXINV_CACHE")
    return Path(chosen).expanduser() if chosen else cache_folder() / "xla"


@contextlib.contextmanager
def kept_programs() -> Iterator[None]:
    """Switch on JAX's persistent compilation cache in this context, and restore the previous options after it.

    A cache that the user has switched on, by `$JAX_COMPILATION_CACHE_DIR`, stays unchanged. A folder that cannot be
    written is no error: then no program is kept.
    """
    chosen = {
        "jax_compilation_cache_dir": str(compiled_folder()),
        "jax_persistent_cache_min_compile_time_secs": _LEAST_SECONDS,
    }
    before = {name: getattr(jax.config, name) for name in chosen}
    if before["jax_compilation_cache_dir"] is not None or not _is_writable(compiled_folder()):
        yield
        return
    _configure(chosen)
    try:
        with warnings.catch_warnings():
            # JAX compiles an incomplete entry of an interrupted run again, so its warning is not needed.
            warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache", UserWarning)
            yield
    finally:
        _configure(before)


def _configure(options: dict[str, object]) -> None:
    for name, value in options.items():
        jax.config.update(name, value)
    # JAX opens the folder once, and would ignore another folder without this reset.
    compilation_cache.reset_cache()


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return True
    except OSError:
        return False
