"""The loops of the methods."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..._loop import iterate
from ..._solution import RESULTS


def repeat(
    step: Any, state: PyTree, args: PyTree, num_steps: int, result: Any = RESULTS.successful, progress: Any = None
) -> tuple[PyTree, Array, Any]:
    """`step(index, state, args) -> (state, code)`, `num_steps` times: the state, the number of steps and the code.

    After a step that fails the state is the one before it.
    """
    if num_steps == 0:
        return state, jnp.zeros((), jnp.int32), result

    def guarded(index: Array, state: PyTree, args: PyTree) -> tuple[PyTree, Array, Any]:
        new, code = step(index, state, args)
        sound = code == RESULTS.successful
        return jax.tree.map(lambda n, o: jnp.where(sound, n, o), new, state), ~sound, code

    return iterate(
        guarded, state, args, result=result, max_steps=num_steps, exhausted=RESULTS.successful, progress=progress
    )


def run(
    step: Any, state: PyTree, args: PyTree, num_steps: int, result: Any, progress: Any
) -> tuple[PyTree, Array, Any]:
    """As `repeat`, of steps that do not tell whether they failed: `step(index, state, args) -> state`."""
    certain = lambda index, state, args: (step(index, state, args), RESULTS.successful)
    return repeat(certain, state, args, num_steps, result, progress)


def first_failure(code: Any, *others: Any) -> Any:
    """The first of these codes that is not `successful`, if one is not."""
    for other in others:
        code = RESULTS.where(code == RESULTS.successful, other, code)
    return code
