"""Bars that say what is being done and how long it still takes: on a terminal, and never on the standard output."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

_FORMAT = "{desc} {percentage:3.0f} % |{bar}| {elapsed}, {remaining} left"


class Bar(diffrax.AbstractProgressMeter):
    """A meter for work that the host drives in pieces, such as `training.fit`.

    Not for a compiled loop: a program that calls back to the host is not kept by the compilation cache.
    """

    title: str = eqx.field(static=True)

    def init(self) -> Any:
        import tqdm

        # `disable=None`: no bar where the standard error is not a terminal.
        options: dict[str, Any] = {"bar_format": _FORMAT, "mininterval": 0, "miniters": 0, "disable": None}
        return tqdm.tqdm(desc=self.title, total=1.0, leave=False, **options)

    def step(self, state: Any, progress: Any) -> Any:
        state.update(float(progress) - state.n)
        return state

    def close(self, state: Any) -> None:
        state.close()


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[float], None]]:
    """A bar during this context, which is given how to say what share of the work is done."""
    bar = Bar(title)
    state = bar.init()
    try:
        yield lambda share: bar.step(state, share)
    finally:
        bar.close(state)


def in_pieces(function: Callable[[Array], Array], batch: Array, size: int, tell: Callable[[float], None]) -> Array:
    """`function(batch)`, which maps over the first axis, by so many entries at a time, with the share done told.

    Every piece has `size` entries, so that one compiled program does for all: the last one is filled up by copies.
    """
    count = len(batch)
    padded = jnp.concatenate([batch, jnp.repeat(batch[-1:], -count % size, axis=0)])
    values = []
    for start in range(0, count, size):
        values.append(jax.block_until_ready(function(padded[start : start + size])))
        tell(min(start + size, count) / count)
    return jnp.concatenate(values)[:count]
