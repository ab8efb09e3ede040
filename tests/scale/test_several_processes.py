"""Several processes share a run: each its own chunks, on its own devices; one that dies is named, the others finish."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import KILLED, environment, say, together

from jaxinv import scale

COUNT, CHUNK = 22, 4
X = np.arange(COUNT * 3, dtype=np.float32).reshape(COUNT, 3)


def solve(x):
    return {"y": jnp.sin(x), "n": jnp.sum(x)}


def part(store, dies=None, after=2, how="kill"):
    """The call of each process; the process `dies` ends when it has written so many chunks."""
    seen = []

    def on_chunk(start, results):
        seen.append(start)
        if jax.process_index() == dies and len(seen) == after:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("my own fault")

    scale.solve_many(solve, X, chunk_size=CHUNK, store=store, on_chunk=on_chunk)
    say(*seen)


def expected():
    return jax.jit(jax.vmap(solve))(X)


def assert_right(results):
    for name, array in expected().items():
        np.testing.assert_array_equal(np.asarray(results[name]), array)


def test_one_of_two_dies_and_its_chunks_are_solved_later(tmp_path):
    # Chunks 0, 2, 4 and 1, 3, 5; process 1 dies having written the third.
    store = str(tmp_path / "run")
    (first, status), (_, killed) = together(__file__, f"part({store!r}, dies=1)", 2)
    assert killed == KILLED
    assert status == 0
    assert "ProcessError 1 chunks of 4 problems are missing, those of process(es) 1: process 1 died." in first
    assert "the same call of `solve_many`, with as many processes or others, goes on from there" in first
    seen = []
    scale.solve_many(solve, X, chunk_size=CHUNK, store=store, on_chunk=lambda start, _: seen.append(start))
    assert seen == [20]
    assert_right(scale.open_results(store))


def several(store):
    """Without a store, gathered, over a mesh, from an iterator, and with other problems in one process."""
    index, count = jax.process_index(), jax.process_count()
    own = scale.solve_many(solve, X, chunk_size=CHUNK)
    chunks = range(index * CHUNK, COUNT, count * CHUNK)
    assert own.numbers.tolist() == [n for start in chunks for n in range(start, min(start + CHUNK, COUNT))]
    for name, array in expected().items():
        np.testing.assert_array_equal(own.results[name], array[own.numbers])
    mesh = jax.make_mesh((jax.device_count(),), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    assert_right(scale.solve_many(solve, X, chunk_size=CHUNK, mesh=mesh, gather=True))
    assert_right(scale.solve_many(solve, (X[i : i + CHUNK] for i in range(0, COUNT, CHUNK)), store=store))
    local = jax.make_mesh((1,), ("a",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.local_devices()[:1])
    assert_right(scale.solve_many(solve, X, chunk_size=CHUNK, mesh=local))
    for other, what in [(X + (index == 1), "problems"), (X[: COUNT - index], "number of problems and problems")]:
        with pytest.raises(ValueError, match=f"Process 1 has another {what} than process 0"):
            scale.solve_many(solve, other)
    raises = (ValueError, "has the dtype") if index == 1 else (scale.ProcessError, "Process 1 failed before the work")
    with pytest.raises(raises[0], match=raises[1]):
        scale.solve_many(solve, X if index != 1 else np.array(["a", "b"]))
    devices = [device for device in jax.devices() if device.process_index != 1]
    if count > 2:
        part = jax.make_mesh((len(devices),), ("a",), devices=devices)
        with pytest.raises(ValueError, match=r"`mesh` has no device of process\(es\) 1"):
            scale.solve_many(solve, X, mesh=part)
    say("right")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_what_several_processes_return(count, tmp_path):
    assert together(__file__, f"several({str(tmp_path / 'run')!r})", count) == [("right", 0)] * count


@pytest.mark.slow
def test_two_processes_finish_what_four_began(tmp_path):
    store = str(tmp_path / "run")
    results = together(__file__, f"part({store!r}, dies=1, after=1, how='raise')", 4)
    assert results[1] == ("RuntimeError my own fault", 0)
    for index in (0, 2, 3):
        assert "ProcessError 1 chunks of 4 problems are missing, those of process(es) 1" in results[index][0]
    results = together(__file__, f"part({store!r})", 2)
    assert all(status == 0 for _, status in results)
    assert_right(scale.open_results(store))


def slowly(store):
    """A run of many chunks, each of them a while."""

    def on_chunk(start, results):
        say(start)
        time.sleep(0.02)

    scale.solve_many(solve, X, chunk_size=1, store=store, on_chunk=on_chunk)
    say("end")


ALONE = """
import test_several_processes, sys
test_several_processes.slowly(sys.argv[1])
"""


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    store, draws = str(tmp_path / "run"), random.Random(0)
    solved, ended = [], False
    while not ended:
        chunks = []
        command = [sys.executable, "-u", "-c", ALONE, store]
        with subprocess.Popen(
            command, env=environment(Path(__file__).parent), stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout:
                ended = line.strip() == "end"
                chunks.append(line.strip())
                if len(chunks) == 8:
                    time.sleep(draws.uniform(0, 0.05))
                    process.kill()
        solved += chunks[: -1 if ended else None]
    # A chunk that was written is never solved again.
    assert len(solved) <= COUNT
    assert len(set(solved)) == len(solved)
    assert_right(scale.open_results(store))
