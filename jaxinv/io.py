"""Reading and writing of pytrees as safetensors files, keyed by the path of each leaf; they hold no executable code."""

import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from ._types import Checked, PyTree

__all__ = ["load", "save"]

_DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "C64": np.complex64,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
}
# Kinds that safetensors does not have (complex128, keys, Python numbers) are written as arrays that it has, and this
# entry of the header records them.
_KINDS = "jaxinv.kinds"
_SHOWN = 5


def save(path: str | os.PathLike[str], tree: PyTree, *, metadata: Checked[Mapping[str, str] | None] = None) -> None:
    """Write the arrays of a pytree to a safetensors file.

    The write is atomic: a temporary file in the same folder is flushed to the disk and renamed. Random keys and Python
    numbers are stored too; other leaves (functions, strings) are not, and `load` copies them from its `like`.

    **Arguments:**

    - `path`: the path of the file, whose folder must exist.
    - `tree`: any pytree: a network (Flax NNX or equinox), a state, a dict of arrays.
    - `metadata`: a dict of strings to store in the file; `read_metadata` returns them.

    **Raises:** `ValueError` if the folder cannot be written to, or a leaf has a dtype that the format cannot hold.

    !!! example
        ```python
        import os, tempfile
        import jax.numpy as jnp
        from jaxinv import io
        path = os.path.join(tempfile.mkdtemp(), "weights.safetensors")
        io.save(path, {"w": jnp.ones((2, 3))})
        weights = io.load(path, {"w": jnp.zeros((2, 3))})
        ```
    """
    path = os.fspath(path)
    stored, kinds = {}, {}
    for name, leaf in _named_leaves(tree):
        kind, array = _encode(leaf)
        if array is None:
            continue
        if array.dtype not in _DTYPES.values():
            raise ValueError(f"The leaf {name!r} has the dtype {array.dtype}, which a safetensors file cannot hold.")
        stored[name] = array
        if kind != str(array.dtype):
            kinds[name] = kind
    metadata = dict(metadata or {})
    if _KINDS in metadata or not all(isinstance(s, str) for item in metadata.items() for s in item):
        raise ValueError(f"`metadata` must map strings to strings, and {_KINDS!r} is taken; got {metadata!r}.")
    write_bytes(path, safetensors.numpy.save(stored, metadata={**metadata, _KINDS: json.dumps(kinds)}))


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically: a temporary file in the same folder is flushed to the disk and renamed.

    **Arguments:**

    - `path`: the file; an existing one is replaced.
    - `content`: the bytes of the file.

    **Raises:** `ValueError` if the folder cannot be written to; `OSError` if the disk is full.

    !!! example
        ```python
        import os, tempfile
        from jaxinv import io
        io.write_bytes(os.path.join(tempfile.mkdtemp(), "results.json"), b"{}")
        ```
    """
    path = os.fspath(path)
    temporary = _temporary_beside(path)
    try:
        # Only the owner can read a temporary file; give the finished one the permissions of a new file.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        os.unlink(temporary)
        # The original error may not name the file.
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str | os.PathLike[str], like: PyTree) -> PyTree:
    """Read a pytree that `save` wrote.

    **Arguments:**

    - `path`: the path of the file.
    - `like`: a pytree with the expected structure, shapes and dtypes, such as a new network. Its values are not used,
        except those of leaves that a file does not hold (functions, strings).

    **Returns:** a tree like `like` with the values of the file, as NumPy arrays where `like` has them and as JAX arrays
    otherwise.

    **Raises:** `ValueError` that names the file if it is missing, corrupt or truncated, and that names the first leaves
    that are missing, unexpected, or of another shape or dtype.

    !!! example
        ```python
        import os, tempfile
        import jaxinv
        from flax import nnx
        path = os.path.join(tempfile.mkdtemp(), "weights.safetensors")
        model = jaxinv.models.Autoencoder((8, 8, 1), 2, rngs=nnx.Rngs(0))
        jaxinv.io.save(path, model)
        model = jaxinv.io.load(path, jaxinv.models.Autoencoder((8, 8, 1), 2, rngs=nnx.Rngs(1)))
        ```
    """
    path = os.fspath(path)
    stored, metadata = _read(path)
    kinds = json.loads(metadata.get(_KINDS, "{}"))
    expected = {}
    for name, leaf in _named_leaves(like):
        kind, array = _encode(leaf)
        if array is not None:
            expected[name] = (array.shape, kind)
    found = {name: (array.shape, kinds.get(name, str(array.dtype))) for name, array in stored.items()}
    differences = [f"{name} is missing" for name in expected if name not in found]
    differences += [f"{name} is not expected" for name in found if name not in expected]
    for name in expected:
        if name in found and found[name] != expected[name]:
            (got_shape, got_kind), (shape, kind) = found[name], expected[name]
            differences.append(f"{name} is {got_kind} of shape {got_shape}, expected {kind} of shape {shape}")
    if differences:
        more = "" if len(differences) <= _SHOWN else f"; and {len(differences) - _SHOWN} more"
        raise ValueError(f"{path} holds another tree than `like`: {'; '.join(differences[:_SHOWN])}{more}.")
    leaves = [_decode(stored[name], leaf) if name in expected else leaf for name, leaf in _named_leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The `metadata` that `save` stored in a file.

    **Arguments:**

    - `path`: a file that `save` wrote.

    **Raises:** `ValueError` that names the file if it is missing, corrupt or truncated.
    """
    return {key: value for key, value in _read(os.fspath(path))[1].items() if key != _KINDS}


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise unless a file can be written at `path`; call it before the work whose result the file will hold.

    **Arguments:**

    - `path`: the file that is to be written.

    **Raises:** `ValueError` that describes the problem with the path.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        raise ValueError(f"Cannot write {path}: it is a folder. Give the name of a file in it.")
    os.unlink(_temporary_beside(path))


