"""The check of samplers: the law of what they draw, and what holds for every verb."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import diffusion
from .._solution import RESULTS, Solution
from .._types import Checked, Key, PyTree
from ..oracles import Gaussian
from ._compare import (
    difference,
    generator,
    is_double,
    keys_of,
    lane,
    name_of,
    require,
    require_array_leaves,
    require_law,
)

# The covariance is not aligned with the axes, and its three eigenvalues differ.
_MEAN = np.array([1.0, -0.5, 0.2])
_FACTOR = np.array([[0.8, 0.0, 0.0], [0.3, 0.5, 0.0], [-0.2, 0.1, 0.3]])


def check_sampler(
    method: Checked[diffusion.AbstractSampler],
    *,
    key: Key,
    process: Checked[diffusion.AbstractProcess | None] = None,
    num_samples: int = 2000,
    deviations: float = 5.0,
    allowance: float = 0.05,
    tolerance: float | None = None,
) -> None:
    """Check everything that the package relies on in a sampler, a `method` of `diffusion.sample`.

    With the exact score of a Gaussian in three dimensions, it checks that samples have the mean and the covariance of
    that Gaussian; that a sample depends on the key and its number alone, and not on how many there are; that `jax.vmap`
    over keys and scores equals a loop, with equal counts of steps; and that a score that is NaN is flagged, leaves
    finite values, and changes no bit of the others of its batch.

    **Arguments:**

    - `method`: a `diffusion.AbstractSampler`, with as many steps as you claim to need.
    - `key`: for the draws.
    - `process`: the noising process; the default is `diffusion.VP()`.
    - `num_samples`: how many samples the law is checked by.
    - `deviations`: how many standard errors of so many samples mean and covariance may be off by.
    - `allowance`: what is allowed on top of these for the bias, in units of the exact standard deviations for the mean
        and of the variances for the covariance. The default, .05, is what 100 steps of a method of first order
        stay below.
    - `tolerance`: how far a batch may be from a loop, relative to the size of a sample. The default is 1e-5 in single
        precision and 1e-10 in double.

    **Raises:** `AssertionError` that says which promise is broken, and by how much.

    !!! example
        ```python
        import jax, jaxinv
        jaxinv.testing.check_sampler(jaxinv.diffusion.DDIM(50), key=jax.random.key(0))
        ```
    """
    name = name_of(method)
    generator(key)
    require(
        isinstance(method, diffusion.AbstractSampler),
        f"{name} is not a `diffusion.AbstractSampler`. Inherit from that class.",
    )
    require_array_leaves(method)
    process = diffusion.VP() if process is None else process
    dtype = jnp.result_type(float)
    prior = Gaussian(jnp.asarray(_MEAN, dtype), jnp.asarray(_FACTOR @ _FACTOR.T, dtype))
    score = prior.score(process)

    run = jax.jit(
        lambda method, score, key, number: diffusion.sample(score, (3,), key=key, method=method, num_samples=number),
        static_argnums=3,
    )
    many = jax.device_get(run(method, score, key, num_samples))
    require(
        bool(np.all(many.result == RESULTS.successful)), f"{name} does not call all samples of a Gaussian successful."
    )
    require_law(
        many.value,
        _MEAN,
        _FACTOR @ _FACTOR.T,
        deviations=deviations,
        allowance=allowance,
        what=f"the samples of {name}",
        advice="Take more steps, or state the bias as `allowance`; a variance that is too small is noise left out.",
    )
    tolerance = (1e-10 if is_double(many.value) else 1e-5) if tolerance is None else tolerance
    few, more = (jax.device_get(run(method, score, key, number)) for number in (2, 3))
    gap = difference(few.value, more.value[:2])
    require(
        gap <= tolerance,
        f"The first samples of {name} change by {gap:.1e} with the number of samples; sample `i` may depend on the key "
        "and `i` alone. Nothing may be drawn or normed for all of them at once.",
    )
    require(
        difference(few.value[0], few.value[1]) > 0, f"{name} draws the same sample twice; it does not use its `key`."
    )

    scores = [Gaussian(prior.mean + i, factor=prior.factor).score(process) for i in range(3)]
    one = lambda score, key: diffusion.sample(score, (3,), key=key, method=method)
    check_lanes(one, scores, keys_of(key, 3), tolerance, name)


def check_lanes(one: Any, parts: list, keys: Any, tolerance: float, name: str) -> None:
    """Demand that a batch equals a loop over parts and keys, and that a part that is NaN is flagged and alone."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    alone, together = jax.jit(one), jax.jit(jax.vmap(one))
    clean = jax.device_get(together(stacked, keys))
    for i, part in enumerate(parts):
        require_same_solution(lane(clean, i), jax.device_get(alone(part, keys[i])), tolerance, f"{name}: sample {i}")
    spoil = lambda leaf: leaf.at[0].set(jnp.nan) if eqx.is_inexact_array(leaf) else leaf
    # The process stays valid, so that a failure comes from the score.
    rest, processes = eqx.partition(stacked, _outside_processes(stacked))
    spoiled = jax.device_get(together(eqx.combine(jax.tree.map(spoil, rest), processes), keys))
    require(
        not bool(lane(spoiled, 0).result == RESULTS.successful),
        f"{name} calls a sample successful whose score is NaN. Flag it, `RESULTS.nonfinite` say.",
    )
    require(
        np.isfinite(lane(spoiled, 0).value).all(),
        f"{name} returns values that are not finite where the score is NaN; keep the last finite state.",
    )
    for i in range(1, len(parts)):
        require_same_solution(lane(spoiled, i), lane(clean, i), 0.0, f"{name}: beside a sample that failed, another")


def require_same_solution(got: Solution, expected: Solution, tolerance: float, story: str) -> None:
    """Demand equal steps and codes, and values within a tolerance."""
    steps, others = (np.asarray(solution.stats["num_steps"]) for solution in (got, expected))
    require(
        np.array_equal(steps, others) and bool(np.all(got.result == expected.result)),
        f"{story} has other steps or another code in a batch than alone: {steps} and {others} steps.",
    )
    gap = difference(got.value, expected.value)
    require(
        gap <= tolerance,
        f"{story} differs in a batch by {gap:.1e} of its size; at most {tolerance:.0e} is allowed. Look for what is "
        "drawn, normed or decided across the batch.",
    )


def _outside_processes(tree: PyTree) -> PyTree:
    is_process = lambda node: isinstance(node, diffusion.AbstractProcess)
    return jax.tree.map(
        lambda node: jax.tree.map(lambda _: False, node) if is_process(node) else True, tree, is_leaf=is_process
    )
