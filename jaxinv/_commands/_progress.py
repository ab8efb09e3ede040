"""Progress bars of the commands, with the remaining time; only on a terminal, and never on the standard output."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

_FORMAT = "{desc} {percentage:3.0f} % |{bar}| {elapsed}, {remaining} left"


class Bar(diffrax.AbstractProgressMeter[Any]):
    """A meter for work that the host runs in pieces, such as `training.fit`.

    Do not use it in a compiled loop, since the compilation cache does not keep programs with host callbacks.
    """

    title: str = eqx.field(static=True)

    def init(self) -> Any:
        import tqdm

        # With `disable=None` there is no bar if the standard error is not a terminal.
        options: dict[str, Any] = {"bar_format": _FORMAT, "mininterval": 0, "miniters": 0, "disable": None}
        return tqdm.tqdm(desc=self.title, total=1.0, leave=False, **options)

    def step(self, state: Any, progress: Any) -> Any:
        state.update(float(progress) - state.n)
        return state

    def close(self, state: Any) -> None:
        state.close()


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[float], None]]:
    """Show a bar in this context, which yields the function that sets the completed share."""
    bar = Bar(title)
    state = bar.init()
    try:
        yield lambda share: bar.step(state, share)
    finally:
        bar.close(state)


def in_pieces(function: Callable[[Array], Array], batch: Array, size: int, tell: Callable[[float], None]) -> Array:
    """Evaluate `function`, which maps over the first axis, on `size` entries at a time; `tell` receives the share done.

    Every piece has `size` entries, so that one compiled program suffices; the last one is padded by copies.
    """
    count = len(batch)
    padded = jnp.concatenate([batch, jnp.repeat(batch[-1:], -count % size, axis=0)])
    values = []
    for start in range(0, count, size):
        values.append(jax.block_until_ready(function(padded[start : start + size])))
        tell(min(start + size, count) / count)
    return jnp.concatenate(values)[:count]
