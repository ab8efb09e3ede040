"""A generative prior from two functions."""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._arrays import check_key, check_one, check_shape
from .._network_state import stateless
from .._networks import as_network, weights_dtype
from .._prior import AbstractGenerativePrior, no_encoder
from .._types import ArrayLike, Checked, Key


class FunctionPrior(AbstractGenerativePrior):
    """The prior `x = decode(z)` with `-log p(z) = energy(z)` up to a constant, from functions of your own.

    **Arguments:**

    - `decode`: maps one latent, of shape `latent_shape`, to one image. A pytree that can be called (an
        `equinox.Module`, a `jax.tree_util.Partial`, a method of one) keeps its arrays as leaves, over which `jax.vmap`
        and `jax.grad` go; the arrays that a bare function closes over become constants of the compiled program.
    - `energy`: maps one latent to a scalar; likewise.
    - `latent_shape`: a tuple of integers.

    `sample_latent` draws a standard normal, whatever the energy: it serves as a start. There is no encoder.

    **Raises:** `ValueError` if `decode` or `energy` cannot be called, or `energy` is not a scalar.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        import jaxinv
        basis = jax.random.normal(jax.random.key(0), (8, 8, 1, 3))
        decode = jax.tree_util.Partial(lambda basis, z: jnp.einsum("hwck,k->hwc", basis, z), basis)
        prior = jaxinv.generative.FunctionPrior(decode, lambda z: 0.5 * jnp.sum(z**2), (3,))
        x = prior.decode(jnp.ones(3))  # (8, 8, 1)
        ```
    """

    decoder: Callable
    energy_function: Callable
    latent_shape: tuple[int, ...] = eqx.field(static=True)
    image_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        decode: Checked[Callable[[Array], Array]],
        energy: Checked[Callable[[Array], Array]],
        latent_shape: Checked[tuple[int, ...]],
    ):
        self.latent_shape = check_shape(latent_shape, "latent_shape")
        self.decoder, self.energy_function = _as_tree(decode, "decode"), _as_tree(energy, "energy")
        z = jax.ShapeDtypeStruct(self.latent_shape, weights_dtype((self.decoder, self.energy_function)))
        image, value = (eqx.filter_eval_shape(_call, f, z) for f in (self.decoder, self.energy_function))
        if not isinstance(image, jax.ShapeDtypeStruct) or not jnp.issubdtype(image.dtype, jnp.floating):
            raise ValueError(f"`decode` must return one image, a real floating array; it returns {image}.")
        if getattr(value, "shape", None) != ():
            raise ValueError(f"`energy` must return a scalar for one latent of shape {z.shape}; it returns {value}.")
        self.image_shape = image.shape

    def decode(self, z: ArrayLike) -> Array:
        """The image of `z`."""
        return self.decoder(check_one(z, self.latent_shape, "a latent", "FunctionPrior"))

    def energy(self, z: ArrayLike) -> Float[Array, ""]:
        """`-log p(z)` up to a constant."""
        return self.energy_function(check_one(z, self.latent_shape, "a latent", "FunctionPrior"))

    def sample_latent(self, *, key: Key) -> Array:
        """A standard normal latent, whatever the energy."""
        check_key(key)
        return jax.random.normal(key, self.latent_shape, weights_dtype((self.decoder, self.energy_function)))

    def encode(self, x: ArrayLike) -> Array:
        """Raises: there is no encoder."""
        del x
        raise no_encoder("FunctionPrior")


def _as_tree(function: Any, name: str) -> Callable:
    if not callable(function):
        raise ValueError(f"`{name}` must be a function of one latent; got {type(function).__name__}.")
    if isinstance(function, nn.Module):
        return as_network(function)
    if inspect.ismethod(function):
        leaves = jax.tree.leaves(function.__self__)
        if leaves and all(eqx.is_array(leaf) for leaf in leaves):
            # The method of a network: its weights become leaves.
            return jax.tree_util.Partial(function.__func__, stateless(function.__self__))
        return jax.tree_util.Partial(function)
    leaves = jax.tree.leaves(function)
    if len(leaves) == 1 and leaves[0] is function:
        return jax.tree_util.Partial(function)
    return as_network(function)


def _call(function: Callable, z: Array) -> Any:
    return function(z)
