"""Results that lie in a store and are read as they are asked for."""

import json
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._solution import RESULTS, Solution
from .._types import PyTree
from ..io import leaf_names
from ._store import Leaf, Store, first_line, named


class StoredArray:
    """An array of results in a store; an index reads the part that it selects, and no more.

    `array[3]`, `array[100:200]`, `array[[1, 5]]` and `array[mask]` are NumPy arrays, and `numpy.asarray(array)` reads
    the whole.

    `shape`, `dtype`, `ndim`, `size` and `nbytes` are as of a NumPy array.

    **Arguments:** `open_results` and `solve_many` make such arrays.

    - `array`: the array of tensorstore, which may have more rows.
    - `count`: the number of rows, one for each problem.
    - `store`: the path of the store, for messages.
    - `key`: the generator of random keys, if the array holds keys.

    **Raises:** a read raises a `ValueError` if a chunk is damaged.

    !!! example
        ```python
        import jax.numpy as jnp, tempfile
        from jaxinv import scale
        stored = scale.solve_many(jnp.square, jnp.arange(6.0), store=f"{tempfile.mkdtemp()}/run")
        assert stored[2:4].tolist() == [4.0, 9.0]
        ```
    """

    def __init__(self, array: Any, count: int, store: str, key: str | None = None):
        self._array, self._store, self._key = array, store, key
        struct = jax.ShapeDtypeStruct((count, *array.shape[1:]), array.dtype.numpy_dtype)
        if key is not None:
            struct = jax.eval_shape(lambda data: jax.random.wrap_key_data(data, impl=key), struct)
        self.shape: tuple[int, ...] = struct.shape
        self.dtype: Any = struct.dtype
        self.ndim: int = len(self.shape)
        self.size: int = math.prod(self.shape)
        self.nbytes: int = math.prod((count, *array.shape[1:])) * array.dtype.numpy_dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        first, *rest = index if isinstance(index, tuple) else (index,)
        if first is Ellipsis or first is None:
            return np.asarray(self)[index]
        dropped = isinstance(first, int | np.integer) and not isinstance(first, bool)
        if isinstance(first, slice) and first.step in (None, 1):
            start, stop, _ = first.indices(len(self))
            found = self._read(slice(start, max(start, stop)))
        else:
            # NumPy's own rules say which rows an index names.
            rows = np.arange(len(self))[first]
            found = self._read(int(rows) if dropped else rows)
        return found[tuple(rest) if dropped else (slice(None), *rest)] if rest else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self._key is not None:
            raise TypeError("These are random keys, which are no NumPy array; take `array[:]`.")
        del copy
        return np.asarray(self[:], dtype)

    def __repr__(self) -> str:
        return f"StoredArray({self.dtype}{list(self.shape)}, {self._store})"

    def _read(self, rows: Any) -> Any:
        try:
            found = np.asarray(self._array[rows].read().result())
        except ValueError as error:
            raise ValueError(
                f"The store {self._store} is damaged: {first_line(error)}. The call of `solve_many` that "
                "wrote it solves what is damaged again."
            ) from error
        return found if self._key is None else jax.random.wrap_key_data(jnp.asarray(found), impl=self._key)


def open_results(store: str | os.PathLike[str], *, like: PyTree | None = None) -> PyTree:
    """The results in a store, read as they are asked for.

    **Arguments:**

    - `store`: the path or URL that `solve_many` was given.
    - `like`: a pytree of the structure that `solve` returns, such as `jax.eval_shape(solve, problem)`, if that holds
        objects other than solutions, dicts, lists and tuples. Without it, such an object is a dict of its arrays by
        name.

    **Returns:** what `solve` returned, a `Solution` for instance, with a leading axis for the problems. The codes are
    read, four bytes a problem; every other array is a `StoredArray`.

    **Raises:** `ValueError` if there is no store, or if it lacks chunks: a run that was stopped goes on by the same
    call of `solve_many`.

    !!! example
        ```python
        import jax.numpy as jnp, tempfile
        import jaxinv
        operator = jaxinv.operators.Identity((4, 4, 1))
        likelihood = jaxinv.Likelihood(operator, jaxinv.noise.Gaussian(0.1))
        solve = lambda y: jaxinv.classical.tikhonov(likelihood, y, weight=1.0)
        store = f"{tempfile.mkdtemp()}/run"
        jaxinv.scale.solve_many(solve, jnp.ones((10, 4, 4, 1)), store=store, chunk_size=5)
        solution = jaxinv.scale.open_results(store).check()
        assert solution.value[3].shape == (4, 4, 1)
        ```
    """
    opened = Store(store)
    opened.open()
    return stored_results(opened, None if like is None else jax.tree.structure(like))


