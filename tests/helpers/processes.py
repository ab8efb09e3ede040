"""Several processes on one machine, each of which makes the same call of a function of a test module."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import jax
jax.config.update("jax_enable_recoverability", True)
port, index, count, module, call = sys.argv[1:]
jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(index), heartbeat_timeout_seconds=5)
tests = __import__(module)
try:
    eval(f"tests.{call}")
except Exception as error:
    print(type(error).__name__, error)
"""
KILLED = -signal.SIGKILL


def environment(folder):
    """The variables of a process that imports the modules of a folder of tests."""
    paths = os.pathsep.join([str(folder), str(Path(__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    # JAX writes into its cache without a lock.
    kept = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    return {**kept, "PYTHONPATH": paths}


def together(file, call, count, seconds=180):
    """What each of `count` processes printed, besides the messages of the network, and its status.

    They make a `call` of the test module `file`, a text.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = Path(file)
    processes = [
        subprocess.Popen(
            [sys.executable, "-u", "-c", PROGRAM, str(port), str(index), str(count), path.stem, call],
            env=environment(path.parent),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for index in range(count)
    ]
    results = []
    try:
        for process in processes:
            text, _ = process.communicate(timeout=seconds)
            lines = [line for line in text.splitlines() if not line.startswith("[Gloo]")]
            results.append(("\n".join(lines), process.returncode))
    finally:
        for process in processes:
            process.kill()
    return results


def say(*words):
    """Print, from a process."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
