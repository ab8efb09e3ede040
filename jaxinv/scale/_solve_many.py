"""The function `solve_many`, which plans the chunks, runs them, and collects the results on the host."""

import logging
import math
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from .._checks import checked
from .._mesh import check_mesh
from .._solution import RESULTS
from .._types import Checked, PyTree
from ._memory import allowance, free, in_words, is_out_of_memory, largest, needed
from ._problems import ProblemSpec, is_key, split, take, to_host
from ._program import compile_chunk, place, put

_log = logging.getLogger(__name__)


@checked()
def solve_many(
    solve: Checked[Callable[..., Any]],
    problems: PyTree,
    *,
    mesh: Checked[Mesh | None] = None,
    chunk_size: Checked[int | None] = None,
    progress: Checked[diffrax.AbstractProgressMeter[Any] | None] = None,
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
    mesh = check_mesh(mesh)
    if progress is not None and not isinstance(progress, diffrax.AbstractProgressMeter):
        raise ValueError(f"`progress` must be a diffrax progress meter; got {type(progress).__name__}.")
    spec, shared, mapped, count = split(solve, problems, mesh)
    _check_chunk_size(chunk_size, count)
    program, lanes, size = _plan(spec, shared, mapped, problems, count, chunk_size)
    chunks = math.ceil(count / lanes)
    if chunks * lanes > count:
        _log.info(
            "%d problems in %d chunk(s) of %d: the last problem is solved %d more time(s), as padding that is cut off.",
            count,
            chunks,
            lanes,
            chunks * lanes - count,
        )
    meter = None if progress is None else progress.init()
    try:
        results = _Results(count)
        shared = place(spec, shared)
        for start in range(0, count, lanes):
            # The dispatch is asynchronous, so the previous chunk is read back meanwhile.
            results.expect(program(shared, put(spec, take(mapped, start, lanes))))
            if progress is not None and results.done:
                meter = progress.step(meter, jnp.asarray(results.done / count))
        whole = results.collect()
        if progress is not None:
            progress.step(meter, jnp.ones(()))
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        advice = f"try `chunk_size={lanes // 2}`" if lanes > _device_count(spec) else "one problem does not fit"
        raise MemoryError(
            f"Out of memory with {lanes} problems at once, which were estimated to need {in_words(size)}: {advice}."
        ) from error
    finally:
        if progress is not None:
            progress.close(meter)
    return whole


class _Results:
    """Results in host memory, filled chunk by chunk; the newest chunk stays on its devices until the next arrives."""

    def __init__(self, count: int):
        self.count, self.done = count, 0
        self.pending: list | None = None
        self.arrays: list[np.ndarray] = []
        self.treedef: Any = None
        self.impls: list[Any] = []

    def expect(self, outcome: PyTree) -> None:
        """Accept a chunk that is being computed, and read back the previous one."""
        before = self.pending
        self.pending, self.treedef = jax.tree.flatten(outcome)
        for leaf in self.pending:
            leaf.copy_to_host_async()
        if before is not None:
            self._store(before)

    def collect(self) -> PyTree:
        """All results, as one pytree."""
        if self.pending is not None:
            self._store(self.pending)
        leaves = [
            array if impl is None else jax.random.wrap_key_data(jnp.asarray(array), impl=impl)
            for array, impl in zip(self.arrays, self.impls, strict=True)
        ]
        # Result codes stay JAX arrays: `RESULTS[code]` does not accept the NumPy scalar that indexing would return.
        is_code = lambda node: isinstance(node, type(RESULTS.successful))
        return jax.tree.map(
            lambda node: jax.tree.map(jnp.asarray, node) if is_code(node) else node,
            jax.tree.unflatten(self.treedef, leaves),
            is_leaf=is_code,
        )

    def _store(self, leaves: list[jax.Array]) -> None:
        self.impls = [jax.random.key_impl(leaf) if is_key(leaf) else None for leaf in leaves]
        end = min(self.done + len(leaves[0]), self.count)
        for i, leaf in enumerate(leaves):
            part = to_host(leaf)
            if i == len(self.arrays):
                self.arrays.append(np.empty((self.count, *part.shape[1:]), part.dtype))
            self.arrays[i][self.done : end] = part[: end - self.done]
        self.done = end


def _plan(
    spec: ProblemSpec, shared: list, mapped: list[np.ndarray], problems: PyTree, count: int, chunk_size: int | None
) -> tuple[Any, int, int | float]:
    """The compiled program, the number of problems that it solves, and the estimate of the bytes that it needs."""
    spread = _device_count(spec)
    devices = [_default_device()] if spec.mesh is None else list(spec.mesh.devices.flat)
    program = lambda each: compile_chunk(spec, shared, mapped, each * spread, problems)
    one = lambda each: needed(lambda: program(each), devices)
    # With several chunks, memory holds two at a time: one is read back while the next is computed.
    need = lambda each: one(each) * (1 if each * spread >= count else 2)
    fitting = lambda start, limit: start if need(start) <= limit else largest(one, start, limit / 2)
    first = math.ceil((count if chunk_size is None else chunk_size) / spread)
    available = free(devices)
    chosen = first if need(first) <= available else None
    if chunk_size is None:
        # A single problem may exceed the allowance, up to all free memory.
        chosen = fitting(first, allowance(available, devices)) or fitting(1, available)
    if chosen is None:
        fits = largest(one, first, available / 2)
        advice = (
            f"Not even {spread} would fit, which needs about {in_words(need(1))}. Take smaller problems or float32, or "
            "let `solve` return less."
            if fits is None
            else f"Take `chunk_size={fits * spread}`, which needs about {in_words(need(fits))}."
        )
        raise MemoryError(
            f"{first * spread} problems at once need about {in_words(need(first))}, by the compiled program, and "
            f"{in_words(available)} are free. {advice}"
        )
    return program(chosen), chosen * spread, need(chosen)


def _device_count(spec: ProblemSpec) -> int:
    return 1 if spec.mesh is None else spec.mesh.size


def _default_device() -> Any:
    (device,) = jnp.zeros(()).devices()
    return device


def _check_chunk_size(chunk_size: Any, count: int) -> None:
    if chunk_size is None:
        return
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int | np.integer):
        raise ValueError(f"`chunk_size` must be an integer, or `None` for as many as fit; got {chunk_size!r}.")
    if not 1 <= chunk_size <= count:
        raise ValueError(
            f"`chunk_size` is {chunk_size}; it must be at least 1 and at most the number of problems, {count}. Leave "
            "it out to take as many as fit the memory."
        )
