"""The time and memory of a run, measured on its first chunk."""

import dataclasses
import math
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from .._types import Checked, PyTree
from ._chunk_size import check_chunk_size, choose, first_choice
from ._memory import free, in_words
from ._problems import take
from ._processes import Processes
from ._program import outcome_of_one, place, put
from ._sources import open_source
from ._stored import describe_leaves


@dataclasses.dataclass(frozen=True)
class Plan:
    """The time and memory of a run of `solve_many`; its printed form is a table.

    - `chunk_size`: the number of problems of one compiled call.
    - `devices`: the number of devices that share it.
    - `compile_seconds`, `chunk_seconds`: the time to trace and compile, and that of one chunk.
    - `chunk_bytes`, `free_bytes`: the memory that two chunks need, by the compiled program, and the free memory: those
      of the host on a processor, otherwise those of one device.
    - `read_bytes`, `written_bytes`: the arrays of one problem, and of its result.
    - `num_problems`: the number of problems, or `None` if it is unknown.
    """

    num_problems: int | None
    chunk_size: int
    devices: int
    compile_seconds: float
    chunk_seconds: float
    chunk_bytes: float
    free_bytes: float
    read_bytes: int
    written_bytes: int

    @property
    def problem_seconds(self) -> float:
        """The time of one problem, in seconds of one device."""
        return self.chunk_seconds * self.devices / self.chunk_size

    def seconds(self, num_problems: int | None = None, devices: int | None = None) -> float:
        """The estimate for so many problems on so many devices, in whole chunks and with one compilation.

        **Arguments:**

        - `num_problems`: the number of problems; by default that of the plan.
        - `devices`: the number of devices, of the same kind; by default that of the plan.

        **Raises:** `ValueError` if the number of problems is not known, or a number is below 1.
        """
        number = self.num_problems if num_problems is None else num_problems
        devices = self.devices if devices is None else devices
        if number is None or number < 1 or devices < 1:
            raise ValueError(f"`num_problems` and `devices` must be positive; got {number} and {devices}.")
        # Devices beyond those of the plan take chunks of their own.
        turns = math.ceil(math.ceil(number / self.chunk_size) / max(devices / self.devices, 1e-9))
        return self.compile_seconds + turns * self.chunk_seconds

    def __repr__(self) -> str:
        rows = [
            ("problems", "unknown" if self.num_problems is None else f"{self.num_problems:,}".replace(",", " ")),
            ("problems in a chunk", f"{self.chunk_size} on {self.devices} device(s)"),
            ("compilation", _duration(self.compile_seconds)),
            ("a chunk", _duration(self.chunk_seconds)),
            ("a problem, on one device", _duration(self.problem_seconds)),
            ("memory of two chunks", f"{in_words(self.chunk_bytes)} of {in_words(self.free_bytes)} free"),
            ("read for a problem", in_words(self.read_bytes)),
            ("written for a problem", in_words(self.written_bytes)),
        ]
        if self.num_problems is not None:
            rows.append(("results", in_words(self.num_problems * self.written_bytes)))
            rows += [(f"all, on {d} device(s)", _duration(self.seconds(devices=d))) for d in self._shown()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _shown(self) -> list[int]:
        return sorted({self.devices, 8 * self.devices, 1000 * self.devices})


def plan(
    solve: Checked[Callable[..., PyTree]],
    problems: PyTree,
    *,
    mesh: Checked[Mesh | None] = None,
    chunk_size: Checked[int | None] = None,
    num_problems: Checked[int | None] = None,
) -> Plan:
    """Estimate the time and memory of `solve_many`: compile one chunk, and solve it twice.

    The time of a chunk is that of its second call, with the transfer of problems and results. It is the time of the
    first problems: if later ones need more steps, a run takes longer. An iterator gives up its first chunk.

    **Arguments:**

    - `solve`, `problems`, `mesh`, `chunk_size`, `num_problems`: as of `solve_many`, with a store: by default a chunk is
        about a 64th of the problems.

    **Returns:** a `Plan`, which prints as a table; `plan.seconds(10**9, devices=1000)` is the estimate for another
    size.

    **Raises:** `ValueError` and `MemoryError` as `solve_many`.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import scale
        plan = scale.plan(jnp.sort, jnp.ones((1000, 28)))
        print(plan)
        assert plan.seconds(10**6) > plan.seconds(10**6, devices=8)
        ```
    """
    processes = Processes(mesh)
    source = open_source(solve, problems, processes.mesh, num_problems)
    check_chunk_size(chunk_size, source.count)
    first = first_choice(source, chunk_size, source.chunk_size, True, processes.count)
    began = time.perf_counter()
    planned = choose(source, first, chunk_size is not None, source.count)
    compiled = time.perf_counter() - began
    spec, devices = source.spec, source.spec.devices
    shared = place(spec, source.shared)
    chunk = next(source.chunks(source.chunk_size or planned.lanes, lambda number: number == 0))
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        jax.device_get(_data(planned.program(shared, put(spec, take(chunk.arrays, 0, planned.lanes)))))
        seconds = time.perf_counter() - began
    leaves = describe_leaves(outcome_of_one(planned.program))
    return Plan(
        num_problems=source.count,
        chunk_size=planned.lanes,
        devices=len(devices),
        compile_seconds=compiled,
        chunk_seconds=seconds,
        chunk_bytes=float(planned.size),
        free_bytes=free(devices),
        read_bytes=sum(array.dtype.itemsize * math.prod(array.shape[1:]) for array in source.mapped),
        written_bytes=sum(np.dtype(jax.numpy.dtype(leaf.dtype)).itemsize * math.prod(leaf.shape) for leaf in leaves),
    )


def _data(outcome: PyTree) -> PyTree:
    is_key = lambda leaf: jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, outcome)


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
