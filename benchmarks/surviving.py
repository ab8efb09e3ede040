"""Does a run survive, and what does that cost: `scale.solve_many` with a store, killed and started again.

    python benchmarks/surviving.py [--problems 20000] [--streamed 200000] [--kills 20] [--quick]

Every problem is a blurred image of 28 x 28 pixels, deblurred by `tikhonov` in five steps; it is made of its number, so
that no file of problems is needed.

`killed`: the same run on 8 simulated devices of one process, and on 4 processes of 2 devices each, in both of which a
device solves chunks of the same size. Processes are ended by `kill -9` at random moments, one or all of them, and the
same call is made again, until all is solved. `equal` says whether every byte of the results is that of a run that
nobody stopped; `sample_difference` is the largest difference of a sample from problems solved alone, relative to the
largest value; `solved_again` the chunks that were written and solved again all the same.

`store`: the same problems in chunks of about a second, with results in memory and in a store, by turns; `ratio` is the
median of the ratios round by round, `cpu_ratio` that of processor time.

`streamed`: problems from an iterator into a store; `megabytes` is the most memory that the process held above what it
held after its first chunk.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={sys.argv[2] if sys.argv[1:2] == ['worker'] else 1}"

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

import jaxinv
from jaxinv import classical, noise, operators, scale

SHAPE = (28, 28, 1)
LIKELIHOOD = jaxinv.Likelihood(
    operators.Convolution(jnp.ones((3, 3)) / 9, SHAPE, boundary="circular"), noise.Gaussian(0.1)
)
EACH = 250  # problems of a device at once


def solve(problem):
    number = problem["number"]
    y = jax.random.uniform(jax.random.fold_in(jax.random.key(0), number), SHAPE) + problem["offset"]
    solution = classical.tikhonov(LIKELIHOOD, y, weight=1.0, max_steps=5)
    return jaxinv.Solution(solution.value, solution.result, {"num_steps": solution.stats["num_steps"]})


def problems(count):
    return {"number": np.arange(count, dtype=np.int32), "offset": np.linspace(0, 1, count, dtype=np.float32)}


def worker(devices, store, count, index, processes, port):
    """One process of a killed run; it prints the first problem of every chunk that it has written."""
    if processes > 1:
        jax.config.update("jax_enable_recoverability", True)
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, index, heartbeat_timeout_seconds=5)
    mesh = None if processes > 1 else jax.make_mesh((devices,), ("a",), axis_types=(AxisType.Auto,))
    said = lambda start, results: print(start, flush=True)
    try:
        scale.solve_many(solve, problems(count), mesh=mesh, chunk_size=EACH * devices, store=store, on_chunk=said)
    except scale.ProcessError as error:
        print(error, file=sys.stderr)


def launch(devices, store, count, processes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, __file__, "worker", *map(str, (devices, store, count, index, processes, port))],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for index in range(processes)
    ]


def killed(count, kills, devices, processes, folder, seed):
    """Run, kill and start again until the kills are used up; the chunks that each process wrote."""
    store, draws = folder / f"killed-{processes}", random.Random(seed)
    written, launches, used = [], 0, 0
    chunks = -(-count // (EACH * devices))
    while True:
        launches += 1
        running = launch(devices, store, count, processes)
        # One process, several, or all; the first only together with all others, since it serves them.
        others = list(range(1, processes))
        victims = sorted(draws.sample(others, draws.randint(1, len(others)))) if processes > 1 else [0]
        if processes > 1 and draws.random() < 0.3:
            victims = list(range(processes))
        victims = victims[: kills - used]
        begun = rows(store)
        # Wait until a few more chunks are there, and a random while.
        aim = begun + draws.randint(1, max(1, (chunks - begun) // max(1, kills - used) // 2))
        while victims and rows(store) < aim and all(process.poll() is None for process in running):
            time.sleep(0.01)
        for victim in victims:
            time.sleep(draws.uniform(0, 0.2))
            if running[victim].poll() is None:
                os.kill(running[victim].pid, signal.SIGKILL)
                used += 1
        for process in running:
            text, _ = process.communicate()
            written += [int(line) for line in text.splitlines() if line.isdigit()]
        if rows(store) == chunks and not any(process.returncode for process in running):
            return store, {"kills": used, "launches": launches, "solved_again": len(written) - len(set(written))}


def rows(store):
    folder = store / "commits" / "c"
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def equal(store, reference):
    """Whether all results are equal to the bit, read a piece at a time."""
    got = scale.open_results(store)
    pieces = [slice(start, start + 10_000) for start in range(0, len(reference.value), 10_000)]
    same = all(got.value[piece].tobytes() == reference.value[piece].tobytes() for piece in pieces)
    steps = np.array_equal(got.stats["num_steps"], reference.stats["num_steps"])
    return same and steps and bool(jnp.all(got.result == reference.result))


def sample_difference(store, count):
    alone, given, got = jax.jit(solve), problems(count), scale.open_results(store)
    worst = 0.0
    for number in np.random.default_rng(0).choice(count, 50, replace=False):
        value = alone({name: array[number] for name, array in given.items()}).value
        worst = max(worst, float(np.abs(got.value[int(number)] - value).max() / np.abs(value).max()))
    return worst


def cost_of_store(repeats, folder, seconds):
    """Results in a store beside those in memory, in chunks of about a second."""
    plan = scale.plan(solve, problems(4 * EACH), chunk_size=4 * EACH)
    chunk = max(1, int(seconds / plan.problem_seconds))
    count = 4 * chunk
    given = problems(count)
    memory = lambda turn: scale.solve_many(solve, given, chunk_size=chunk)
    stored = lambda turn: scale.solve_many(solve, given, chunk_size=chunk, store=folder / f"cost-{turn}")
    times = []
    for turn in range(repeats + 1):
        times.append([])
        for call in (memory, stored):
            began, processor = time.perf_counter(), time.process_time()
            call(turn)
            times[-1].append((time.perf_counter() - began, time.process_time() - processor))
        shutil.rmtree(folder / f"cost-{turn}")
    ratios = np.asarray(times[1:])
    return {
        "problems": count,
        "chunk": chunk,
        "chunk_seconds": float(np.median(ratios[:, 0, 0]) / 4),
        "ratio": float(np.median(ratios[:, 1, 0] / ratios[:, 0, 0])),
        "cpu_ratio": float(np.median(ratios[:, 1, 1] / ratios[:, 0, 1])),
    }


def streamed(count, folder):
    """The memory of the host while problems go from an iterator into a store."""
    size, first = 2000, []

    def stream():
        for start in range(0, count, size):
            yield np.full((min(size, count - start), *SHAPE), start / count, np.float32)

    def note(start, results):
        if start == 0:
            first.append(resident())

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    began, processor = time.perf_counter(), time.process_time()
    scale.solve_many(lambda x: x - jnp.mean(x), stream(), store=folder / "streamed", on_chunk=note, num_problems=count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {
        "problems": count,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - processor,
        "megabytes": peak - first[0],
        "stored_megabytes": sum(f.stat().st_size for f in (folder / "streamed").rglob("*") if f.is_file()) / 1e6,
    }


def main() -> None:
    from harness import Recorder

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=20_000, help="problems of the killed runs")
    parser.add_argument("--streamed", type=int, default=200_000, help="problems of the stream")
    parser.add_argument("--kills", type=int, default=20, help="kills, half of them of one process, half of several")
    parser.add_argument("--folder", help="where the stores go; a temporary folder by default")
    parser.add_argument("--quick", action="store_true", help="few problems: does it run?")
    options = parser.parse_args()
    count, kills, many = options.problems, options.kills, options.streamed
    if options.quick:
        count, kills, many = 8000, 4, 10_000
    recorder = Recorder("surviving_quick" if options.quick else "surviving", also=("tensorstore",))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        # First, since the most memory of a process never falls.
        recorder.add(case="streamed", **streamed(many, folder))
        shutil.rmtree(folder / "streamed")
        recorder.add(case="store", **cost_of_store(1 if options.quick else 3, folder, 0.1 if options.quick else 1.0))
        run(launch(8, folder / "reference", count, 1))
        reference = scale.open_results(folder / "reference")
        for devices, processes, share in ((8, 1, kills // 2), (2, 4, kills - kills // 2)):
            began = time.perf_counter()
            store, figures = killed(count, share, devices, processes, folder, seed=processes)
            recorder.add(
                case="killed",
                problems=count,
                processes=processes,
                devices=devices * processes,
                **figures,
                equal=equal(store, reference),
                sample_difference=sample_difference(store, count),
                seconds=time.perf_counter() - began,
            )
    recorder.write()


def run(processes):
    for process in processes:
        process.communicate()
        assert process.returncode == 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        devices, store, count, index, processes, port = sys.argv[2:8]
        worker(int(devices), store, int(count), int(index), int(processes), port)
    else:
        main()