def leaf_names(tree: PyTree) -> list[str]:
    """The name of each leaf of a tree, in order: its path, joined by dots.

    **Arguments:**

    - `tree`: any pytree.

    **Raises:** `ValueError` if two leaves have the same name.
    """
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"Two leaves of the tree have the same path, {twice!r}; rename the keys that hold a dot.")
    return names


def _named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    return list(zip(leaf_names(tree), jax.tree.leaves(tree), strict=True))


def _encode(leaf: Any) -> tuple[str, np.ndarray | None]:
    # The kind of a leaf, and the array that represents it in the file (None: it is not stored).
    if isinstance(leaf, bool | int | float | complex) and not isinstance(leaf, np.generic):
        kind = f"Python {type(leaf).__name__}"
        array = np.asarray(leaf)
    elif isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        kind = str(leaf.dtype)
        array = np.asarray(jax.random.key_data(leaf))
    elif isinstance(leaf, jax.Array | np.ndarray | np.generic):
        array = np.asarray(leaf)
        kind = str(array.dtype)
    else:
        return type(leaf).__name__, None
    if array.dtype == np.complex128:
        array = np.stack([np.real(array), np.imag(array)], axis=-1)
    # Copy in C order, since safetensors writes the buffer in its order in memory.
    return kind, np.array(array, order="C")


def _decode(array: np.ndarray, like: Any) -> Any:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.array(array), impl=jax.random.key_impl(like))
    if np.asarray(like).dtype == np.complex128:
        array = array[..., 0] + 1j * array[..., 1]
    if isinstance(like, np.ndarray | np.generic):
        return np.array(array)
    if isinstance(like, bool | int | float | complex):
        return type(like)(array.item())
    # Copy, since jax may otherwise share the memory of the file's bytes, and would write to it as a donated buffer.
    return jnp.array(array)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _read(path: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if not os.path.isfile(path):
        raise ValueError(f"There is no file {path}.")
    try:
        with open(path, "rb") as file:
            entries = safetensors.deserialize(file.read())
        with safetensors.safe_open(path, framework="np") as opened:
            metadata = opened.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file (corrupt or truncated?): {error}.") from error
    except OSError as error:
        raise ValueError(f"Cannot read {path}: {error.strerror}.") from error
    arrays = {}
    for name, entry in entries:
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{path}: the dtype {entry['dtype']} of {name} is not known here.")
        arrays[name] = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays, metadata


def _temporary_beside(path: str) -> str:
    folder, name = os.path.split(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".partial", dir=folder or os.curdir)
    except OSError as error:
        raise ValueError(
            f"Cannot write {path}: {error.strerror} ({folder or os.curdir}). Make the folder, or choose another."
        ) from error
    os.close(handle)
    return temporary