def stored_results(store: Store, structure: Any = None) -> Any:
    """The results in an open store, as a tree of `structure`, or of the one that the store describes.

    **Raises:** `ValueError` if chunks are missing, or the structure has another number of leaves.
    """
    count, size = store.about["count"], store.about["chunk"]
    present = len(store.chunk_numbers())
    if count is None or present < -(-count // size):
        of = "" if count is None else f" of {-(-count // size)}"
        raise ValueError(
            f"The store {store.url} is not complete: it has {present}{of} chunks of {size} problems. Call `solve_many` "
            "as before to go on."
        )
    leaves = [
        StoredArray(array, count, store.url, leaf.key) for array, leaf in zip(store.arrays, store.leaves, strict=True)
    ]
    if structure is None:
        example = _decode(store.about["tree"])
        order, structure = jax.tree.flatten(example)
        leaves = [leaves[int(i)] for i in order]
    if structure.num_leaves != len(leaves):
        raise ValueError(
            f"`like` has {structure.num_leaves} arrays, and the store {store.url} has {len(leaves)}: "
            f"{', '.join(leaf.name for leaf in store.leaves)}."
        )
    return with_codes(jax.tree.unflatten(structure, leaves))


def with_codes(tree: PyTree) -> PyTree:
    """A tree whose result codes are JAX arrays: `RESULTS[code]` does not accept the scalars of NumPy."""
    is_code = lambda node: isinstance(node, type(RESULTS.successful))
    return jax.tree.map(lambda node: jax.tree.map(jnp.asarray, node) if is_code(node) else node, tree, is_leaf=is_code)


def describe_leaves(outcome: PyTree) -> list[Leaf]:
    """The arrays of one problem's results, from their shapes.

    **Raises:** `ValueError` for a dtype that Zarr does not have.
    """
    names = leaf_names(outcome)
    leaves = []
    for name, array, leaf in zip(names, named(names), jax.tree.leaves(outcome), strict=True):
        key = None
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            key = str(leaf.dtype).removeprefix("key<").removesuffix(">")
            key = {"fry": "threefry2x32", "urbg": "unsafe_rbg"}.get(key, key)
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        leaves.append(Leaf(name, array, str(leaf.dtype), tuple(leaf.shape), key))
    return leaves


def describe_tree(outcome: PyTree) -> Any:
    """The structure of a tree as JSON, with the number of the leaf in the place of each leaf."""
    numbered = jax.tree.unflatten(jax.tree.structure(outcome), range(jax.tree.structure(outcome).num_leaves))
    return json.loads(json.dumps(_encode(numbered)))


def _encode(node: Any) -> Any:
    if node is None or isinstance(node, int):
        return node
    if isinstance(node, Solution):
        return {"Solution": [_encode(part) for part in (node.value, node.result, node.stats, node.aux)]}
    if isinstance(node, type(RESULTS.successful)) and len(jax.tree.leaves(node)) == 1:
        return {"RESULTS": jax.tree.leaves(node)[0]}
    if isinstance(node, dict) and all(isinstance(name, str) for name in node):
        return {"dict": {name: _encode(part) for name, part in node.items()}}
    if isinstance(node, list | tuple) and type(node) in (list, tuple):
        return {type(node).__name__: [_encode(part) for part in node]}
    return {"dict": dict(zip(leaf_names(node), jax.tree.leaves(node), strict=True))}


def _decode(node: Any) -> Any:
    if node is None:
        return None
    if isinstance(node, int):
        return jnp.asarray(node)
    ((kind, inner),) = node.items()
    if kind == "Solution":
        return Solution(*map(_decode, inner))
    if kind == "RESULTS":
        return jax.tree.map(lambda code: jnp.asarray(inner), RESULTS.successful)
    if kind == "dict":
        return {name: _decode(part) for name, part in inner.items()}
    return {"list": list, "tuple": tuple}[kind](map(_decode, inner))
