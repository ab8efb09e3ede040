"""What a run keeps of its images: their average, the best one, the history."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._loop import divergence_threshold
from ._method import Evaluation
from ._stopping import AbstractStopping


class Kept(NamedTuple):
    """One image of a run.

    - `figure`: the lowest so far.
    - `step`: how many steps were taken before it.
    """

    figure: Array
    image: Array
    step: Array


class Watch(NamedTuple):
    """Everything that is kept.

    - `average`: of the images.
    - `best`: by the stopping rule; `lowest`: by the objective, for a run that fails.
    - `most`: an objective beyond this has diverged.
    - `memory`: of the stopping rule.
    - `history`: one entry for every `stride` steps; the last of them is of the image after `seen` steps, or before.
    """

    average: Array
    best: Kept
    lowest: Kept
    most: Array
    memory: PyTree[Array]
    history: dict[str, Array]
    seen: Array


class Watcher(eqx.Module):
    """How it is kept.

    - `ema`: the decay of the average, 0 for none.
    - `reference`: the true image, if it is known.
    """

    rule: AbstractStopping
    ema: Array
    reference: Array | None
    stride: int = eqx.field(static=True)

    def start(self, like: jax.ShapeDtypeStruct, num_steps: int) -> Watch:
        """Before the first image."""
        real = self.ema.dtype
        nothing = Kept(jnp.full((), jnp.finfo(real).max, real), jnp.zeros(like.shape, like.dtype), jnp.int32(0))
        history = {name: jnp.zeros(num_steps // self.stride + 1, real) for name in self._names()}
        return Watch(nothing.image, nothing, nothing, nothing.figure, self.rule.memory(like), history, nothing.step)

    def observe(self, watch: Watch, found: Evaluation, index: Array) -> tuple[Watch, Array, Array]:
        """The watch with the image after `index` steps in it, whether to stop, and whether the run has diverged."""
        index = jnp.asarray(index, jnp.int32)
        first = index == 0
        average = jnp.where(first, found.image, self.ema * watch.average + (1 - self.ema) * found.image)
        memory, figure = self.rule.figure(watch.memory, average)
        best = _better(watch.best, Kept(figure, average, index))
        lowest = _better(watch.lowest, Kept(found.objective, found.image, index))
        most = jnp.where(first, divergence_threshold(found.objective), watch.most)
        entries = {"objective": found.objective}
        if self.rule.name is not None:
            entries[self.rule.name] = figure
        if self.reference is not None:
            entries["psnr"] = jnp.mean(jnp.abs(average - self.reference) ** 2)
        due, place = index % self.stride == 0, index // self.stride
        record = lambda line, entry: line.at[place].set(jnp.where(due, entry, line[place]))
        history = {name: record(line, entries[name]) for name, line in watch.history.items()}
        watch = Watch(average, best, lowest, most, memory, history, index)
        return watch, self.rule.stops(figure, index - best.step), found.objective > most

    def summarise(self, watch: Watch) -> dict[str, Array]:
        """The history, whose last entry is repeated to the end."""
        length = watch.history["objective"].shape[0]
        places = jnp.minimum(jnp.arange(length), watch.seen // self.stride)
        history = {name: line[places] for name, line in watch.history.items()}
        if "psnr" in history:
            square = history["psnr"]
            history["psnr"] = jnp.where(square > 0, -10 * jnp.log10(jnp.where(square > 0, square, 1)), jnp.inf)
        return {"step": self.stride * places} | history

    def _names(self) -> list[str]:
        names: list[Any] = ["objective", self.rule.name, None if self.reference is None else "psnr"]
        return [name for name in names if name is not None]


def _better(old: Kept, new: Kept) -> Kept:
    # The latest of equals.
    improved = new.figure <= old.figure
    return Kept(*(jnp.where(improved, n, o) for n, o in zip(new, old, strict=True)))
