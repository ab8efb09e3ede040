"""The arguments of `solve_many`, split into mapped arrays, shared arrays, and static data; `_sources.py` reads them."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from .._arrays import is_concrete, native
from .._types import Checked, PyTree
from ..io import leaf_names

ON_THE_HOST = (
    "`solve_many` runs on the host and cannot be called inside `jax.jit`, `jax.vmap` or `jax.grad`. There, call "
    "`jax.vmap(solve)(problems)`."
)
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class ProblemSpec:
    """`(solve, problems)` without the values of arrays; it is hashable, as the key of a compiled program."""

    treedef: Any
    static: tuple[Any, ...]  # For each leaf: None for an array, else its value and type (since 1 == True).
    shared: tuple[bool, ...]  # For each leaf that is an array: whether it belongs to `solve`.
    keys: tuple[Any, ...]  # For each mapped array: the generator of an array of random keys, or None.
    mesh: Mesh | None

    @property
    def devices(self) -> list[Any]:
        """The devices that share a chunk."""
        if self.mesh is not None:
            return list(self.mesh.devices.flat)
        (device,) = jnp.zeros(()).devices()
        return [device]

    def merge(self, shared: list, mapped: list) -> tuple[Callable, PyTree]:
        """`solve` and one problem, rebuilt from their arrays."""
        ours = (a if k is None else jax.random.wrap_key_data(a, impl=k) for a, k in zip(mapped, self.keys, strict=True))
        theirs, roles = iter(shared), iter(self.shared)
        leaves = [s[1] if s is not None else next(theirs) if next(roles) else next(ours) for s in self.static]
        return jax.tree.unflatten(self.treedef, leaves)


class Lazy:
    """An array that is read slice by slice: a `np.memmap`, or an array of HDF5, of Zarr or of tensorstore."""

    def __init__(self, array: Any):
        self.array = array
        self.shape = tuple(int(n) for n in array.shape)
        # The types of tensorstore name NumPy's.
        try:
            self.dtype = np.dtype(getattr(array.dtype, "numpy_dtype", array.dtype)).newbyteorder("=")
        except TypeError:
            raise ValueError(
                f"`problems` holds a {type(array).__name__} of {array.dtype}, which is no dtype of NumPy; convert it "
                "by `numpy.asarray`."
            ) from None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        return np.ascontiguousarray(self.array[start:stop], self.dtype)


def split(
    solve: Checked[Callable[..., Any]], problems: PyTree, mesh: Mesh | None
) -> tuple[ProblemSpec, list, list[Any], int]:
    """The spec, the arrays of `solve`, those of `problems` (in host memory, or `Lazy`), and the number of problems.

    **Raises:** `ValueError` that names the leaf that cannot be mapped.
    """
    _check_solve(solve)
    leaves, treedef = jax.tree.flatten((solve, problems))
    num_solve_leaves = len(jax.tree.leaves(solve))
    names = ["solve"] * num_solve_leaves + leaf_names(problems)
    # Inside `jax.jit` every new array is a tracer.
    if not is_concrete(jnp.zeros(()), *leaves):
        raise ValueError(ON_THE_HOST)
    is_ours = [is_array(leaf) if i < num_solve_leaves else is_array_like(leaf) for i, leaf in enumerate(leaves)]
    static = tuple(
        None if ours else (type(leaf), _hashable(leaf, name))
        for ours, leaf, name in zip(is_ours, leaves, names, strict=True)
    )
    arrays = [(i < num_solve_leaves, names[i], leaf) for i, leaf in enumerate(leaves) if is_ours[i]]
    mapped = [(name, leaf) for is_shared, name, leaf in arrays if not is_shared]
    count = _check_leading(mapped)
    for name, leaf in mapped:
        if not (is_key(leaf) or _is_number(leaf)):
            raise ValueError(f"`problems`: {_named(name)} has the dtype {leaf.dtype}, which JAX does not compute with.")
    spec = ProblemSpec(
        treedef=treedef,
        static=static,
        shared=tuple(is_shared for is_shared, _, _ in arrays),
        keys=tuple(jax.random.key_impl(leaf) if is_key(leaf) else None for _, leaf in mapped),
        mesh=mesh,
    )
    shared = [leaf for is_shared, _, leaf in arrays if is_shared]
    return spec, shared, [readable(leaf) for _, leaf in mapped], count


def readable(leaf: Any) -> Any:
    """An array of problems, of which slices can be taken: what is on a disk stays there."""
    return to_host(leaf) if is_array(leaf) and not isinstance(leaf, np.memmap) else Lazy(leaf)


def to_host(leaf: Any) -> np.ndarray:
    """An array in host memory, without a copy where it is there already; random keys as their data."""
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else native(leaf))


def take(arrays: list[Any], start: int, lanes: int) -> list[np.ndarray]:
    """The `lanes` problems from `start` on; the last problem is repeated as padding."""
    parts = [array[start : start + lanes] for array in arrays]
    missing = lanes - len(parts[0])
    return [np.concatenate([p, np.repeat(p[-1:], missing, axis=0)]) for p in parts] if missing else parts


def describe(problems: PyTree) -> str:
    """The names, dtypes and shapes of the arrays of one problem."""
    named = zip(leaf_names(problems), jax.tree.leaves(problems), strict=True)
    shown = [f"{name or 'the array'}: {a.dtype}{list(a.shape[1:])}" for name, a in named if is_array_like(a)]
    return ", ".join(shown[:_SHOWN]) + (" ..." if len(shown) > _SHOWN else "")


def _check_solve(solve: Any) -> None:
    if not callable(solve):
        raise ValueError(f"`solve` must be a function of one problem; got {type(solve).__name__}.")
    try:
        signature = inspect.signature(solve)
    except ValueError:
        return  # Some functions written in C have no signature.
    try:
        signature.bind(None)
    except TypeError as error:
        raise ValueError(
            f"`solve` must be a function of one problem, called as `solve(problem)`; its arguments are {signature}: "
            f"{error}. Put all that differs from problem to problem into `problems`, and bind the rest: "
            "`lambda problem: verb(likelihood, problem['y'], weight=problem['weight'])`."
        ) from error


def _check_leading(mapped: list[tuple[str, Any]]) -> int:
    if not mapped:
        raise ValueError("`problems` holds no array; the problems are along the first axis of its arrays.")
    counts = [leaf.shape[0] if len(leaf.shape) else None for _, leaf in mapped]
    usual = max(counts, key=counts.count)
    if usual is None or counts.count(usual) < len(counts):
        clear = usual is not None and 2 * counts.count(usual) > len(counts)
        odd = [f"{_named(name)} {list(a.shape)}" for name, a in mapped if not clear or a.shape[:1] != (usual,)]
        raise ValueError(
            "Every array of `problems` must have the problems along its first axis, the same number of them; "
            f"{f'most have {usual}, these do not' if clear else 'got'}: {', '.join(odd[:_SHOWN])}"
            f"{' ...' if len(odd) > _SHOWN else ''}. What all problems share belongs to `solve`: bind it by "
            "`jax.tree_util.Partial(solve, shared)`, or let `solve` close over it."
        )
    if usual == 0:
        raise ValueError("`problems` is empty: there are 0 along the first axis.")
    return usual


def _hashable(leaf: Any, name: str) -> Any:
    try:
        hash(leaf)
    except TypeError as error:
        raise ValueError(
            f"{_named(name)} is a {type(leaf).__name__}, neither an array nor hashable; it would compile anew at every "
            "call. Make it an array, or leave it out of `problems`."
        ) from error
    return leaf


def _named(name: str) -> str:
    return name or "the array"


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array in memory (or a `np.memmap`)."""
    return isinstance(leaf, jax.Array | np.ndarray)


def is_array_like(leaf: Any) -> bool:
    """Whether a leaf is an array, or something on a disk that has slices like one."""
    lazy = all(hasattr(leaf, name) for name in ("shape", "dtype", "__getitem__")) and not isinstance(leaf, np.generic)
    return is_array(leaf) or lazy


def _is_number(leaf: Any) -> bool:
    dtype = leaf.dtype if is_array(leaf) else Lazy(leaf).dtype
    return jnp.issubdtype(dtype, np.number) or jnp.issubdtype(dtype, np.bool_)


def is_key(leaf: Any) -> bool:
    """Whether an array is one of typed random keys."""
    return isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
