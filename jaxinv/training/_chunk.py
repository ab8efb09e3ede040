"""The compiled part of training: many steps in one call, on a carry of arrays. `_run_chunks.py` is the host's part.

The words are those of the grammar: a spec, which is method and problem in one, has `init` and `step`, and `finish` of
`_run_chunks.py` makes the model of the last weights. The loop is not `_loop.run`: no batch of trainings has problems to
freeze, and a chunk ends early only where a loss is not finite.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from .._arrays import common_dtype
from .._mesh import replicated, sharded
from .._network_state import state_is_refused
from .._networks import LinenNetwork
from .._optimisers import init_optimiser, step_optimiser
from .._types import Checked, Key, PyTree
from ..io import leaf_names


class Split(eqx.Module):
    """A model without its trained weights, with which `merge` returns the model."""

    others: list[Any]
    names: tuple[str | None, ...] = eqx.field(static=True)
    treedef: Any = eqx.field(static=True)

    def merge(self, weights: dict[str, Array]) -> Any:
        """The model with these weights."""
        others = iter(self.others)
        leaves = [next(others) if name is None else weights[name] for name in self.names]
        return jax.tree.unflatten(self.treedef, leaves)


def split(model: Any) -> tuple[dict[str, Array], Split]:
    """The trained weights of a model, its inexact arrays by name, and the rest.

    What is no parameter belongs to the rest: Flax NNX variables that are no `nnx.Param`, the collections of a linen
    module besides `params`, and a `State` of equinox.
    """
    leaves, treedef = jax.tree.flatten(model)
    trained = _trained(model)
    names = tuple(name if t else None for name, t in zip(leaf_names(model), trained, strict=True))
    weights = {name: jnp.asarray(leaf) for name, leaf in zip(names, leaves, strict=True) if name is not None}
    others = [leaf for leaf, t in zip(leaves, trained, strict=True) if not t]
    return weights, Split(others, names, treedef)


def _trained(model: Any) -> list[bool]:
    """Whether each leaf is trained."""
    constants = (nnx.Variable, eqx.nn.State)
    is_constant = lambda node: isinstance(node, constants) and not isinstance(node, nnx.Param)
    is_weight = lambda leaf: isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    is_parameter = lambda path: jax.tree_util.keystr(path[:1], simple=True) == "params"
    trained = []
    for node in jax.tree.leaves(model, is_leaf=lambda node: is_constant(node) or isinstance(node, LinenNetwork)):
        if isinstance(node, LinenNetwork):
            leaves = jax.tree_util.tree_leaves_with_path(node.variables)
            trained += [is_parameter(path) and is_weight(leaf) for path, leaf in leaves]
        else:
            trained += [False] * len(jax.tree.leaves(node)) if is_constant(node) else [is_weight(node)]
    return trained


class Carry(NamedTuple):
    """The arrays that change from step to step."""

    weights: dict[str, Array]
    optimiser: PyTree
    average: dict[str, Array]  # The EMA of the weights, empty if there is none.
    order: Array  # The order of the examples in this epoch.
    step: Array


class AbstractTrainingSpec(eqx.Module):
    """The parts of a training that no step changes, with its first state and its step."""

    data: eqx.AbstractVar[PyTree[Array]]
    order_key: eqx.AbstractVar[Key]
    batch_size: eqx.AbstractVar[int]
    count: eqx.AbstractVar[int]
    mesh: eqx.AbstractVar[Mesh | None]
    loss_shape: ClassVar[tuple[int, ...]] = ()

    @abc.abstractmethod
    def init(self, weights: dict[str, Array], average: bool) -> Carry:
        """The carry before the first step.

        **Arguments:**

        - `weights`: the initial weights.
        - `average`: whether the training keeps their moving average.
        """

    @abc.abstractmethod
    def step(self, carry: Carry) -> tuple[Carry, Array]:
        """One step of training.

        **Arguments:**

        - `carry`: the carry before the step.

        **Returns:** the carry after it, and the losses of this step, of shape `loss_shape`.
        """


class TrainingSpec(AbstractTrainingSpec):
    """One model and one loss."""

    model: Split
    loss: Any
    optimiser: Any
    data: PyTree[Array]
    ema: Array
    order_key: Key
    loss_key: Key
    batch_size: int = eqx.field(static=True)
    count: int = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)
    # The step of the first batch in `data`, if that holds the batches of a chunk, in place of all examples.
    first: Array | None = None
    accumulate: int = eqx.field(static=True, default=1)
    compute_dtype: Any = eqx.field(static=True, default=None)

    def init(self, weights: dict[str, Array], average: bool) -> Carry:
        state = init_optimiser(make_optimiser(self.optimiser), weights)
        order = jnp.arange(self.count, dtype=jnp.int32)
        return Carry(weights, state, weights if average else {}, order, jnp.zeros((), jnp.int32))

    def step(self, carry: Carry) -> tuple[Carry, Array]:
        order, batch = self._batch(carry)
        key = jax.random.fold_in(self.loss_key, carry.step)
        function = lambda weights: self._mean_loss(weights, batch, key)
        loss, gradient = self._value_and_gradient(carry.weights, batch, key)
        weights, state, _ = step_optimiser(
            make_optimiser(self.optimiser), function, loss, gradient, carry.optimiser, carry.weights
        )
        average = update_ema(self.ema, carry.step + 1, carry.average, weights)
        return Carry(weights, state, average, order, carry.step + 1), loss

    def piece_loss(self, weights: dict[str, Array], batch: PyTree[Array], key: Key) -> Float[Array, ""]:
        """The loss of a batch, or of a piece of it, in the dtype of computation."""
        model = self.model.merge(weights)
        if self.compute_dtype is None:
            return scalar_loss(self.loss, model, batch, key)
        model, batch = cast((model, batch), self.compute_dtype)
        return scalar_loss(self.loss, model, batch, key).astype(loss_dtype(weights))

    def _batch(self, carry: Carry) -> tuple[Array, PyTree[Array]]:
        if self.first is None:
            return draw(self, carry.order, carry.step)
        index = carry.step - self.first
        batch = jax.tree.map(lambda a: a.at[index].get(mode="promise_in_bounds"), self.data)
        return carry.order, shard_batch(self, batch)

    def _value_and_gradient(
        self, weights: dict[str, Array], batch: PyTree[Array], key: Key
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        if self.accumulate == 1:
            return jax.value_and_grad(self.piece_loss)(weights, batch, key)

        def add(total, piece):
            found = jax.value_and_grad(self.piece_loss)(weights, *piece)
            return jax.tree.map(jnp.add, total, found), None

        pieces = self._pieces(batch, key)
        shapes = jax.eval_shape(jax.value_and_grad(self.piece_loss), weights, *jax.tree.map(lambda a: a[0], pieces))
        total, _ = jax.lax.scan(add, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), pieces)
        return jax.tree.map(lambda leaf: leaf / self.accumulate, total)

    def _mean_loss(self, weights: dict[str, Array], batch: PyTree[Array], key: Key) -> Float[Array, ""]:
        if self.accumulate == 1:
            return self.piece_loss(weights, batch, key)
        return jnp.mean(jax.lax.map(lambda piece: self.piece_loss(weights, *piece), self._pieces(batch, key)))

    def _pieces(self, batch: PyTree[Array], key: Key) -> tuple[PyTree[Array], Key]:
        # Every `accumulate`-th example, so that each device has a share of each piece.
        cut = lambda a: jnp.moveaxis(a.reshape(-1, self.accumulate, *a.shape[1:]), 1, 0)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(self.accumulate, dtype=jnp.int32))
        return jax.tree.map(cut, batch), keys


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """A tree whose real floating arrays have this dtype."""
    is_real = lambda leaf: isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if is_real(leaf) else leaf, tree)


def make_optimiser(optimiser: Checked[optax.GradientTransformation]) -> optax.GradientTransformation:
    """The optimiser itself, or Adam with this learning rate.

    Adam is built inside the trace, so that another rate does not compile again.
    """
    return optimiser if isinstance(optimiser, optax.GradientTransformation) else optax.adam(optimiser)


# The carry is not donated, since `last_good` starts from the one before the chunk. Guarding every step instead, by a
# select between old and new weights, costs 20 % of a step of a dense network.
@eqx.filter_jit
def run_chunk(
    spec: AbstractTrainingSpec, carry: Carry, num_steps: Array, chunk_size: int
) -> tuple[Carry, Array, Array]:
    """Run `num_steps` steps, or stop after the first whose loss is not finite.

    **Arguments:**

    - `spec`, `carry`: the training, and its state before the chunk.
    - `num_steps`: an array, so that another number does not retrace; at most `chunk_size`.
    - `chunk_size`: the largest number of steps, static.

    **Returns:** the carry, the losses (set for the completed steps), and the number of finite ones.
    """
    dtype = loss_dtype(carry.weights)
    losses = jnp.zeros((chunk_size, *spec.loss_shape), dtype)

    def body(state):
        index, carry, losses, _ = state
        carry, loss = spec.step(carry)
        return index + 1, carry, losses.at[index].set(loss.astype(dtype)), jnp.all(jnp.isfinite(loss))

    first = (jnp.zeros((), jnp.int32), carry, losses, jnp.ones((), bool))
    index, carry, losses, finite = jax.lax.while_loop(lambda state: (state[0] < num_steps) & state[3], body, first)
    if spec.mesh is not None:
        # Keep the layout of the input, or the next chunk would compile for another one.
        carry = jax.lax.with_sharding_constraint(carry, replicated(spec.mesh))
    return carry, losses, index - (~finite).astype(jnp.int32)


@eqx.filter_jit
def all_finite(carry: Carry) -> Array:
    """Whether the weights are finite."""
    # One reduction for all weights, since one for each takes four times as long to compile.
    return jnp.all(jnp.concatenate([jnp.isfinite(weight).ravel() for weight in carry.weights.values()]))


def last_good(spec: AbstractTrainingSpec, carry: Carry, most: int, chunk_size: int) -> tuple[Carry, int]:
    """The last carry with finite weights, and its number of steps, within `most` steps from a finite `carry`.

    It bisects, running the chunk again, which is valid because weights that are not finite never become finite again.
    """
    good, least = carry, 0
    while least < most:
        middle = (least + most + 1) // 2
        trial, _, _ = run_chunk(spec, carry, jnp.asarray(middle, jnp.int32), chunk_size)
        if all_finite(trial):
            good, least = trial, middle
        else:
            most = middle - 1
    return good, least


@eqx.filter_jit
def evaluate(spec: TrainingSpec, weights: dict[str, Array], data: PyTree[Array], count: int, key: Key) -> Array:
    """The mean loss over `data`, in batches, with the same keys at every call."""
    size = min(spec.batch_size, count)
    whole = count // size

    def one(index):
        batch = jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, index * size, size), data)
        return spec.piece_loss(weights, shard_batch(spec, batch), jax.random.fold_in(key, index))

    total = size * jnp.sum(jax.lax.map(one, jnp.arange(whole, dtype=jnp.int32)))
    rest = count - whole * size
    if rest:
        batch = jax.tree.map(lambda a: a[whole * size :], data)
        total += rest * spec.piece_loss(weights, batch, jax.random.fold_in(key, whole))
    return total / count


def scalar_loss(loss: Checked[Callable[..., Any]], model: Any, batch: PyTree[Array], key: Key) -> Float[Array, ""]:
    """The loss of a batch.

    **Raises:** `ValueError` if it is not a real scalar.
    """
    with state_is_refused():
        value = jnp.asarray(loss(model, batch, key=key))
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"`loss(model, batch, *, key)` must return a real scalar; got {value.dtype} of shape {value.shape}. Take "
            "the mean over the batch."
        )
    return value


def draw(spec: AbstractTrainingSpec, order: Array, index: Array) -> tuple[Array, PyTree[Array]]:
    """The order of the examples in the epoch of batch number `index`, from the previous order, and that batch."""
    per_epoch = spec.count // spec.batch_size
    epoch, position = index // per_epoch, index % per_epoch
    order = jax.lax.cond(
        position == 0,
        lambda order: jax.random.permutation(
            jax.random.fold_in(spec.order_key, epoch), jnp.arange(order.shape[0], dtype=order.dtype)
        ),
        lambda order: order,
        order,
    )
    indices = jax.lax.dynamic_slice_in_dim(order, position * spec.batch_size, spec.batch_size)
    batch = jax.tree.map(lambda leaf: leaf.at[indices].get(mode="promise_in_bounds"), spec.data)
    return order, shard_batch(spec, batch)


def update_ema(ema: Array, step: Array, average: dict[str, Array], weights: dict[str, Array]) -> dict[str, Array]:
    """The average of the weights after step number `step`, counted from 1."""
    # This warm-up keeps the initial weights from dominating the average of the first steps.
    decay = jnp.minimum(ema, (1 + step) / (10 + step))
    return {name: _mix(decay, average[name], weights[name]) for name in average}


def repeat(function: Callable[[Array, PyTree], PyTree], state: PyTree, times: int) -> PyTree:
    """Apply `function(index, state) -> state` `times` times."""
    if times == 1:
        return function(jnp.zeros((), jnp.int32), state)
    return jax.lax.fori_loop(0, times, function, state)


def loss_dtype(weights: dict[str, Array]) -> Any:
    """The dtype in which losses are recorded: real, float32 at least."""
    return common_dtype(jnp.float32, *(jnp.finfo(w.dtype).dtype for w in weights.values()))


def shard_batch(spec: AbstractTrainingSpec, batch: PyTree[Array]) -> PyTree[Array]:
    """The batch with one piece on each device."""
    # A validation set smaller than a batch may not be divisible; then every device computes all of it.
    if spec.mesh is None or len(jax.tree.leaves(batch)[0]) % spec.mesh.size:
        return batch
    return jax.lax.with_sharding_constraint(batch, sharded(spec.mesh))


def _mix(decay: Array, old: Array, new: Array) -> Array:
    return new + decay.astype(jnp.finfo(new.dtype).dtype) * (old - new)
