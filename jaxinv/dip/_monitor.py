"""The monitor of a run: the average of its images, the best image, and the history."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._loop import divergence_threshold
from .._types import PyTree
from ._method import Evaluation
from ._stopping import AbstractStopping, StoppingProblem


class Kept(NamedTuple):
    """One image of a run.

    - `criterion`: the lowest so far.
    - `step`: the number of steps before it.
    """

    criterion: Array
    image: Array
    step: Array


class MonitorState(NamedTuple):
    """The state of the monitor, carried from image to image.

    - `average`: the average of the images.
    - `best`: the image with the lowest criterion of the stopping rule.
    - `lowest`: the image with the lowest objective, which a run returns that fails.
    - `threshold`: an objective beyond this has diverged.
    - `stopping`: the state of the stopping rule.
    - `history`: one entry for every `stride` steps.
    - `num_steps`: the number of steps before the last image.
    """

    average: Array
    best: Kept
    lowest: Kept
    threshold: Array
    stopping: PyTree[Array]
    history: dict[str, Array]
    num_steps: Array


class Monitor(eqx.Module):
    """The stopping rule, the average and the history of a run.

    - `rule`: the stopping rule, and `problem`, what it made of the measurement.
    - `ema`: the decay of the average, 0 for none.
    - `reference`: the true image, if it is known.
    - `stride`: the number of steps between two entries of the history.
    """

    rule: AbstractStopping
    problem: StoppingProblem
    ema: Array
    reference: Array | None
    stride: int = eqx.field(static=True)

    def init(self, image: jax.ShapeDtypeStruct, num_steps: int) -> MonitorState:
        """The state before the first image of a run of at most `num_steps` steps."""
        real = self.ema.dtype
        none = Kept(jnp.full((), jnp.finfo(real).max, real), jnp.zeros(image.shape, image.dtype), jnp.int32(0))
        history = {name: jnp.zeros(num_steps // self.stride + 1, real) for name in self._names()}
        stopping = self.rule.init(self.problem, image)
        return MonitorState(none.image, none, none, none.criterion, stopping, history, none.step)

    def step(
        self, state: MonitorState, evaluation: Evaluation, index: Array
    ) -> tuple[MonitorState, Bool[Array, ""], Bool[Array, ""]]:
        """The state with the image after `index` steps, whether to stop, and whether the run has diverged."""
        index = jnp.asarray(index, jnp.int32)
        image, objective = evaluation
        first = index == 0
        average = jnp.where(first, image, self.ema * state.average + (1 - self.ema) * image)
        stopping, criterion = self.rule.step(self.problem, state.stopping, average)
        best = _better(state.best, Kept(criterion, average, index))
        lowest = _better(state.lowest, Kept(objective, image, index))
        threshold = jnp.where(first, divergence_threshold(objective), state.threshold)
        entries = {"objective": objective}
        if self.rule.criterion_name is not None:
            entries[self.rule.criterion_name] = criterion
        if self.reference is not None:
            # The criterion is the mean squared error, from which `history` computes the PSNR.
            entries["psnr"] = jnp.mean(jnp.abs(average - self.reference) ** 2)
        due, place = index % self.stride == 0, index // self.stride
        record = lambda line, entry: line.at[place].set(jnp.where(due, entry, line[place]))
        history = {name: record(line, entries[name]) for name, line in state.history.items()}
        state = MonitorState(average, best, lowest, threshold, stopping, history, index)
        return state, self.rule.stops(self.problem, criterion, index - best.step), objective > threshold

    def history(self, state: MonitorState) -> dict[str, Array]:
        """The history, whose last entry is repeated to the end."""
        length = state.history["objective"].shape[0]
        places = jnp.minimum(jnp.arange(length, dtype=state.num_steps.dtype), state.num_steps // self.stride)
        history = {name: line[places] for name, line in state.history.items()}
        if "psnr" in history:
            square = history["psnr"]
            history["psnr"] = jnp.where(square > 0, -10 * jnp.log10(jnp.where(square > 0, square, 1)), jnp.inf)
        return {"step": self.stride * places} | history

    def _names(self) -> list[str]:
        names: list[Any] = ["objective", self.rule.criterion_name, None if self.reference is None else "psnr"]
        return [name for name in names if name is not None]


def _better(old: Kept, new: Kept) -> Kept:
    # Among equals the latest image is kept.
    improved = new.criterion <= old.criterion
    return Kept(*(jnp.where(improved, n, o) for n, o in zip(new, old, strict=True)))
