"""What identifies a run: its problems, what is computed of each, and the versions that compute it."""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np

from .._program import program, versions
from .._types import PyTree
from ._problems import is_key, to_host
from ._program import solve_one
from ._sources import AbstractSource, checksum, in_words

PROGRAM = "program"


def settings(source: AbstractSource, outcome: PyTree) -> dict[str, str]:
    """The settings by name; two runs with equal ones have equal results.

    **Arguments:**

    - `source`: the problems.
    - `outcome`: shapes and dtypes of the results of one problem.
    """
    spec = source.spec
    problem = [jnp.zeros(a.shape[1:], jax.dtypes.canonicalize_dtype(a.dtype)) for a in source.mapped]
    shared = [leaf if is_key(leaf) else jnp.asarray(leaf) for leaf in source.shared]
    returned = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(outcome))
    return {
        "number of problems": "unknown" if source.count is None else str(source.count),
        "problem": in_words(source),
        "problems": f"values with checksum {source.checksum()}",
        "result": returned,
        "arrays of solve": f"values with checksum {checksum(map(to_host, source.shared)):08x}",
        PROGRAM: program(lambda shared, problem: solve_one(spec, shared, problem), shared, problem),
    }


def run_versions() -> dict[str, str]:
    """The versions that decide the last bit of a result, and the kind of device."""
    found = versions()
    # A program that calls back into Python has the Python code in its fingerprint.
    del found["Python"]
    return {**found, "jaxlib": importlib.metadata.version("jaxlib")}


def digests(values: dict[str, str]) -> np.ndarray:
    """A number for each setting, by which processes compare theirs."""
    return np.asarray([checksum([np.frombuffer(text.encode(), np.uint8)]) for text in values.values()], np.uint32)
