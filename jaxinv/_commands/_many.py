"""Many problems of one command: solved in chunks that fit the memory, and with a plan first if that may take long."""

from collections.abc import Callable
from typing import Any

import jax

from .. import scale
from .._types import PyTree
from ._progress import Bar

# A plan solves a chunk twice, which should be little of the whole.
_CHUNK, _MANY = 32, 320


def solve_all(solve: Callable[[Any], Any], problems: PyTree, title: str) -> Any:
    """The results of `solve` for each problem, as arrays.

    **Arguments:**

    - `solve`, `problems`: as of `scale.solve_many`.
    - `title`: that of the bar, which a terminal shows.
    """
    count = len(jax.tree.leaves(problems)[0])
    options: dict[str, Any] = {}
    if count >= _MANY:
        plan = scale.plan(solve, problems, chunk_size=_CHUNK)
        print(f"What this takes:\n{plan}", flush=True)
        options = {"chunk_size": plan.chunk_size, "progress": Bar(title)}
    return jax.tree.map(jax.numpy.asarray, scale.solve_many(solve, problems, **options))
