"""One call of `solve_many`, from its preparation with the other processes to its results."""

import logging
import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._types import Checked, ProgressMeter, PyTree
from ._chunk_size import Planned, check_chunk_size, choose, first_choice
from ._fingerprint import run_versions, settings
from ._interrupts import Interrupts
from ._memory import in_words, is_out_of_memory
from ._processes import ProcessError, Processes, State
from ._program import outcome_of_one, place
from ._results import Gathered, as_tree
from ._run import Share, passing, solve_chunks
from ._sources import AbstractSource, Chunk
from ._store import Store, warn_of_damage
from ._stored import describe_leaves, describe_tree, stored_results

_log = logging.getLogger("jaxinv.scale")


class Job:
    """The options and the problems of a call; `begin`, `solve` and `deliver` follow in this order.

    **Raises:** `ValueError` for options that do not fit, and a store that cannot be written or is of another run;
    `MemoryError` if not even one problem fits.
    """

    def __init__(
        self,
        source: AbstractSource,
        processes: Processes,
        *,
        chunk_size: Checked[int | None],
        store: str | os.PathLike[str] | None,
        on_chunk: Callable[[int, PyTree], object] | None,
        progress: ProgressMeter | None,
    ):
        self.source, self.processes, self.on_chunk, self.progress = source, processes, on_chunk, progress
        if progress is not None and source.count is None:
            raise ValueError("`progress` needs to know how many problems there are; say so by `num_problems`.")
        check_chunk_size(chunk_size, source.count)
        self.store = None if store is None else Store(store)
        self.existed = self.store is not None and self.store.exists()
        if self.store is not None and self.existed:
            self.store.open()
        elif self.store is not None and processes.index == 0:
            # The others may see what process 0 is creating.
            self.store.check_empty()
        given = self.store.about["chunk"] if self.store is not None and self.existed else source.chunk_size
        if source.chunk_size not in (None, given):
            raise ValueError(
                f"The store {store} has chunks of {given} problems, and the iterator `problems` gives "
                f"{source.chunk_size}; they must be as many."
            )
        if self.store is not None and self.existed and not _is_less(chunk_size, self.store):
            self.planned = self._plan_as_before(self.store.about["width"])
        else:
            kept = self.store is not None or on_chunk is not None
            first = first_choice(source, chunk_size, given, kept, processes.count)
            self.planned = choose(source, first, chunk_size is not None, source.count)
        self.chunk = self.planned.lanes if given is None else given
        self.outcome = outcome_of_one(self.planned.program)
        self.identity: dict[str, str] = {}
        self.versions = run_versions()
        if self.store is not None or processes.count > 1:
            self.identity = settings(source, self.outcome)
        if self.store is not None and processes.index == 0:
            if self.existed:
                self.store.compare(self.identity, self.versions)
            else:
                self._create(self.store)
        self.share = Share([], 0, 1)
        self.results: Gathered | None = None

    def begin(self) -> None:
        """Agree with the other processes on what is to be done, and find out what is done already.

        **Raises:** `ValueError` if other processes have other problems or versions.
        """
        said = self.processes.agree({**self.identity, **self.versions}, [self.chunk, self._width, int(self.existed)])
        self.chunk, width, existed = said[0][0], said[0][1], bool(said[0][2])
        if width != self._width:
            self.planned = self._plan_as_before(width)
        kept = self._open_store(existed) if self.store is not None else []
        self.share = Share(kept, self.processes.index, self.processes.count)
        if self.store is None and self.on_chunk is None:
            count = self.source.count
            self.results = Gathered(self.outcome, None if count is None else self.share.problems(count, self.chunk))
        self._say_what_is_there(len(kept))

    def solve(self) -> bool:
        """Solve the chunks of this process; whether that was all of them, or it was asked to stop."""
        source, done = self.source, 0
        total = 0 if self.progress is None else self.share.problems(source.count or 0, self.chunk)
        meter: Any = None if self.progress is None else self.progress.init()

        def accept(chunk: Chunk, arrays: list[np.ndarray]) -> None:
            nonlocal done, meter
            if self.store is not None:
                self.store.write(chunk.number, chunk.checksum(), arrays)
            if self.results is not None:
                self.results.accept(chunk.start, arrays)
            if self.on_chunk is not None:
                self.on_chunk(chunk.start, as_tree(self.outcome, arrays))
            done += chunk.size
            if self.progress is not None:
                meter = self.progress.step(meter, jnp.asarray(done / total))

        try:
            with Interrupts(active=self.store is not None) as interrupts:
                chunks = passing(source, self.chunk, self.share, self.store)
                shared = place(source.spec, source.shared)
                return solve_chunks(source.spec, self.planned, shared, chunks, accept, lambda: interrupts.asked)
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            lanes = self.planned.lanes
            advice = (
                f"try `chunk_size={lanes // 2}`" if lanes > len(source.spec.devices) else "one problem does not fit"
            )
            raise MemoryError(
                f"Out of memory with {lanes} problems at once, which were estimated to need "
                f"{in_words(self.planned.size)}: {advice}."
            ) from error
        except Exception as error:
            if self.store is not None:
                error.add_note(f"What is done is kept in the store {self.store.url}.")
            raise
        finally:
            if self.progress is not None:
                self.progress.close(meter)

    def deliver(self, states: list[State | None], gather: bool) -> Any:
        """What `solve_many` returns.

        **Raises:** `ProcessError` that names the processes whose chunks are missing.
        """
        if self.store is not None:
            self._complete(self.store, states)
            structure = jax.tree.structure(self.outcome)
            return None if self.on_chunk is not None else stored_results(self.store, structure)
        if any(state is not State.done for state in states):
            what = f"{_names(states)}; what the process(es) solved is lost, as there is no `store`."
            if gather:
                raise ProcessError(f"Results cannot be gathered: {what}")
            warnings.warn(what, stacklevel=3)
        if self.results is None:
            return None
        if gather or self.processes.count == 1:
            return self.results.gathered(self.processes, self.chunk)
        return self.results.addressable()

    @property
    def _width(self) -> int:
        """The number of problems that a device solves at once, on which the last bit of a result depends."""
        return self.planned.lanes // len(self.source.spec.devices)

    def _plan_as_before(self, width: int) -> Planned:
        """The program for devices that solve `width` problems at once, as others do, or did."""
        source = self.source
        first = width * len(source.spec.devices)
        try:
            return choose(source, first, True, source.count)
        except MemoryError:
            fewer = choose(source, first, False, source.count)
            _log.warning(
                "%d problems at once, as in the other chunks of this run, do not fit the memory; with %d, results are "
                "equal up to rounding.",
                *(first, fewer.lanes),
            )
            return fewer

    def _create(self, store: Store) -> None:
        about = {
            "chunk": self.chunk,
            "width": self._width,
            "count": self.source.count,
            "settings": self.identity,
            "versions": self.versions,
            "tree": describe_tree(self.outcome),
        }
        store.create(about, describe_leaves(self.outcome))

    def _open_store(self, existed: bool) -> list[int]:
        """Open the store in every process; the chunks that are there."""
        assert self.store is not None
        if self.processes.index != 0:
            self.store.open()
        if not existed:
            return []
        numbers = self.store.chunk_numbers()
        own = numbers[self.processes.index :: self.processes.count]
        wrong = self.store.damage(own)
        bad = self.processes.share_damage(list(wrong), 1 + max(numbers, default=0))
        if wrong:
            warn_of_damage(self.store, wrong)
        kept = sorted(set(numbers) - set(bad))
        count = self.source.count
        missing = None if count is None else count - sum(min(self.chunk, count - n * self.chunk) for n in kept)
        if missing != 0:
            self.store.check_room(self.chunk if missing is None else missing)
        return kept

    def _complete(self, store: Store, states: list[State | None]) -> None:
        count = self.source.count
        assert count is not None
        recorded = store.about["count"]
        if recorded not in (None, count):
            raise ValueError(
                f"`problems` ended after {count} problems; those of the run in the store {store.url} are {recorded}."
            )
        missing = sorted(set(range(math.ceil(count / self.chunk))) - set(store.chunk_numbers()))
        if missing:
            owners = sorted({owner for number in missing if (owner := self.share.owner(number)) is not None})
            raise ProcessError(
                f"{len(missing)} chunks of {self.chunk} problems are missing, those of process(es) "
                f"{', '.join(map(str, owners))}: {_names(states)}. All other chunks are in the store {store.url}; the "
                "same call of `solve_many`, with as many processes or others, goes on from there."
            )
        if self.processes.index == 0:
            store.close(count)
        if recorded is None and self.processes.count > 1:
            self.processes.meet(State.done, tell=False)
            store.open()

    def _say_what_is_there(self, kept: int) -> None:
        count, lanes = self.source.count, self.planned.lanes
        if count is None:
            return
        chunks = math.ceil(count / self.chunk)
        if kept:
            _log.info("%d of %d chunks are in the store; the run goes on with the others.", kept, chunks)
        padding = chunks * lanes - count
        if padding and lanes == self.chunk:
            _log.info(
                "%d problems in %d chunk(s) of %d: the last problem is solved %d more time(s), as padding that is cut "
                "off.",
                *(count, chunks, lanes, padding),
            )


def _is_less(chunk_size: int | None, store: Store) -> bool:
    """Whether the user asks for fewer problems at once than when the store began, to limit the memory."""
    if chunk_size is None:
        return False
    chunk = store.about["chunk"]
    devices = chunk // store.about["width"]
    return math.ceil(chunk_size / devices) * devices < chunk


def _names(states: list[State | None]) -> str:
    kinds = {None: "died", State.failed: "failed", State.stopped: "stopped"}
    found = [f"process {i} {kinds[state]}" for i, state in enumerate(states) if state in kinds]
    return ", ".join(found) or "they ended before"
