"""The memory that a chunk of problems needs, the memory that is free, and the largest chunk that fits."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax

# The share of the free memory that an automatically chosen chunk may take. On a CPU other processes need memory too,
# and beyond a few gigabytes a larger chunk is not faster.
_SHARE = {"cpu": 0.5}
_SHARE_ELSEWHERE = 0.8
_MOST = {"cpu": 4.0 * 2**30}


def needed(compile_program: Callable[[], Any], devices: list[Any]) -> int | float:
    """The bytes that the program needs on each device, or on all of them together for CPUs, which share one memory."""
    try:
        program = compile_program()
    except jax.errors.JaxRuntimeError as error:
        # The compiler of a TPU refuses programs that its memory cannot hold.
        if is_out_of_memory(error):
            return math.inf
        raise
    total = _total(_Program(program.runtime_executable(), program))
    return total * (len(devices) if devices[0].platform == "cpu" else 1)


@dataclasses.dataclass(frozen=True)
class _Program:
    executable: Any
    program: Any = dataclasses.field(compare=False)


# Cached, since the analysis takes tens of milliseconds; `compile` returns a new object around the same executable.
@functools.lru_cache(maxsize=32)
def _total(of: _Program) -> int:
    sizes = of.program.memory_analysis()
    if sizes is None:
        return 0
    return sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of XLA says that memory is exhausted."""
    return "RESOURCE_EXHAUSTED" in str(error)


def free(devices: list[Any]) -> float:
    """The free bytes on the fullest device, or on this host for CPUs; infinite if they are unknown."""
    if devices[0].platform == "cpu":
        return min(_free_on_host(), _free_in_container())
    stats = [device.memory_stats() or {} for device in devices]
    return min(s["bytes_limit"] - s.get("bytes_in_use", 0) if "bytes_limit" in s else math.inf for s in stats)


def allowance(available: float, devices: list[Any]) -> float:
    """The bytes that an automatically chosen chunk may take."""
    platform = devices[0].platform
    return min(_SHARE.get(platform, _SHARE_ELSEWHERE) * available, _MOST.get(platform, math.inf))


def largest(need: Callable[[int], int | float], start: int, limit: float) -> int | None:
    """The largest of `start` and its halves that needs no more than `limit`; `None` if not even 1 does.

    Halving makes it rare that another amount of free memory requires another program. Each evaluation of `need`
    compiles, but the need is affine in the chunk, so two evaluations predict the others.
    """
    chunk, size = start, need(start)
    slope, fixed = size / chunk, 0.0
    while size > limit:
        if chunk == 1:
            return None
        smaller = -(-chunk // 2)
        if math.isfinite(size):
            fits = (limit - fixed) / slope if slope > 0 else 0.0
            while smaller > max(fits, 1):
                smaller = -(-smaller // 2)
        before, size = size, need(smaller)
        slope, fixed = size / smaller, 0.0
        if math.isfinite(before):
            slope = (before - size) / (chunk - smaller)
            fixed = size - slope * smaller
        chunk = smaller
    return chunk


def in_words(size: float | int) -> str:
    """A number of bytes in readable units."""
    if math.isinf(size):
        return "an unknown number of bytes"
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _free_on_host() -> float:
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return 1024.0 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return math.inf


def _free_in_container() -> float:
    # In a container /proc shows the memory of the host; the limit of the container is in these files.
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            most = file.read().strip()
        with open("/sys/fs/cgroup/memory.stat") as file:
            stats = dict(line.split() for line in file)
        # Count anonymous memory only, since the kernel frees the file cache on demand.
        return math.inf if most == "max" else max(float(most) - float(stats["anon"]), 0.0)
    except (OSError, KeyError, ValueError):
        return math.inf
