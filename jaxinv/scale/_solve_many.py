"""The function `solve_many`, which plans the chunks, runs them, and collects or stores the results."""

import inspect
import os
from collections.abc import Callable
from typing import Any

import diffrax
from jax.sharding import Mesh

from .._types import Checked, ProgressMeter, PyTree
from ._job import Job
from ._processes import Processes, State
from ._sources import open_source


def solve_many(
    solve: Checked[Callable[..., PyTree]],
    problems: PyTree,
    *,
    mesh: Checked[Mesh | None] = None,
    chunk_size: Checked[int | None] = None,
    progress: Checked[ProgressMeter | None] = None,
    store: Checked[str | os.PathLike[str] | None] = None,
    on_chunk: Checked[Callable[[int, PyTree], object] | None] = None,
    num_problems: Checked[int | None] = None,
    gather: Checked[bool] = False,
) -> PyTree:
    """Solve many problems: `jax.vmap(solve)(problems)`, in chunks that fit the memory, on all devices of all processes.

    Each problem has the same result as `solve` of it alone, with its own result code. All chunks use one compiled
    program, each device runs its own loop without waiting for others, and while a chunk is computed the previous one
    is read back and the next one read. The devices hold two chunks at most, and the host a few, besides results in
    memory.

    **A run that survives.** With a `store` every chunk is written as soon as it is solved. If the run is stopped, even
    by `kill -9`, the same call goes on from there, and its results are equal to the bit to those of a run that was
    never stopped. Only the chunk that each process was computing is lost. Ctrl-C finishes that chunk and writes it; a
    second Ctrl-C stops at once. A chunk is a range of numbered problems, so a run may go on with another mesh or
    another number of processes. Each device then solves as many problems at once as the devices of the first call
    did, on which the last bit of a result depends; with a smaller `chunk_size`, or less memory, results are equal up
    to rounding.

    **Several processes.** After `jax.distributed.initialize` all processes make the same call. Process `i` of `n` reads
    and solves numbers `i`, `i + n`, ... of the missing chunks, on its own devices. The processes communicate at the
    beginning, to check that their problems are the same, and at the end. With
    `jax.config.update("jax_enable_recoverability", True)` before `initialize`, the remaining ones finish their parts
    when one dies, unless it is process 0, which runs the coordination service of JAX.

    **Arguments:**

    - `solve`: a function of ONE problem that returns a pytree of arrays: a `Solution`, or the parts of it to keep.
        Define it once, outside the call: functions compare by identity, and a new one compiles again. It may close over
        arrays that all problems share. If they are bound as `jax.tree_util.Partial(function, shared)`, or fields of an
        `eqx.Module` with a `__call__`, other values of them do not compile again.
    - `problems`: one of these.
        A pytree of arrays with the problems along the first axis of each: measurements, keys, likelihoods made by
        `operators.batch` or `jax.vmap`. What lies on a disk (`np.memmap`, an array of h5py, of Zarr or of tensorstore)
        is read chunk by chunk. Leaves that are no arrays, including Python numbers, are static and the same for all
        problems. Lists and tuples are pytrees.
        A data source: anything with `__len__` and `__getitem__` that is no pytree, such as one of grain, whose item `i`
        is problem `i`.
        An iterator of chunks: pytrees of arrays with as many problems each, except the last, which may have fewer. A
        chunk is what it gives. To go on, or with several processes, each needs the same iterator from its beginning.
    - `mesh`: a `jax.sharding.Mesh`, over all of whose axes the problems are distributed. By default that is the default
        device, or of several processes all devices. A mesh of devices of one process is for this process alone.
    - `chunk_size`: the number of problems of one compiled call, on all devices of a process together, at most the
        number of problems, static. By default it is the number of problems (with `store` or `on_chunk` about a 64th of
        it, so that little is lost; of a store that exists, its own), halved until the estimate of the compiled program
        fits the free memory; pass it to limit the memory further. A chunk is rounded up to a multiple of the number of
        devices, and the last one is padded by repeating the last problem; the padding is cut off the results, and the
        logger `jaxinv.scale` reports it at level `INFO`.
    - `progress`: a diffrax progress meter, ticked after every chunk: `diffrax.TqdmProgressMeter(refresh_steps=1)`.
    - `store`: the path or URL (`gs://`, `s3://`) of a store, a group of Zarr 3 arrays, which needs
        `pip install "jaxinv[scale]"`. It records checksums, and a fingerprint of problems, program and versions.
        Arrays in memory are compared whole, sources by 16 of their problems, iterators as they pass.
    - `on_chunk`: called as `on_chunk(start, results)` after every chunk that this process has solved (and written, if
        there is a store), with the number of its first problem. Nothing is returned then.
    - `num_problems`: the number of problems: of an iterator, which may give more but not fewer, or to solve only the
        first so many.
    - `gather`: with several processes and no store, give all of them all results.

    **Returns:** the results of `solve`, of the same type, with a leading axis on every array. They are NumPy arrays in
    host memory, except for result codes and random keys, which are JAX arrays. With a store they are what
    `open_results` gives: every array but the codes is read as it is asked for. With several processes and neither a
    store nor `gather`, each gets an `Addressable`: the numbers of its problems, and their results.

    **Raises:** `ValueError` for problems whose leading axes differ (naming them), a `chunk_size` below 1 or above the
    number of problems, a `solve` that is not a function of one problem, an iterator that ends early or gives other
    shapes, a store that cannot be written, lacks room or is of another run (saying what differs), and processes with
    different problems or versions (naming them); `MemoryError` if a chunk needs more memory than is free, with the
    estimate and a `chunk_size` that fits; `ProcessError` that names the process whose chunks are missing at the end;
    `OSError` if the disk of the store is full. What was written before an error is kept. Chunks of a store that are
    damaged are a warning, and are solved again.

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

        # In a store; the second call, as after an interruption, finds all of it done.
        import tempfile
        store = f"{tempfile.mkdtemp()}/run"
        for _ in range(2):
            stored = jaxinv.scale.solve_many(solve, problems, store=store, chunk_size=8)
        assert stored.value[3:5].shape == (2, 16, 16, 1)
        ```
    """
    if progress is not None and not isinstance(progress, diffrax.AbstractProgressMeter):
        raise ValueError(f"`progress` must be a diffrax progress meter; got {type(progress).__name__}.")
    _check_options(store, on_chunk, gather)
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


def _check_options(store: Any, on_chunk: Any, gather: Any) -> None:
    if store is not None and not (isinstance(store, str | os.PathLike) and os.fspath(store)):
        raise ValueError(f"`store` must be a path or a URL; got {store!r}.")
    if on_chunk is not None and not _takes_two(on_chunk):
        raise ValueError(f"`on_chunk` must be a function `on_chunk(start, results)`; got {on_chunk!r}.")
    if not isinstance(gather, bool):
        raise ValueError(f"`gather` must be True or False; got {gather!r}.")


def _takes_two(function: Any) -> bool:
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(0, None)
    except TypeError:
        return False
    except ValueError:
        pass  # Some functions written in C have no signature.
    return True
