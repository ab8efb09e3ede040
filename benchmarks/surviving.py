"""Does a run survive, and what does that cost: `scale.solve_many` with a store, killed and started again.

    python benchmarks/surviving.py [--streamed 1000000] [--problems 40000] [--kills 20] [--quick]

Every problem is a blurred image of 28 x 28 pixels, deblurred by `tikhonov` in five steps; it is made of its number, so
that no file of problems is needed. A device solves 250 of them at once, in all cases but `store`.

`streamed`: problems from an iterator into a store, on 8 simulated devices. `megabytes` is the most memory that the
process held above what it held after importing the libraries, `megabytes_running` that above what it held after the
first chunk; `cpu_ratio` is the processor time of a problem over that of the same call without a store, of arrays in
memory; `again_seconds` is the time of the same call when all is done, in which every chunk is read and checked.
`sample_difference` is the largest difference of a sample from problems solved alone, relative to the largest value.

`processes`: the same problems in one process with 8 simulated devices, and in four processes of two devices each, on
the same cores, by turns, once they have compiled; `ratio` is the median of the ratios of their times, pair by pair, and
`cpu_ratio` that of their processor times.

`store`: the same problems in chunks of about a second, with results in memory and in a store, by turns.

`killed`: the same on 8 simulated devices of one process, and on 4 processes of 2 devices each. Processes are ended by
`kill -9` at random moments, one, several or all of them, and the same call is made again, until all is solved; if kills
are left, another run begins. `equal` says whether every byte of the results is that of the streamed run, which nobody
stopped; `solved_again` counts the chunks that were written and solved again all the same.
"""

import argparse
import json
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

if __name__ == "__main__" and sys.argv[1:2] == ["worker"] and int(sys.argv[7]) > 1:
    # Before the first array is made.
    jax.config.update("jax_enable_recoverability", True)
    jax.distributed.initialize(
        f"127.0.0.1:{sys.argv[8]}", int(sys.argv[7]), int(sys.argv[6]), heartbeat_timeout_seconds=5
    )

SHAPE = (28, 28, 1)
LIKELIHOOD = jaxinv.Likelihood(
    operators.Convolution(jnp.ones((3, 3)) / 9, SHAPE, boundary="circular"), noise.Gaussian(0.1)
)
EACH = 250  # problems of a device at once
TABLE = np.random.default_rng(0).uniform(size=(1009, *SHAPE)).astype(np.float32)


def solve(y):
    solution = classical.tikhonov(LIKELIHOOD, y, weight=1.0, max_steps=5)
    return jaxinv.Solution(solution.value, solution.result, {"num_steps": solution.stats["num_steps"]})


def problems(start, stop):
    """Problems by number, no two of which are equal."""
    numbers = np.arange(start, stop)
    return TABLE[numbers % len(TABLE)] + np.float32(1e-6) * numbers.astype(np.float32)[:, None, None, None]


class Measured:
    """Problems as an array on a disk has them: slices are read as they are asked for."""

    dtype = TABLE.dtype

    def __init__(self, count):
        self.shape = (count, *SHAPE)

    def __getitem__(self, rows):
        return problems(*rows.indices(self.shape[0])[:2])


def all_devices():
    return jax.make_mesh((jax.device_count(),), ("a",), axis_types=(AxisType.Auto,))


def launch(what, devices, count, store, processes=1):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, __file__, "worker", *map(str, (devices, what, count, store, index, processes, port))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for index in range(processes)
    ]


