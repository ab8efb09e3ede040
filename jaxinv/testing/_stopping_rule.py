"""The check of stopping rules: their criterion, and what `dip.reconstruct` keeps by it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .. import dip
from .._solution import RESULTS, Solution
from .._types import Checked, Key
from ..likelihood import Likelihood
from ..models import DeepDecoder
from ..noise import Gaussian
from ..operators import Identity
from ._compare import (
    difference,
    dtypes,
    generator,
    is_double,
    lane,
    name_of,
    require,
    require_array_leaves,
    shapes,
    stack,
)
from ._solver import check_solver

_SHAPE = (4, 4, 1)


def check_stopping_rule(
    rule: Checked[dip.AbstractStopping],
    *,
    key: Key,
    num_images: int = 6,
    num_steps: int = 12,
    tolerance: float | None = None,
) -> None:
    """Check everything that the package relies on in a stopping rule of `dip.reconstruct`.

    On images of sixteen pixels, it checks that `prepare` accepts a problem and says which likelihood is fitted; that
    the state keeps its shapes from image to image; that criterion and decision are a real and a boolean scalar; that
    `jax.vmap` over sequences of images equals a loop; that `dip.reconstruct` keeps the last image with the lowest
    criterion; and all of `check_solver`.

    **Arguments:**

    - `rule`: a `dip.AbstractStopping`.
    - `key`: for the problems.
    - `num_images`: the length of the sequences of random images.
    - `num_steps`: of the runs. Choose them so that the rule has something to decide.
    - `tolerance`: how far a batch may be from a loop; the default is 1e-4 in single precision, in which rounding grows
        with the steps of the optimiser, and 1e-10 in double.

    **Raises:** `AssertionError` that says which promise is broken, and by how much.

    !!! example
        ```python
        import jax, jaxinv
        jaxinv.testing.check_stopping_rule(jaxinv.dip.WindowedVariance(3, 5), key=jax.random.key(0))
        ```
    """
    name, random = name_of(rule), generator(key)
    require(isinstance(rule, dip.AbstractStopping), f"{name} is not a `dip.AbstractStopping`. Inherit from that class.")
    require(
        rule.criterion_name is None or isinstance(rule.criterion_name, str),
        f"{name}.criterion_name is {rule.criterion_name!r}; it must be a string, or None.",
    )
    for which in ("expects_all_steps", "hides_measurements"):
        require(isinstance(getattr(rule, which), bool), f"{name}.{which} must be a bool of the class.")
    require_array_leaves(rule)
    problems = [_problem(random, key, i) for i in range(3)]
    dtype = jnp.result_type(float)
    tolerance = (1e-10 if is_double(jnp.zeros((), dtype)) else 1e-4) if tolerance is None else tolerance
    _check_members(rule, problems[0], random, num_images, tolerance)

    def solve(problem: Any) -> Solution:
        network, likelihood, y = (problem[which] for which in ("network", "likelihood", "y"))
        return dip.reconstruct(likelihood, network, y, key=problem["key"], num_steps=num_steps, stopping=rule)

    check_solver(solve, problems, tolerance=tolerance)
    if rule.criterion_name is not None:
        solution = jax.jit(solve)(problems[0])
        history = solution.stats["history"]
        require(
            rule.criterion_name in history,
            f"The history of `dip.reconstruct` has no `{rule.criterion_name}`; it has {', '.join(history)}.",
        )
        criteria, step = np.asarray(history[rule.criterion_name]), int(solution.stats["step"])
        taken = criteria[: int(solution.stats["num_steps"]) + 1]
        best = len(taken) - 1 - int(np.argmin(taken[::-1]))
        require(
            step == best or criteria[step] == taken[best],
            f"`dip.reconstruct` keeps the image after step {step}, whose criterion by {name} is {criteria[step]:.6g}; "
            f"the lowest is {taken[best]:.6g}, after step {best}.",
        )


def _problem(random: np.random.Generator, key: Key, i: int) -> dict[str, Any]:
    dtype = jnp.result_type(float)
    network = DeepDecoder(_SHAPE, layers=1, channels=2, rngs=nnx.Rngs(i))
    network = jax.tree.map(
        lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, network
    )
    likelihood = Likelihood(Identity(_SHAPE), Gaussian(jnp.asarray(0.2 + 0.1 * i, dtype)))
    y = jnp.asarray(random.uniform(size=_SHAPE), dtype)
    return {"network": network, "likelihood": likelihood, "y": y, "key": jax.random.fold_in(key, i)}


def _check_members(
    rule: Any, problem: dict[str, Any], random: np.random.Generator, num_images: int, tolerance: float
) -> None:
    name, dtype = name_of(rule), jnp.result_type(float)
    prepared, code = rule.prepare(problem["likelihood"], problem["y"], RESULTS.successful, key=problem["key"])
    require(
        bool(code == RESULTS.successful) and isinstance(prepared.likelihood, Likelihood),
        f"{name}.prepare must return a `dip.StoppingProblem` with the likelihood that is fitted, and its code; for a "
        f'problem that can be solved it returned a {name_of(prepared)} and "{RESULTS[code]}"',
    )
    struct = jax.ShapeDtypeStruct(_SHAPE, dtype)

    @jax.jit
    def follow(images: Any) -> Any:
        state, found = rule.init(prepared, struct), []
        for image in images:
            after, criterion = rule.step(prepared, state, image)
            require(
                jax.tree.structure(after) == jax.tree.structure(state)
                and shapes(after) == shapes(state)
                and dtypes(after) == dtypes(state),
                f"{name}.step returns a state of other shapes or dtypes than it is given; they must stay the same.",
            )
            stops = rule.stops(prepared, criterion, jnp.int32(len(found)))
            require(
                criterion.shape == () and jnp.issubdtype(criterion.dtype, jnp.floating),
                f"The criterion of {name} has shape {criterion.shape} and dtype {criterion.dtype}; it must be a real "
                "scalar.",
            )
            require(
                stops.shape == () and stops.dtype == bool,
                f"{name}.stops has shape {stops.shape} and dtype {stops.dtype}; it must be a boolean scalar.",
            )
            state = after
            found.append((criterion, stops))
        return jnp.stack([c for c, _ in found]), jnp.stack([s for _, s in found])

    sequences = [np.asarray(random.uniform(size=(num_images, *_SHAPE)), dtype) for _ in range(3)]
    together = jax.jit(jax.vmap(follow))(stack(sequences))
    for i, sequence in enumerate(sequences):
        criteria, stops = follow(sequence)
        got, decisions = lane(together, i)
        require(
            not np.isnan(criteria).any(),
            f"The criterion of {name} is NaN. Where it is not known yet return the largest number of the dtype.",
        )
        gap = difference(np.log1p(np.abs(got)), np.log1p(np.abs(criteria)))
        require(
            gap <= tolerance and np.array_equal(decisions, stops),
            f"{name} under `jax.vmap` differs from a loop, by {gap:.1e} of the criterion or in its decisions.",
        )
