"""The compiled program that solves a chunk of problems; all chunks of `solve_many` use the same one."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from .._mesh import replicated, sharded
from .._types import PyTree
from ..io import leaf_names
from ._problems import ON_THE_HOST, ProblemSpec, describe

# The exceptions that a function raises for unsuitable arguments.
_MISUSE = (TypeError, ValueError, IndexError, KeyError, AttributeError)


def compile_chunk(spec: ProblemSpec, shared: list, mapped: list[Any], lanes: int, problems: PyTree) -> Any:
    """The program for `lanes` simultaneous problems; a repeated call finds it in the cache of `jax.jit`.

    **Raises:** `ValueError` if `solve` is not a function of one problem that returns arrays.
    """
    where = None if spec.mesh is None else sharded(spec.mesh)
    structs = [
        jax.ShapeDtypeStruct((lanes, *a.shape[1:]), jax.dtypes.canonicalize_dtype(a.dtype), sharding=where)
        for a in mapped
    ]
    try:
        traced = _run.trace(spec, shared, structs)
    except _MISUSE as error:
        raise ValueError(
            "`solve` must be a function of ONE problem, without the leading axis, that returns a pytree of arrays. "
            f"Called with one problem ({describe(problems)}), it raised {type(error).__name__}: {error}"
        ) from error
    # An array in a closure becomes a constant, but a tracer becomes an additional argument.
    if len(traced.jaxpr.in_avals) > len(shared) + len(mapped):
        raise ValueError(f"{ON_THE_HOST} `solve` closes over a traced value of such a transformation.")
    return traced.lower().compile()


def outcome_of_one(program: Any) -> PyTree:
    """Shapes and dtypes of the results of one problem, of what `compile_chunk` returns."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), program.out_info)


def solve_one(spec: ProblemSpec, shared: list, one: list) -> PyTree:
    """The results of one problem, as arrays."""
    solve, problem = spec.merge(shared, one)
    return _check_arrays(solve(problem))


def place(spec: ProblemSpec, shared: list) -> list:
    """Replicate the arrays that all problems share on every device."""
    return shared if spec.mesh is None else jax.device_put(shared, replicated(spec.mesh))


def put(spec: ProblemSpec, part: list[np.ndarray]) -> list:
    """Distribute one chunk of problems over the devices."""
    return jax.device_put(part, None if spec.mesh is None else sharded(spec.mesh))


@functools.partial(jax.jit, static_argnums=0)
def _run(spec: ProblemSpec, shared: list, mapped: list) -> PyTree:
    lanes = jax.vmap(lambda shared, one: solve_one(spec, shared, one), in_axes=(None, 0))
    if spec.mesh is not None:
        # In a sharded `jax.jit` the devices would share one loop, in which each step waits for all devices.
        cut = PartitionSpec(spec.mesh.axis_names)
        lanes = jax.shard_map(lanes, mesh=spec.mesh, in_specs=(PartitionSpec(), cut), out_specs=cut, check_vma=False)
    return lanes(shared, mapped)


def _check_arrays(outcome: PyTree) -> PyTree:
    named = list(zip(leaf_names(outcome), jax.tree.leaves(outcome), strict=True))
    for name, leaf in named:
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
            raise ValueError(f"it returns a {type(leaf).__name__}{name and f' at {name}'}, which is not an array.")
    if not named:
        raise ValueError("it returns no array. Return what is to be kept, a `Solution` for instance.")
    return jax.tree.map(jnp.asarray, outcome)
