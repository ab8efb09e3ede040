"""The processes that share a run. They meet before the work and after it; no solve waits for another process."""

import contextlib
import enum
import logging
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from .._mesh import check_mesh, leave_in_order
from ._fingerprint import digests

_log = logging.getLogger("jaxinv.scale")
_NUMBERS, _VALUES = 4, 32


class State(enum.IntEnum):
    """How the part of one process ended."""

    done = 0
    stopped = 1
    failed = 2


class ProcessError(RuntimeError):
    """Another process of the run died, or did not finish its part.

    - `message`: which one, and what is missing.
    """

    def __init__(self, message: str):
        super().__init__(message)


class Processes:
    """The processes of a run, from within one of them.

    - `mesh`: the devices of this process that solve a chunk, or `None` for the default device.
    - `index`, `count`: the number of this process among those that share the run, and how many do.
    """

    def __init__(self, mesh: Any):
        devices = list(mesh.devices.flat) if isinstance(mesh, Mesh) else []
        own = [device for device in devices if device.process_index == jax.process_index()]
        self.devices: list[Any] = []
        self.index, self.count, self.mesh = 0, 1, mesh
        if isinstance(mesh, Mesh) and len(own) < len(devices):
            self.devices = devices
            with_devices = {device.process_index for device in devices}
            without = sorted(set(range(jax.process_count())) - with_devices)
            if without:
                raise ValueError(
                    f"`mesh` has no device of process(es) {', '.join(map(str, without))}, of {jax.process_count()}. "
                    "Make it of `jax.devices()`, or leave it out."
                )
        elif mesh is None and jax.process_count() > 1:
            self.devices, own = jax.devices(), jax.local_devices()
        if self.devices:
            self.index, self.count = jax.process_index(), jax.process_count()
            self.mesh = Mesh(np.asarray(own), ("problems",), axis_types=(AxisType.Auto,))
            if not leave_in_order():
                _log.warning(
                    "If a process dies, JAX ends all others after its heartbeat. Set "
                    "`jax.config.update('jax_enable_recoverability', True)` before `jax.distributed.initialize`, and "
                    "they finish their part."
                )
        self.mesh = check_mesh(self.mesh)

    def agree(self, values: dict[str, str], numbers: list[int]) -> list[list[int]]:
        """The `numbers` of all processes, whose settings are the same.

        **Raises:** `ValueError` that names the process and the setting that differ; `ProcessError` if a process died
        or failed before.
        """
        if self.count == 1:
            return [numbers]
        rows, found = self._exchange(_row(numbers, digests(values)), "before the work began")
        for process, (other, theirs) in enumerate(zip(rows, found, strict=True)):
            if not other[0]:
                raise ProcessError(
                    f"Process {process} failed before the work began; its own message says why. Nothing was solved."
                )
            differing = [name for name, a, b in zip(values, found[0], theirs, strict=False) if a != b]
            if differing:
                # All processes find the failure in what they exchanged, and raise.
                raise ValueError(
                    f"Process {process} has another {' and '.join(differing)} than process 0. All processes must call "
                    "`solve_many` alike; each reads its own share of the same problems."
                )
        return [[int(n) for n in other[1 : len(numbers) + 1]] for other in rows]

    def give_up(self) -> None:
        """Tell the others, which wait in `agree`, that this process failed before."""
        if self.count > 1:
            with contextlib.suppress(ProcessError):
                rows, found = _row([], np.zeros(0, np.uint32))
                self._exchange((0 * rows, found), "before the work began")

    def share_damage(self, bad: list[int], size: int) -> list[int]:
        """The damaged chunks that any process found, of `size` chunks."""
        if self.count == 1:
            return bad
        mask = np.zeros(size, np.uint8)
        mask[bad] = 1
        # A bit for each chunk: each process receives this of all others.
        (found,) = self._exchange((np.packbits(mask),), "while the store was checked")
        return np.flatnonzero(np.unpackbits(np.bitwise_or.reduce(found, axis=0), count=size)).tolist()

    def meet(self, state: State, tell: bool) -> list[State | None]:
        """Wait for all processes: how each ended, `None` for one that died.

        **Arguments:**

        - `state`: how this process ended.
        - `tell`: whether to ask how the others ended, all processes or none. Otherwise they count as done.
        """
        if self.count == 1:
            return [state]
        try:
            if not tell:
                self._wait("at the end")
                return [State.done] * self.count
            (found,) = self._exchange((np.asarray([int(state)], np.int32),), "at the end")
        except _Died as error:
            return [None if process in error.processes else State.done for process in range(self.count)]
        return [State(int(row[0])) for row in found]

    def gather(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Each array of all processes, with an axis for the process; the shapes must be the same everywhere."""
        return self._exchange(tuple(arrays), "while results were gathered")

    def _wait(self, when: str) -> None:
        """Wait until each process has come, or is known to be dead."""
        from jax.experimental import multihost_utils

        try:
            with multihost_utils.live_devices(self.devices) as alive:
                pass
        except multihost_utils.ProcessFailureError as error:
            raise _Died({device.process_index for device in error.failed_devices}, when) from error
        missing = {d.process_index for d in self.devices} - {d.process_index for d in alive}
        if missing:
            raise _Died(missing, when)

    def _exchange(self, arrays: tuple[np.ndarray, ...], when: str) -> Any:
        # An exchange never ends if a process is missing, so all processes meet before it.
        from jax.experimental import multihost_utils

        self._wait(when)
        return multihost_utils.process_allgather(arrays)


class _Died(ProcessError):
    def __init__(self, processes: set[int], when: str):
        self.processes = processes
        super().__init__(f"Process(es) {', '.join(map(str, sorted(processes)))} died, as was seen {when}.")


def _row(numbers: list[int], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # All processes exchange arrays of one size, including those that failed early.
    row, padded = np.zeros(1 + _NUMBERS, np.int32), np.zeros(_VALUES, np.uint32)
    row[0], row[1 : 1 + len(numbers)], padded[: len(values)] = 1, numbers, values
    return row, padded
