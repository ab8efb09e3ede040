"""Batches that the host reads while a run goes on: from a data source, or from an iterator."""

import abc
import base64
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._sources import has_items
from .._types import Key, PyTree
from ._chunk import TrainingSpec
from ._data import check_data, fingerprint

# The batches of a chunk take at most so many bytes, unless the user says how many steps it has.
_MOST = 64 * 2**20


class AbstractBatches(abc.ABC):
    """Batches by the numbers of their steps.

    - `example`: the first batch.
    """

    example: PyTree

    @abc.abstractmethod
    def take(self, step: int, steps: int) -> list[PyTree]:
        """The batches of `steps` steps from `step` on, which follow those that were taken before."""

    @abc.abstractmethod
    def state(self) -> Any:
        """The state from which `restore` goes on, for a checkpoint, as JSON."""

    @abc.abstractmethod
    def restore(self, state: Any, step: int) -> None:
        """Go on from the state that a checkpoint holds, written after `step` steps."""

    @abc.abstractmethod
    def identity(self) -> str:
        """What identifies the data for a checkpoint."""

    def fill(self, spec: TrainingSpec, step: int, steps: int, chunk_size: int) -> TrainingSpec:
        """The spec with the batches of the next steps."""
        batches = self.take(step, steps)
        # Every chunk has one shape, so that all are one program.
        batches += [batches[-1]] * (chunk_size - steps)
        data = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *batches)
        return eqx.tree_at(lambda s: (s.data, s.first), spec, (data, jnp.asarray(step, jnp.int32)))


class SourceBatches(AbstractBatches):
    """Batches of a data source, in the order in which those of an array would be drawn."""

    def __init__(self, source: Any, batch_size: int, order_key: Key):
        self.source, self.batch_size, self.order_key = source, batch_size, order_key
        self.count = len(source)
        if batch_size > self.count:
            raise ValueError(f"`batch_size` is {batch_size}, more than the {self.count} examples of `data`.")
        self.epoch, self.order = -1, np.zeros(0, np.int32)
        self.example = self._read(range(batch_size))

    def take(self, step: int, steps: int) -> list[PyTree]:
        return [self._batch(index) for index in range(step, step + steps)]

    def state(self) -> Any:
        return None

    def restore(self, state: Any, step: int) -> None:
        del state, step

    def identity(self) -> str:
        return f"a source of {self.count} examples, of which the first have {fingerprint(self.example)}"

    def _batch(self, index: int) -> PyTree:
        epoch, position = divmod(index, self.count // self.batch_size)
        if epoch != self.epoch:
            key = jax.random.fold_in(self.order_key, epoch)
            self.epoch = epoch
            self.order = np.asarray(jax.random.permutation(key, jnp.arange(self.count, dtype=jnp.int32)))
        return self._read(self.order[position * self.batch_size : (position + 1) * self.batch_size].tolist())

    def _read(self, numbers: Any) -> PyTree:
        items = [self.source[i] for i in numbers]
        try:
            batch = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *items)
        except ValueError as error:
            raise ValueError(f"The examples of `data` must be alike, in structure and shapes: {error}") from error
        first = getattr(self, "example", batch)
        if _kind(batch) != _kind(first):
            raise ValueError(
                f"The examples of `data` must be alike: {list(numbers)[:3]} ... make a batch of {_kind(batch)[1]}, and "
                f"the first ones made {_kind(first)[1]}."
            )
        return batch


class IteratorBatches(AbstractBatches):
    """Batches of an iterator, each a pytree of arrays with the examples along the first axis."""

    def __init__(self, data: Any, batch_size: int):
        self.iterator: Iterator[Any] = iter(data)
        self.batch_size = batch_size
        before = self.state()
        self.example = self._next(0)
        # An iterator with a state is reset; of any other the first batch is kept.
        self.kept = [self.example]
        if before is not None:
            self.restore(before, 0)

    def take(self, step: int, steps: int) -> list[PyTree]:
        return [self._next(index) for index in range(step, step + steps)]

    def state(self) -> Any:
        if not hasattr(self.iterator, "get_state"):
            return None
        state = self.iterator.get_state()  # type: ignore[attr-defined]  # of grain's iterators
        return {"base64": base64.b64encode(state).decode()} if isinstance(state, bytes) else {"state": state}

    def restore(self, state: Any, step: int) -> None:
        if state is None:
            self.take(0, step)
            return
        self.kept = []
        plain = state["state"] if "state" in state else base64.b64decode(state["base64"])
        self.iterator.set_state(plain)  # type: ignore[attr-defined]  # of grain's iterators

    def identity(self) -> str:
        return f"an iterator whose first batch has {fingerprint(self.example)}"

    def _next(self, step: int) -> PyTree:
        if getattr(self, "kept", None):
            return self.kept.pop()
        try:
            batch = next(self.iterator)
        except StopIteration:
            raise ValueError(
                f"The iterator `data` ended after {step} batches, before `num_steps`. Let it repeat its data, or take "
                "fewer steps."
            ) from None
        batch = jax.tree.map(np.asarray, batch)
        leaves = jax.tree.leaves(batch)
        if any(leaf.ndim == 0 or len(leaf) != self.batch_size for leaf in leaves):
            raise ValueError(
                f"Batch {step} of `data` has arrays of shapes {[leaf.shape for leaf in leaves]}, and `batch_size` is "
                f"{self.batch_size}: every batch must have as many examples."
            )
        first = getattr(self, "example", batch)
        if _kind(batch) != _kind(first):
            raise ValueError(f"Batch {step} of `data` is {_kind(batch)[1]}, and the first was {_kind(first)[1]}.")
        return batch


def _kind(batch: PyTree) -> tuple[Any, list[Any]]:
    return jax.tree.structure(batch), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(batch)]


def open_batches(data: Any, batch_size: int, order_key: Key) -> AbstractBatches:
    """The batches of a data source or an iterator.

    **Raises:** `ValueError` for batches that cannot be trained on.
    """
    batches = SourceBatches(data, batch_size, order_key) if has_items(data) else IteratorBatches(data, batch_size)
    check_data(batches.example, "data")
    return batches


def chunk_that_fits(chunk_size: int | None, num_steps: int, batches: AbstractBatches) -> int:
    """The number of steps of a chunk: as given, or fewer than usual if their batches are large."""
    if chunk_size is not None:
        return chunk_size
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(batches.example))
    return max(1, min(-(-num_steps // 50), 1000, _MOST // max(1, size)))
