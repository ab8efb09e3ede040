"""How a peer is timed: in its own environment, on the inputs of the run that asks, with one JSON line for an answer.

A peer's script is run as `python peers/NAME.py INPUTS.npz` and prints `{"versions": ..., "seconds": {...}}`. It imports
nothing of jaxinv, whose packages its environment need not have.
"""

import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def inputs() -> dict[str, np.ndarray]:
    """The arrays of the run that asks."""
    return dict(np.load(sys.argv[1]))


def median_seconds(function: Callable[[], Any], repeats: int = 5) -> float:
    """The median time of a call, after one to warm up; the function waits for its own result."""
    function()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def answer(packages: tuple[str, ...], **seconds: float) -> None:
    """Print the line."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    print(json.dumps({"versions": versions, "seconds": seconds}))
