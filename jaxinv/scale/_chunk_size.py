"""The number of problems that one compiled call solves: as many as fit the memory, or as the user says."""

import math
from typing import Any, NamedTuple

import numpy as np

from ._memory import allowance, free, in_words, largest, needed
from ._program import compile_chunk
from ._sources import AbstractSource

# A run whose chunks are kept one by one has about so many of them, each with at least `_LEAST` problems a device, so
# that little is lost when it is stopped.
_CHUNKS = 64
_LEAST = 32


class Planned(NamedTuple):
    """A compiled program, the number of problems that it solves, and the estimate of the bytes that it needs."""

    program: Any
    lanes: int
    size: int | float


def first_choice(source: AbstractSource, chunk_size: int | None, most: int | None, kept: bool, processes: int) -> int:
    """The number of problems of a chunk, before the check of the memory.

    **Arguments:**

    - `source`, `chunk_size`: of the call.
    - `most`: the size of a chunk that is given, by a store or by an iterator.
    - `kept`: whether chunks are kept one by one.
    - `processes`: how many share the problems.
    """
    if most is not None:
        return most if chunk_size is None else min(chunk_size, most)
    if chunk_size is not None:
        return chunk_size
    assert source.count is not None
    share = math.ceil(source.count / processes)
    few = max(_LEAST * len(source.spec.devices), math.ceil(source.count / _CHUNKS))
    return min(share, few) if kept else share


def choose(source: AbstractSource, first: int, is_fixed: bool, count: int | None) -> Planned:
    """The program for `first` problems, or for fewer if they do not fit.

    **Arguments:**

    - `source`: the problems.
    - `first`: the number of problems to try first.
    - `is_fixed`: whether the user asked for that number, and fewer are an error.
    - `count`: the number of problems in all, if it is known.

    **Raises:** `MemoryError` with the estimate, and a `chunk_size` that fits.
    """
    spec, devices = source.spec, source.spec.devices
    spread = len(devices)
    program = lambda each: compile_chunk(spec, source.shared, source.mapped, each * spread, source.example)
    one = lambda each: needed(lambda: program(each), devices)
    start = math.ceil(first / spread)
    # With several chunks, memory holds two at a time: one is read back while the next is computed.
    need = lambda each: one(each) * (1 if count is not None and each * spread >= count else 2)
    fitting = lambda start, limit: start if need(start) <= limit else largest(one, start, limit / 2)
    available = free(devices)
    chosen = start if need(start) <= available else None
    if not is_fixed:
        # A single problem may exceed the allowance, up to all free memory.
        chosen = fitting(start, allowance(available, devices)) or fitting(1, available)
    if chosen is None:
        fits = largest(one, start, available / 2)
        advice = (
            f"Not even {spread} would fit, which needs about {in_words(need(1))}. Take smaller problems or float32, or "
            "let `solve` return less."
            if fits is None
            else f"Take `chunk_size={fits * spread}`, which needs about {in_words(need(fits))}."
        )
        raise MemoryError(
            f"{start * spread} problems at once need about {in_words(need(start))}, by the compiled program, and "
            f"{in_words(available)} are free. {advice}"
        )
    return Planned(program(chosen), chosen * spread, need(chosen))


def check_chunk_size(chunk_size: Any, count: int | None) -> None:
    """Raise a `ValueError` unless the chunk size is an integer from 1 to the number of problems."""
    if chunk_size is None:
        return
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int | np.integer):
        raise ValueError(f"`chunk_size` must be an integer, or `None` for as many as fit; got {chunk_size!r}.")
    if chunk_size < 1 or (count is not None and chunk_size > count):
        most = "" if count is None else f" and at most the number of problems, {count}"
        raise ValueError(
            f"`chunk_size` is {chunk_size}; it must be at least 1{most}. Leave it out to take as many as fit the "
            "memory."
        )
