"""Checks of the options that all trainers share."""

from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from .._arrays import check_count, check_key, is_concrete, standard_promotion
from .._mesh import check_mesh
from .._types import Key, PyTree
from ._data import fingerprint


class Sizes(NamedTuple):
    """The number of steps of a run, and the sizes of its batches and chunks."""

    num_steps: int
    batch_size: int
    chunk_size: int
    mesh: Mesh | None


def check_host(key: Key, arrays: PyTree, name: str) -> None:
    """Raise unless the trainer runs on the host, with a typed key."""
    check_key(key)
    if not is_concrete(key, *jax.tree.leaves(arrays)):
        raise ValueError(
            f"`{name}` runs on the host and cannot be called inside `jax.jit`, `jax.vmap` or `jax.grad`. To train "
            "several models at once, stack them and let the loss sum over `jax.vmap`."
        )


def check_sizes(num_steps: Any, batch_size: Any, chunk_size: Any, mesh: Any, count: int, across: bool = False) -> Sizes:
    """The sizes of a run on `count` examples; the default chunk is a 50th of the steps, at most 1000.

    - `across`: whether the mesh may hold devices of several processes.
    """
    num_steps, batch_size = check_count(num_steps, "num_steps"), check_count(batch_size, "batch_size")
    if batch_size > count:
        raise ValueError(f"`batch_size` is {batch_size}, more than the {count} examples of `data`.")
    mesh = check_mesh(mesh, across)
    if mesh is not None and batch_size % mesh.size:
        raise ValueError(
            f"`batch_size` is {batch_size}, which the {mesh.size} devices of `mesh` do not divide; take a multiple of "
            f"{mesh.size}, such as {-(-batch_size // mesh.size) * mesh.size}."
        )
    return Sizes(num_steps, batch_size, check_chunk(chunk_size, num_steps), mesh)


def check_chunk(chunk_size: Any, num_steps: int) -> int:
    """The number of steps of one compiled call; by default a 50th of all, at most 1000."""
    return check_count(min(-(-num_steps // 50), 1000) if chunk_size is None else chunk_size, "chunk_size")


def check_accumulate(accumulate: Any, sizes: Sizes) -> int:
    """The number of pieces of a batch, which divide it among all devices."""
    accumulate = check_count(accumulate, "accumulate")
    shares = 1 if sizes.mesh is None else sizes.mesh.size
    if sizes.batch_size % (accumulate * shares):
        raise ValueError(
            f"`accumulate` is {accumulate}, and `batch_size` {sizes.batch_size}; {accumulate} pieces"
            + (f" on {shares} devices" if shares > 1 else "")
            + f" need a multiple of {accumulate * shares}."
        )
    return accumulate


def check_compute_dtype(dtype: Any) -> Any:
    """The dtype of computation, or `None` for that of the weights."""
    if dtype is None:
        return None
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise ValueError(f"`compute_dtype` must be a floating dtype, such as `jax.numpy.bfloat16`; got {dtype!r}.")
    return found


def check_average(ema: Any) -> Array:
    """The decay of the average as an array, 0 for none."""
    if ema is not None and not 0 <= ema < 1:
        raise ValueError(f"`ema` must be in [0, 1), such as .999; got {ema!r}.")
    return jnp.asarray(0.0 if ema is None else ema, jnp.float32)


def check_progress(progress: Any) -> None:
    """Raise unless `progress` is a progress meter or `None`."""
    if progress is not None and not isinstance(progress, diffrax.AbstractProgressMeter):
        raise ValueError(f"`progress` must be a diffrax progress meter; got {type(progress).__name__}.")


def check_weights(weights: dict[str, Array], model: Any, what: str = "model") -> None:
    """Raise if the model has no weights to train."""
    if not weights:
        raise ValueError(
            f"The {what} {type(model).__name__} has no weights to train: no leaf of it is a floating array."
            + (" Is it a pytree?" if len(jax.tree.leaves(model)) == 1 else "")
        )


def check_rate(rate: Any, weights: dict[str, Array]) -> Any:
    """A learning rate as a scalar in the real dtype of the weights; a schedule stays unchanged."""
    if callable(rate):
        return rate
    with standard_promotion():
        dtype = jnp.finfo(jnp.result_type(*weights.values())).dtype
    rate = jnp.asarray(rate, dtype)
    if rate.shape != () or not 0 < float(rate) < np.inf:
        raise ValueError(f"`learning_rate` must be a positive number or an optax schedule; got {rate}.")
    return rate


def describe_rate(rate: Any, optimiser: Any) -> str:
    """The learning rate for a checkpoint, whose program includes schedules and optimisers."""
    if isinstance(optimiser, optax.GradientTransformation):
        return "that of the optimiser"
    return f"a schedule with numbers {fingerprint(rate)}" if callable(rate) else str(rate)
