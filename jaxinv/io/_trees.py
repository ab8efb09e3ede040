"""Reading and writing of pytrees as safetensors files, keyed by the path of each leaf; they hold no executable code."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from .._reading import as_path
from .._types import Checked, PyTree
from .._writing import check_writable as check_writable, write_bytes as write_bytes

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
# entry of the header records them. A file with it has a checksum too, by which `load` knows a damaged file.
_KINDS = "jaxinv.leaves"
_CHECKSUM = "jaxinv.sha256"
_OLD_KINDS = "jaxinv.kinds"  # Files from before there were checksums.
_RESERVED = (_KINDS, _CHECKSUM, _OLD_KINDS)
_SHOWN = 5


def save(
    path: Checked[str | os.PathLike[str]], tree: PyTree, *, metadata: Checked[Mapping[str, str] | None] = None
) -> None:
    """Write the arrays of a pytree to a safetensors file.

    The write is atomic: a temporary file in the same folder is flushed to the disk and renamed. The permissions of an
    existing file stay, and so does a symbolic link to it. The file holds a checksum of its content. Random keys and
    Python numbers are stored too; other leaves (functions, strings) are not, and `load` copies them from its `like`.

    **Arguments:**

    - `path`: the path of the file, whose folder must exist.
    - `tree`: any pytree: a network (Flax NNX or equinox), a state, a dict of arrays.
    - `metadata`: a dict of strings to store in the file; `read_metadata` returns them.

    **Raises:** `ValueError` if the file or its folder cannot be written to, or a leaf has a dtype that the format
    cannot hold; `OSError` if the disk is full.

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
    stored, kinds = {}, {}
    for name, leaf in _named_leaves(tree):
        kind, array = _encode(leaf)
        if array is None:
            continue
        if isinstance(array, jax.ShapeDtypeStruct):
            raise ValueError(f"The leaf {name!r} is the shape of an array, without values; save the array.")
        if array.dtype not in _DTYPES.values():
            raise ValueError(f"The leaf {name!r} has the dtype {array.dtype}, which a safetensors file cannot hold.")
        stored[name] = array
        if kind != str(array.dtype):
            kinds[name] = kind
    metadata = dict(metadata or {})
    if not all(isinstance(s, str) for item in metadata.items() for s in item) or not metadata.keys().isdisjoint(
        _RESERVED
    ):
        taken = ", ".join(map(repr, _RESERVED))
        raise ValueError(f"`metadata` must map strings to strings, and {taken} are taken; got {metadata!r}.")
    metadata[_KINDS] = json.dumps(kinds)
    metadata[_CHECKSUM] = _checksum(stored, metadata)
    write_bytes(path, safetensors.numpy.save(stored, metadata=metadata))


def load(path: Checked[str | os.PathLike[str]], like: PyTree) -> PyTree:
    """Read a pytree that `save` wrote.

    **Arguments:**

    - `path`: the path of the file.
    - `like`: a pytree with the expected structure, shapes and dtypes, such as a new network, or what `jax.eval_shape`
        says of one. Its values are not used, except those of leaves that a file does not hold (functions, strings).

    **Returns:** a tree like `like` with the values of the file, as NumPy arrays where `like` has them and as JAX arrays
    otherwise.

    **Raises:** `ValueError` that names the file if it is missing, truncated or damaged (even by one bit), and that
    names the first leaves that are missing, unexpected, or of another shape or dtype.

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
    path = str(as_path(path, "a safetensors file"))
    stored, metadata = _read(path)
    kinds = read_json(metadata.get(_KINDS, metadata.get(_OLD_KINDS, "{}")), path)
    expected = {}
    for name, leaf in _named_leaves(like):
        kind, array = _encode(leaf)
        if array is not None:
            expected[name] = (tuple(array.shape), kind)
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


def read_metadata(path: Checked[str | os.PathLike[str]]) -> dict[str, str]:
    """The `metadata` that `save` stored in a file.

    **Arguments:**

    - `path`: a file that `save` wrote.

    **Raises:** `ValueError` that names the file if it is missing, corrupt or truncated.
    """
    return {
        key: value for key, value in _read(str(as_path(path, "a safetensors file")))[1].items() if key not in _RESERVED
    }


def read_json(text: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The dict that an entry of the metadata of a file holds as JSON.

    **Arguments:**

    - `text`: the entry.
    - `path`: the file, for the error.

    **Raises:** `ValueError` that names the file if it holds none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is corrupt: an entry of its metadata is no JSON ({error}).") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is corrupt: an entry of its metadata should be a JSON object; it is {text[:40]!r}.")
    return value


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


def _encode(leaf: Any) -> tuple[str, Any]:
    # The kind of a leaf, and the array that represents it in the file (None: it is not stored).
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return str(leaf.dtype), leaf
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
    if isinstance(like, jax.ShapeDtypeStruct):
        return jnp.array(array)
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
    # Files of other libraries have neither entry.
    written = metadata.pop(_CHECKSUM, None)
    if (written is not None or _KINDS in metadata) and written != _checksum(arrays, metadata):
        raise ValueError(
            f"{path} is damaged: its content is not what was written (the checksum differs). Take a copy of it, or "
            "make it again."
        )
    return arrays, metadata


def _checksum(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    """The SHA-256 of names, dtypes, shapes and values of the arrays, and of the metadata."""
    shapes = {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}
    digest = hashlib.sha256(json.dumps([shapes, metadata], sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
