"""Many deep image priors: together, or one after the other."""

from typing import Any

import jax
import jax.numpy as jnp

from .._arrays import check_key
from .._jit import verb
from .._networks import as_network
from .._solution import Solution
from .._types import Checked, Key, Network, State
from ..likelihood import Likelihood
from ._reconstruct import reconstruct


@verb
def reconstruct_many(
    likelihood: Likelihood,
    network: Network,
    y: State,
    *,
    key: Key,
    in_axes: Checked[tuple[int | None, int | None, int | None]] = (None, None, 0),
    together: bool | None = None,
    num_problems: int | None = None,
    **options: Any,
) -> Solution:
    """`reconstruct` for many measurements, likelihoods or networks, in the order that suits the machine.

    Problem `i` is `reconstruct(..., key=jax.random.fold_in(key, i))`, the same together as one after the other.
    Together is `jax.vmap`: as each network has weights of its own, products become batched products and convolutions
    grouped ones. One after the other is `jax.lax.map`, where no problem waits for another to stop; on a processor it
    is not the slower one (`benchmarks/dip_speed.py`). For more problems than fit the memory, and for several devices,
    give `reconstruct` to `scale.solve_many`.

    **Arguments:** as `reconstruct`, and

    - `in_axes`: which of `likelihood`, `network` and `y` have the problems along the first axis of their arrays: 0 for
        these, `None` for what all problems share. All `None`: an ensemble over keys, of `num_problems`.
    - `together`: `None` for the choice by machine: one after the other on a processor, together on an accelerator.
    - `num_problems`: static; needed only if nothing has an axis for them.
    - `options`: the other arguments of `reconstruct`, by keyword; all problems share them.

    **Returns:** a `Solution` with a leading axis on every array.

    **Raises:** as `reconstruct`, and `ValueError` if the number of problems is not clear.

    !!! example
        ```python
        import jax
        from flax import nnx
        import jaxinv
        likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((16, 16, 1), 2), jaxinv.noise.Gaussian(0.1))
        x = jaxinv.data.ellipses(3, 16, key=jax.random.key(0))
        keys = jax.random.split(jax.random.key(1), 3)
        y = jax.vmap(lambda x, key: likelihood.simulate(x, key=key))(x, keys)
        network = jaxinv.models.DeepDecoder((16, 16, 1), channels=16, rngs=nnx.Rngs(0))
        images = jaxinv.dip.reconstruct_many(likelihood, network, y, key=jax.random.key(2), num_steps=20).value
        ```
    """
    check_key(key)
    _check_axes(in_axes)
    # Everything that is mapped must consist of arrays.
    given = (likelihood, as_network(network) if in_axes[1] == 0 else network, y)
    mapped = tuple(part for part, axis in zip(given, in_axes, strict=True) if axis == 0)
    count = _count(mapped, num_problems)

    def solve(problem: Any) -> Solution:
        index, arrays = problem
        parts = iter(arrays)
        each = [next(parts) if axis == 0 else part for part, axis in zip(given, in_axes, strict=True)]
        return reconstruct(*each, key=jax.random.fold_in(key, index), **options)

    problems = (jnp.arange(count), mapped)
    if together is None:
        together = jax.default_backend() != "cpu"
    return jax.vmap(solve)(problems) if together else jax.lax.map(solve, problems)


def _check_axes(in_axes: Any) -> None:
    if not isinstance(in_axes, tuple) or len(in_axes) != 3 or any(axis not in (None, 0) for axis in in_axes):
        raise ValueError(
            "`in_axes` must be three of 0 and None, for the likelihood, the network and the measurement, such as "
            f"(None, None, 0); got {in_axes!r}."
        )


def _count(mapped: Any, num_problems: int | None) -> int:
    counts = {leaf.shape[0] if leaf.ndim else 0 for leaf in map(jnp.asarray, jax.tree.leaves(mapped))}
    counts |= set() if num_problems is None else {num_problems}
    if len(counts) != 1 or min(counts) < 1:
        raise ValueError(
            "The problems are along the first axis of the arrays that `in_axes` names, or there are `num_problems`; "
            f"found the numbers {sorted(counts)}."
        )
    return counts.pop()
