"""All of ours on one accelerator, in a few minutes, in one JSON file.

    python benchmarks/accelerator.py [--quick]

Runs the benchmarks of speed, one after the other, each in a process of its own so that none inherits the memory of
another, and writes `results/accelerator_KIND.json` with the lines of each. What fails is named in the file.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

# This process holds no memory of the device that the benchmarks need.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
from harness import RESULTS, environment

from jaxinv import io

HERE = Path(__file__).parent
# Script and arguments, the shorter form behind.
RUNS = {
    "projectors": ([], ["--repeats", "3"]),
    "convolution": ([], ["--repeats", "3"]),
    "latent_speed": ([], ["--quick"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats and steps")
    parser.add_argument("--timeout", type=float, default=180, help="seconds for each benchmark")
    options = parser.parse_args()
    kind = jax.devices()[0].device_kind.lower().replace(" ", "_")
    report = {"environment": environment(), "platform": jax.devices()[0].platform, "benchmarks": {}}
    for name, arguments in RUNS.items():
        began = time.perf_counter()
        report["benchmarks"][name] = {"lines": run(name, arguments[options.quick], options.timeout)}
        report["benchmarks"][name]["wall_seconds"] = round(time.perf_counter() - began, 1)
    file = RESULTS / f"accelerator_{kind}.json"
    io.write_bytes(file, (json.dumps(report, indent=1) + "\n").encode())
    print(f"wrote {file}", file=sys.stderr)


def run(name: str, arguments: list[str], timeout: float) -> list[dict]:
    """The JSON lines that a benchmark prints, and after them why it failed, if it did."""
    command = [sys.executable, HERE / f"{name}.py", "--name", f"{name}_accelerator", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        output, errors = process.communicate(timeout=timeout)
        failure = errors.strip().splitlines()[-1:] if process.returncode else []
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        failure = [f"stopped after {timeout:.0f} s"]
    print(output, end="", flush=True)
    (RESULTS / f"{name}_accelerator.jsonl").unlink(missing_ok=True)
    return [json.loads(line) for line in output.splitlines()] + [{"failed": reason} for reason in failure]


if __name__ == "__main__":
    main()
