"""Langevin dynamics."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._solution import RESULTS
from ..._types import Key
from ._loops import repeat
from ._method import finite_or


def langevin(gradient: Any, x: Array, args: PyTree, length: Array, num_steps: int, *, key: Key) -> tuple[Array, Any]:
    """`x + length gradient(x, args) + sqrt(2 length) z`, `num_steps` times: the state and the code."""

    def step(index: Array, x: Array, args: PyTree) -> tuple[Array, Any]:
        args, length, key = args
        z = jax.random.normal(jax.random.fold_in(key, index), x.shape, x.dtype)
        return finite_or(x + length * gradient(x, args) + jnp.sqrt(2 * length) * z, x, RESULTS.successful)

    x, _, code = repeat(step, x, (args, length, key), num_steps)
    return x, code
