"""What every benchmark shares: timing, the machine, and one JSON line per case."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

RESULTS = Path(__file__).parent / "results"


def environment(also: tuple[str, ...] = ()) -> dict[str, Any]:
    """The machine, its load, versions and commit: what a figure belongs to; `also` names further packages."""
    packages = ("jax", "jaxlib", "flax", "optax", "diffrax", "equinox", "numpy", *also)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "machine": f"{platform.machine()} {platform.system()}, {jax.device_count()} x {jax.devices()[0].device_kind}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "commit": commit.stdout.strip(),
        # Of processes that want a core, at the start: beyond a few tenths, seconds are those of a busy machine.
        "load": round(os.getloadavg()[0], 1),
    }


def timed(function: Callable[..., Any], *arguments: Any, repeats: int = 5) -> tuple[Any, dict[str, float]]:
    """The result of a function of arrays, its compile time, and the median of its run times, in seconds."""
    began = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    compile_seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    result = jax.block_until_ready(compiled(*arguments))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - began)
    figures = {"compile_seconds": compile_seconds, "seconds": statistics.median(seconds)}
    if memory is not None:
        figures["temporary_megabytes"] = memory.temp_size_in_bytes / 1e6
    return result, figures


def peer_seconds(script: str, interpreter: Path, inputs: dict[str, Any], timeout: float = 600) -> dict[str, Any]:
    """What `peers/SCRIPT.py` measures on `inputs`, in the environment of `interpreter`; else why it was skipped."""
    if not interpreter.exists():
        return {"skipped": "not installed: build the peers by shared/tools/peers.sh and name their folder by --peers"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "inputs.npz"
        np.savez(file, **inputs)
        try:
            done = subprocess.run(
                [interpreter, Path(__file__).parent / "peers" / f"{script}.py", file],
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
                env={name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")},
            )
        except subprocess.TimeoutExpired:
            return {"skipped": f"took longer than {timeout:.0f} s"}
    if done.returncode:
        return {"skipped": f"failed: {(done.stderr.strip().splitlines() or ['no message'])[-1][:200]}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


class Recorder:
    """Prints one JSON line per case, and writes them all to `results/NAME.jsonl` at the end, whole or not at all.

    A figure belongs to a commit, so it refuses a tree with changes that are not committed, unless `$JAXINV_DIRTY` is
    set or the run is a quick one, whose file is not committed; the page of the site marks such results.
    """

    def __init__(self, name: str, also: tuple[str, ...] = ()):
        self.path = RESULTS / f"{name}.jsonl"
        made_by = environment(also)
        if made_by["commit"].endswith("-dirty") and not name.endswith("_quick") and not os.environ.get("JAXINV_DIRTY"):
            sys.exit(
                f"The tree has changes that are not committed, so that {self.path.name} would belong to no commit. "
                "Commit them, or set JAXINV_DIRTY=1."
            )
        self.lines = [json.dumps(made_by)]
        print(self.lines[0], flush=True)

    def add(self, **case: Any) -> None:
        self.lines.append(json.dumps({name: _rounded(value) for name, value in case.items()}))
        print(self.lines[-1], flush=True)

    def write(self) -> None:
        from jaxinv import io

        self.path.parent.mkdir(exist_ok=True)
        io.write_bytes(self.path, ("\n".join(self.lines) + "\n").encode())
        print(f"wrote {self.path}", file=sys.stderr)


def _rounded(value: Any) -> Any:
    # Four digits: more would be noise.
    return float(f"{value:.4g}") if isinstance(value, float) else value
