"""Meshes, shardings and processes that share the work of training and of `scale.solve_many`."""

import atexit
import contextlib
import functools
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ._types import PyTree


def check_mesh(mesh: Any, across: bool = False) -> Mesh | None:
    """The mesh with axes of type `Auto`, or `None` if there is none.

    - `across`: whether it may hold devices of several processes.

    **Raises:** `ValueError` for anything but a mesh of devices of this process, or of all if it may be.
    """
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh):
        raise ValueError(
            f"`mesh` must be a `jax.sharding.Mesh`, such as `jax.make_mesh((n,), ('devices',), "
            f"axis_types=(jax.sharding.AxisType.Auto,))` with n = `jax.device_count()`; got {type(mesh).__name__}."
        )
    processes = {device.process_index for device in mesh.devices.flat}
    if across and processes not in ({jax.process_index()}, set(range(jax.process_count()))):
        raise ValueError(
            f"`mesh` holds devices of process(es) {sorted(processes)}; it must hold those of one, or of all "
            f"{jax.process_count()}: make it of `jax.devices()`. Got {mesh}."
        )
    if not across and processes != {jax.process_index()}:
        raise ValueError(
            f"`mesh` holds devices of other processes, and the results are collected in this one; make it of "
            f"`jax.local_devices()`. Got {mesh}."
        )
    # `make_mesh` may return axes of type `Explicit`, which require a sharding for every operation.
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def is_across(mesh: Mesh | None) -> bool:
    """Whether a mesh holds devices of other processes."""
    return mesh is not None and any(device.process_index != jax.process_index() for device in mesh.devices.flat)


def leave_in_order() -> bool:
    """See that process 0 ends last, if a process may die without ending all others; whether that is so.

    Such a process (`jax_enable_recoverability`) does not wait for others when it ends. The first one holds the service
    by which they know of each other; if it ended before the others had left, JAX would abort them.
    """
    recoverable = bool(getattr(jax.config, "jax_enable_recoverability", False))
    if recoverable:
        _leave_at_exit()
    return recoverable


@functools.cache
def _leave_at_exit() -> None:
    atexit.register(_leave)


def _leave() -> None:
    from jax.experimental import multihost_utils

    with contextlib.suppress(Exception):
        if jax.process_index() > 0:
            jax.distributed.shutdown()
        else:
            # Returns once all others have left, or died.
            with multihost_utils.live_devices(jax.devices()):
                pass


def sharded(mesh: Mesh) -> NamedSharding:
    """The sharding that cuts the first axis into one piece for each device, over all axes of the mesh."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding with the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def to_host(tree: PyTree) -> PyTree:
    """The same values on the default device, as uncommitted arrays."""
    return jax.tree.map(lambda leaf: jax.numpy.asarray(jax.device_get(leaf)), tree)
