"""The function `solve_many`, which plans the chunks, runs them, and collects or stores the results."""

import os
from collections.abc import Callable
from typing import Any

import diffrax
from jax.sharding import Mesh

from .._types import Checked, PyTree
from ._job import Job
from ._processes import Processes, State
from ._sources import open_source


def solve_many(
    solve: Checked[Callable[..., Any]],
    problems: PyTree,
    *,
    mesh: Checked[Mesh | None] = None,
    chunk_size: Checked[int | None] = None,
    progress: Checked[diffrax.AbstractProgressMeter[Any] | None] = None,
    store: Checked[str | os.PathLike[str] | None] = None,
    on_chunk: Checked[Callable[[int, Any], Any] | None] = None,
    num_problems: Checked[int | None] = None,
    gather: Checked[bool] = False,
) -> Any:
    """Solve many problems: `jax.vmap(solve)(problems)`, in chunks that fit the memory, on the devices of a mesh.

    Each problem has the same result as `solve` of it alone, with its own result code. All chunks use one compiled
    program, each device runs its own loop without waiting for others, and while a chunk is computed the previous one
    is read back. The devices hold two chunks at most; problems and results are in host memory.

    `solve_many` runs on the host. An interrupted call leaves no files or state behind.

    **Arguments:**

    - `solve`: a function of ONE problem that returns a pytree of arrays: a `Solution`, or the parts of it to keep.
        Define it once, outside the call: functions compare by identity, and a new one compiles again. It may close over
        arrays that all problems share. If they are bound as `jax.tree_util.Partial(function, shared)`, or fields of an
        `eqx.Module` with a `__call__`, other values of them do not compile again.
    - `problems`: a pytree of arrays with the problems along the first axis of each: measurements, keys, likelihoods
        made by `operators.batch` or `jax.vmap`. NumPy arrays, including `np.memmap`, are read chunk by chunk. Leaves
        that are no arrays, including Python numbers, are static and the same for all problems.
    - `mesh`: a `jax.sharding.Mesh`, over all of whose axes the problems are distributed; by default only the default
        device is used.
    - `chunk_size`: the number of problems of one compiled call, on all devices together, at most the number of
        problems, static. By default it is the number of problems, halved until the estimate of the compiled program
        fits the free memory; pass it to limit the memory further. A chunk is rounded up to a multiple of the number of
        devices, and the last one is padded by repeating the last problem; the padding is cut off the results, and the
        logger `jaxinv.scale` reports it at level `INFO`.
    - `progress`: a diffrax progress meter, ticked after every chunk: `diffrax.TqdmProgressMeter(refresh_steps=1)`.

    **Returns:** the results of `solve`, of the same type, with a leading axis on every array. They are NumPy arrays in
    host memory, except for result codes and random keys, which are JAX arrays.

    **Raises:** `ValueError` for problems whose leading axes differ (naming them), a `chunk_size` below 1 or above the
    number of problems, a `solve` that is not a function of one problem; `MemoryError` if a chunk needs more memory than
    is free, with the estimate and a `chunk_size` that fits.

    !!! example
        ```python
        import jax, jaxinv
        operator = jaxinv.operators.Downsample((16, 16, 1), 2)
        likelihood = jaxinv.Likelihood(operator, jaxinv.noise.Gaussian(0.1))
        images = jax.random.uniform(jax.random.key(0), (20, 16, 16, 1))
        keys = jax.random.split(jax.random.key(1), 20)
        problems = {"y": jax.vmap(lambda x, k: likelihood.simulate(x, key=k))(images, keys)}
        solve = lambda problem: jaxinv.classical.tikhonov(likelihood, problem["y"], weight=0.1)
        mesh = jax.make_mesh((1,), ("problems",), axis_types=(jax.sharding.AxisType.Auto,))
        solution = jaxinv.scale.solve_many(solve, problems, mesh=mesh, chunk_size=8).check()
        assert solution.value.shape == (20, 16, 16, 1)
        ```
    """
    if progress is not None and not isinstance(progress, diffrax.AbstractProgressMeter):
        raise ValueError(f"`progress` must be a diffrax progress meter; got {type(progress).__name__}.")
    processes = Processes(mesh)
    try:
        source = open_source(solve, problems, processes.mesh, num_problems)
        job = Job(source, processes, chunk_size=chunk_size, store=store, on_chunk=on_chunk, progress=progress)
    except BaseException:
        processes.give_up()
        raise
    job.begin()
    state = State.failed
    try:
        state = State.done if job.solve() else State.stopped
    finally:
        # The others wait for this process, also if it failed.
        states = processes.meet(state, tell=gather and store is None)
    if state is State.stopped:
        raise KeyboardInterrupt(
            f"Stopped after the running chunk. What is done is in the store {store}; the same call of `solve_many` "
            "goes on from there."
        )
    return job.deliver(states, gather)