def stream(devices, count, store):
    """Problems from an iterator into a store; print the figures."""
    imported = resident()
    size, running = EACH * devices, []
    chunks = lambda: (problems(start, min(start + size, count)) for start in range(0, count, size))
    options = {"mesh": all_devices(), "num_problems": count, "store": store}

    def note(start, results):
        if start == 0:
            running.append(resident())

    began, processor = time.perf_counter(), time.process_time()
    scale.solve_many(solve, chunks(), on_chunk=note, **options)
    figures = {
        "problems": count,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - processor,
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    figures["megabytes"], figures["megabytes_running"] = peak - imported, peak - running[0]
    began = time.perf_counter()
    scale.solve_many(solve, chunks(), **options)
    figures["again_seconds"] = time.perf_counter() - began
    few = problems(0, min(count, 20 * size))
    processor = time.process_time()
    scale.solve_many(solve, few, mesh=all_devices(), chunk_size=size)
    alone = (time.process_time() - processor) / len(few)
    print(json.dumps({**figures, "cpu_ratio": figures["cpu_seconds"] / count / alone}))


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def streamed(count, store):
    figures = json.loads(run(launch("streamed", 8, count, store))[0].splitlines()[-1])
    size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    return {**figures, "stored_megabytes": size / 1e6, "sample_difference": sample_difference(store, count)}


def solve_when_told(devices, count, store):
    """Solve all problems whenever the parent says so; print the processor time of each turn."""
    mesh = None if jax.process_count() > 1 else all_devices()
    given = problems(0, count)
    for turn, _ in enumerate(sys.stdin):
        processor = time.process_time()
        scale.solve_many(solve, given, mesh=mesh, chunk_size=EACH * devices, store=f"{store}-{turn}")
        print(time.process_time() - processor, flush=True)


def one_and_four_processes(count, pairs, folder):
    groups = [launch("processes", 8, count, folder / "one"), launch("processes", 2, count, folder / "four", 4)]

    def turn(group):
        began = time.perf_counter()
        for process in group:
            process.stdin.write("go\n")
            process.stdin.flush()
        processor = sum(float(next(line for line in process.stdout if line[0].isdigit())) for process in group)
        return time.perf_counter() - began, processor

    for group in groups:
        turn(group)
    times = np.asarray([[turn(group) for group in groups] for _ in range(pairs)])
    for group in groups:
        for process in group:
            process.stdin.close()
        for process in group:
            process.wait()
    ratios = times[:, 1] / times[:, 0]
    return {
        "problems": count,
        "pairs": pairs,
        "seconds_one": float(np.median(times[:, 0, 0])),
        "seconds_four": float(np.median(times[:, 1, 0])),
        "ratio": float(np.median(ratios[:, 0])),
        "cpu_ratio": float(np.median(ratios[:, 1])),
    }


def cost_of_store(repeats, folder, seconds):
    """Results in a store beside those in memory, in chunks of about a second."""
    plan = scale.plan(solve, problems(0, 4 * EACH), chunk_size=4 * EACH)
    chunk = max(1, int(seconds / plan.problem_seconds))
    count = 4 * chunk
    given = problems(0, count)
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


def solve_and_say(devices, count, store):
    """One process of a killed run; it prints the first problem of every chunk that it has written."""
    mesh = None if jax.process_count() > 1 else all_devices()
    said = lambda start, results: print(start, flush=True)
    try:
        scale.solve_many(solve, Measured(count), mesh=mesh, chunk_size=EACH * devices, store=store, on_chunk=said)
    except scale.ProcessError as error:
        print(error, file=sys.stderr)


def killed(count, kills, devices, processes, folder, reference):
    """Run, kill and start again, until all is solved and the kills are used up."""
    draws = random.Random(processes)
    figures = {"kills": 0, "runs": 0, "launches": 0, "solved_again": 0, "equal": True}
    while figures["kills"] < kills:
        store = folder / f"killed-{processes}-{figures['runs']}"
        written = one_run(count, kills, devices, processes, store, draws, figures)
        figures["runs"] += 1
        figures["solved_again"] += len(written) - len(set(written))
        figures["equal"] = figures["equal"] and equal(store, reference, count)
        shutil.rmtree(store)
    return figures


def one_run(count, kills, devices, processes, store, draws, figures):
    """The first problems of all chunks that any process has written, in one run."""
    written = []
    chunks = -(-count // (EACH * devices))
    while True:
        figures["launches"] += 1
        running = launch("killed", devices, count, store, processes)
        # One process, several, or all; the first only together with all others, since it serves them.
        others = list(range(1, processes))
        victims = draws.sample(others, draws.randint(1, len(others))) if processes > 1 else [0]
        if processes > 1 and draws.random() < 0.4:
            victims = [*others, 0]
        victims = victims[: kills - figures["kills"]]
        # Wait until a few more chunks are there, and a random while.
        begun = rows(store)
        aim = begun + draws.randint(1, max(1, (chunks - begun) // 4))
        while victims and rows(store) < aim and all(process.poll() is None for process in running):
            time.sleep(0.01)
        for victim in victims:
            time.sleep(draws.uniform(0, 0.2))
            if running[victim].poll() is None:
                os.kill(running[victim].pid, signal.SIGKILL)
                figures["kills"] += 1
        for process in running:
            text, _ = process.communicate()
            written += [int(line) for line in text.splitlines() if line.isdigit()]
        if rows(store) == chunks and not any(process.returncode for process in running):
            return written


def rows(store):
    folder = store / "commits" / "c"
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def equal(store, reference, count):
    """Whether all results are equal to the bit, read a piece at a time."""
    got = scale.open_results(store)
    pieces = [slice(start, min(start + 10_000, count)) for start in range(0, count, 10_000)]
    same = all(got.value[piece].tobytes() == reference.value[piece].tobytes() for piece in pieces)
    steps = np.array_equal(got.stats["num_steps"], reference.stats["num_steps"][:count])
    return same and steps and bool(jnp.all(got.result._value == reference.result._value[:count]))


def sample_difference(store, count):
    alone, got = jax.jit(solve), scale.open_results(store)
    worst = 0.0
    for number in np.random.default_rng(0).choice(count, 50, replace=False).tolist():
        value = alone(problems(number, number + 1)[0]).value
        worst = max(worst, float(np.abs(got.value[number] - value).max() / np.abs(value).max()))
    return worst


def run(processes):
    texts = []
    for process in processes:
        texts.append(process.communicate()[0])
        if process.returncode:
            raise RuntimeError(f"A process ended with status {process.returncode}.")
    return texts


def main() -> None:
    from harness import Recorder

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streamed", type=int, default=1_000_000, help="problems of the stream")
    parser.add_argument("--problems", type=int, default=40_000, help="problems of the other runs, the stream's first")
    parser.add_argument("--kills", type=int, default=20, help="kills of four processes, and a quarter as many of one")
    parser.add_argument("--folder", help="where the stores go; a temporary folder by default")
    parser.add_argument("--quick", action="store_true", help="few problems: does it run?")
    options = parser.parse_args()
    many, count, kills = options.streamed, options.problems, options.kills
    if options.quick:
        many, count, kills = 20_000, 10_000, 4
    recorder = Recorder("surviving_quick" if options.quick else "surviving", also=("tensorstore",))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        recorder.add(case="streamed", devices=8, **streamed(many, folder / "streamed"))
        recorder.add(case="processes", **one_and_four_processes(count, 1 if options.quick else 5, folder))
        recorder.add(case="store", **cost_of_store(1 if options.quick else 5, folder, 0.1 if options.quick else 1.0))
        reference = scale.open_results(folder / "streamed")
        for devices, processes, share in ((8, 1, -(-kills // 4)), (2, 4, kills)):
            began = time.perf_counter()
            figures = killed(count, share, devices, processes, folder, reference)
            recorder.add(
                case="killed",
                problems=count,
                processes=processes,
                devices=devices * processes,
                **figures,
                seconds=time.perf_counter() - began,
            )
    recorder.write()


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        devices, what, count, store = sys.argv[2:6]
        workers = {"killed": solve_and_say, "streamed": stream, "processes": solve_when_told}
        workers[what](int(devices), int(count), store)
    else:
        main()
