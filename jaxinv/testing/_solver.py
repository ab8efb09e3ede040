"""The check of solvers: a batch is a loop, a bad problem is alone, and new data compile nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._solution import RESULTS, Solution
from .._types import PyTree
from ._compare import is_double, lane, name_of, require, stack


def check_solver(
    solve: Callable[[PyTree], Solution],
    problems: Sequence[PyTree],
    *,
    bad: PyTree | None = None,
    tolerance: float | None = None,
) -> None:
    """Check what the package promises of every solver, for a solver of your own.

    It checks that `jax.vmap` over problems gives what a loop gives, with equal counts of steps and equal codes; that
    new data compile nothing; that a problem that cannot be solved is flagged, keeps a finite value, and changes no bit
    of the others of its batch; and that the value is finite.

    **Arguments:**

    - `solve`: maps one problem to a `Solution`.
    - `problems`: at least two problems that differ: pytrees of one structure, with the same shapes. Everything that may
        differ from problem to problem belongs into them: the measurement, the key, the likelihood, weights.
    - `bad`: a problem of the same structure that cannot be solved. The default is the first problem with NaN for `y`,
        where problems are dictionaries with a measurement of that name.
    - `tolerance`: how far numbers of a batch may be from those of a loop, relative to the largest of an array, or to 1.
        A statistic called `residual` is not compared: after convergence it is rounding. The default is 1e-5 in single
        precision and 1e-10 in double, which solvers of convex problems keep. Where rounding decides what happens
        (accept or reject, resampling), check in double precision.

    **Raises:** `AssertionError` that says which promise is broken, and by how much. `ValueError` for problems that do
    not fit.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        operator = jaxinv.operators.Identity((4, 3, 1))

        def problem(i):
            likelihood = jaxinv.Likelihood(operator, jaxinv.noise.Gaussian(0.1 + 0.1 * i))
            return {"likelihood": likelihood, "y": jax.random.normal(jax.random.key(i), (4, 3, 1))}

        solve = lambda p: jaxinv.classical.tikhonov(p["likelihood"], p["y"], weight=1.0, rtol=1e-4)
        jaxinv.testing.check_solver(solve, [problem(i) for i in range(3)])
        ```
    """
    name = name_of(solve)
    problems = [jax.tree.map(jnp.asarray, problem) for problem in problems]
    if len(problems) < 2:
        raise ValueError(f"`problems` must hold at least two problems that differ; got {len(problems)}.")
    for problem in problems[1:]:
        if _avals(problem) != _avals(problems[0]):
            raise ValueError(
                "`problems` must be pytrees of one structure with equal shapes and dtypes, or no batch can be made of "
                "them."
            )
    bad = _without_measurement(problems[0]) if bad is None else jax.tree.map(jnp.asarray, bad)

    traces = []

    def counted(problem: PyTree) -> Any:
        traces.append(None)
        return solve(problem)

    one, many = jax.jit(counted), jax.jit(jax.vmap(solve))
    apart = [jax.device_get(one(problem)) for problem in problems]
    require(
        isinstance(apart[0], Solution),
        f"{name} returns a {type(apart[0]).__name__}; it must return a `jaxinv.Solution`.",
    )
    require(
        len(traces) == 1,
        f"{name} was traced {len(traces)} times for {len(problems)} problems of equal shapes. What differs among "
        "them must be an array leaf of the problem, not a static part.",
    )
    numbers = [_numbers(solution)[0] for solution in apart]
    require(
        any(not np.array_equal(a, b) for a, b in zip(numbers[0], numbers[1], strict=True)),
        f"{name} gives the same solution for the first two problems; a batch that mixed up its lanes would not show.",
    )
    together = jax.device_get(many(stack(problems)))
    tolerance = (1e-10 if is_double(apart[0].value) else 1e-5) if tolerance is None else tolerance
    for i, solution in enumerate(apart):
        _require_same(lane(together, i), solution, tolerance, f"{name}: problem {i} of a batch of {len(problems)}")
        require(
            all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(solution.value)),
            f"{name}: the value of problem {i} is not finite. A solver keeps the last finite iterate, or zeros.",
        )
    clean = jax.device_get(many(stack([problems[0], *problems])))
    spoiled = jax.device_get(many(stack([bad, *problems])))
    for i in range(1, len(problems) + 1):
        _require_same(lane(spoiled, i), lane(clean, i), 0.0, f"{name}: beside a problem that cannot be solved, another")
    first = lane(spoiled, 0)
    require(
        not bool(first.result == RESULTS.successful),
        f"{name} calls a problem successful that cannot be solved. Flag it: `RESULTS.nonfinite_measurement`, say.",
    )
    require(
        all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(first.value)),
        f"{name}: the value of a problem that cannot be solved is not finite; keep the last finite iterate, or zeros.",
    )


def _avals(problem: PyTree) -> Any:
    leaves, treedef = jax.tree.flatten(problem)
    return treedef, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _without_measurement(problem: PyTree) -> PyTree:
    if not isinstance(problem, Mapping) or "y" not in problem:
        raise ValueError(
            "`bad` is needed where problems are not dictionaries with a measurement `y`: a problem of the same "
            "structure that cannot be solved."
        )
    spoil = lambda leaf: jnp.full_like(leaf, jnp.nan) if eqx.is_inexact_array(leaf) else leaf
    return {**problem, "y": jax.tree.map(spoil, problem["y"])}


def _numbers(solution: Solution) -> tuple[list, list]:
    """The floating-point numbers of a solution, and its integers: steps, codes."""
    # A residual that has converged is as large as rounding makes it.
    stats = {name: value for name, value in solution.stats.items() if name != "residual"}
    parts = (solution.value, solution.result, stats, solution.aux)
    leaves = [leaf for leaf in jax.tree.leaves(parts) if not _is_key(leaf)]
    arrays = [np.asarray(leaf) for leaf in leaves]
    is_float = lambda leaf: leaf.dtype.kind in "fc"
    return [leaf for leaf in arrays if is_float(leaf)], [leaf for leaf in arrays if not is_float(leaf)]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _require_same(got: Solution, expected: Solution, tolerance: float, story: str) -> None:
    (floats, integers), (other_floats, other_integers) = _numbers(got), _numbers(expected)
    for a, b in zip(integers, other_integers, strict=True):
        require(
            np.array_equal(a, b),
            f"{story} has other steps or codes than alone: {_few(a)} and not {_few(b)}. Nothing may be normed or "
            "stopped across the batch.",
        )
    for a, b in zip(floats, other_floats, strict=True):
        gap = np.max(np.abs(a - b), initial=0) / np.max(np.abs(b), initial=1)
        same = np.array_equal(a, b, equal_nan=True)
        require(
            same or gap <= tolerance,
            f"{story} differs from what it is alone by {gap:.1e} of its size; at most {tolerance:.0e} is allowed. Look "
            "for what is normed, averaged or stopped across the batch.",
        )


def _few(values: np.ndarray) -> str:
    flat = values.ravel()
    return ", ".join(map(str, flat[:4])) + (" ..." if flat.size > 4 else "")
