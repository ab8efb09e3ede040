"""The compiled part of adversarial training, the step of two networks; `fit_adversarial` is the part on the host."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from .._network_state import state_is_refused
from .._optimisers import init_optimiser, step_optimiser
from .._types import Checked, Key, PyTree
from ._chunk import (
    AbstractTrainingSpec,
    Carry,
    Split,
    draw,
    loss_dtype,
    repeat,
    shard_batch,
    update_ema,
)

GENERATOR, CRITIC = "generator", "critic"
# No momentum and a short memory of squares, since each network's loss changes with the other network.
_MOMENTUM, _SQUARES = 0.0, 0.99


class AdversarialSpec(AbstractTrainingSpec):
    """Two networks and one loss; the carry holds the weights of both, and two optimiser states."""

    model: Split  # The split of a dict of both networks.
    loss: Any
    optimisers: tuple[Any, Any]
    data: Array
    ema: Array
    order_key: Key
    loss_key: Key
    latent_shape: tuple[int, ...] = eqx.field(static=True)
    latent_dtype: Any = eqx.field(static=True)
    critic_steps: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    count: int = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)
    loss_shape: ClassVar[tuple[int, ...]] = (2,)

    def init(self, weights: dict[str, Array], average: bool) -> Carry:
        """The carry before the first step; the average is that of the generator's weights."""
        generator, critic = part(weights, GENERATOR), part(weights, CRITIC)
        pairs = zip(self.optimisers, (generator, critic), strict=True)
        states = tuple(init_optimiser(make_optimiser(optimiser), own) for optimiser, own in pairs)
        order = jnp.arange(self.count, dtype=jnp.int32)
        return Carry(weights, states, generator if average else {}, order, jnp.zeros((), jnp.int32))

    def step(self, carry: Carry) -> tuple[Carry, Array]:
        """`critic_steps` steps of the critic, each on a batch of its own, and one of the generator."""
        generator, critic = part(carry.weights, GENERATOR), part(carry.weights, CRITIC)
        optimisers = tuple(make_optimiser(optimiser) for optimiser in self.optimisers)
        generator_state, critic_state = carry.optimiser
        first = carry.step * self.critic_steps
        key = jax.random.fold_in(self.loss_key, carry.step)
        dtype = loss_dtype(carry.weights)

        def critic_step(index, state):
            critic, memory, order, total = state
            order, batch = draw(self, order, first + index)
            k = jax.random.fold_in(key, index)
            function = lambda c: self._losses({**generator, **c}, batch, k)[1]
            loss, gradient = jax.value_and_grad(function)(critic)
            critic, memory, _ = step_optimiser(optimisers[1], function, loss, gradient, memory, critic)
            return critic, memory, order, total + loss.astype(dtype)

        state = (critic, critic_state, carry.order, jnp.zeros((), dtype))
        critic, critic_state, order, total = repeat(critic_step, state, self.critic_steps)
        # The last batch of the critic; XLA gathers it again only if the loss of the generator uses it.
        _, batch = draw(self, order, first + self.critic_steps - 1)
        k = jax.random.fold_in(key, self.critic_steps)
        function = lambda g: self._losses({**g, **critic}, batch, k)[0]
        loss, gradient = jax.value_and_grad(function)(generator)
        generator, generator_state, _ = step_optimiser(
            optimisers[0], function, loss, gradient, generator_state, generator
        )

        losses = jnp.stack([loss.astype(dtype), total / self.critic_steps])
        average = update_ema(self.ema, carry.step + 1, carry.average, generator)
        weights = {**generator, **critic}
        return Carry(weights, (generator_state, critic_state), average, order, carry.step + 1), losses

    def _losses(self, weights: dict[str, Array], batch: Array, key: Key) -> tuple[Float[Array, ""], Float[Array, ""]]:
        model = self.model.merge(weights)
        shape = (self.batch_size, *self.latent_shape)
        latents = shard_batch(self, jax.random.normal(jax.random.fold_in(key, 0), shape, self.latent_dtype))
        with state_is_refused():
            losses = self.loss(model[GENERATOR], model[CRITIC], batch, latents, key=jax.random.fold_in(key, 1))
        arrays = [jnp.asarray(value) for value in losses] if isinstance(losses, tuple | list) else []
        if len(arrays) != 2 or any(a.shape != () or not jnp.issubdtype(a.dtype, jnp.floating) for a in arrays):
            found = [f"{a.dtype} of shape {a.shape}" for a in arrays] or type(losses).__name__
            raise ValueError(
                "`loss(generator, critic, images, latents, *, key)` must return two real scalars, the loss of the "
                f"generator and that of the critic; got {found}. Take the mean over the batch."
            )
        return arrays[0], arrays[1]


def make_optimiser(optimiser: Checked[optax.GradientTransformation]) -> optax.GradientTransformation:
    """The user's optimiser, or Adam for a learning rate, built inside the trace so that other rates do not retrace."""
    if isinstance(optimiser, optax.GradientTransformation):
        return optimiser
    return optax.adam(optimiser, b1=_MOMENTUM, b2=_SQUARES)


def part(weights: dict[str, Array], name: str) -> dict[str, Array]:
    """The weights of one of the two networks."""
    return {path: weight for path, weight in weights.items() if path.split(".")[0] == name}


@eqx.filter_jit
def evaluate_monitor(model: Split, weights: dict[str, Array], monitor: Any, key: Key) -> dict[str, Array]:
    """The scalars that the monitor returns for the generator."""
    values: PyTree = monitor(model.merge(weights)[GENERATOR], key=key)
    values = {name: jnp.asarray(value) for name, value in values.items()} if isinstance(values, dict) else {}
    if not values or any(v.shape != () or jnp.issubdtype(v.dtype, jnp.complexfloating) for v in values.values()):
        raise ValueError(
            "`monitor(generator, *, key)` must return a dict of real scalars, such as {'coverage': ...}; got "
            f"{ {name: value.shape for name, value in values.items()} or 'something else' }."
        )
    return values
