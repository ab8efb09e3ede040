"""Networks of any library as pytrees (Flax linen, equinox, plain objects and functions), and the checks of networks."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from ._arrays import as_array, check_floating, check_shape, standard_promotion
from ._network_state import ADVICE, stateless
from ._types import Checked, PyTree
from ._workarounds import all_of


class LinenNetwork(eqx.Module):
    """A bound Flax linen module as a pytree of its variables, with its definition as static data."""

    variables: PyTree[Array]
    module: Any = eqx.field(static=True)

    def bind(self) -> nn.Module:
        """The module, bound."""
        return self.module.bind(self.variables)

    def encode(self, x: Array) -> Any:
        return self._apply(x, method="encode")

    def decode(self, z: Array) -> Array:
        return self._apply(z, method="decode")

    def __call__(self, *args: Array) -> Any:
        return self._apply(*args)

    def _apply(self, *args: Array, **options: Any) -> Any:
        try:
            return self.module.apply(self.variables, *args, **options)
        except (flax.errors.ModifyScopeVariableError, flax.errors.InvalidRngError) as error:
            reason = str(error).split(" (https")[0]
            raise ValueError(f"A layer of {type(self.module).__name__} has a state: {reason} {ADVICE}") from error


def unbind_linen(tree: PyTree) -> PyTree:
    """`tree` with every linen module in it taken apart.

    **Raises:** `ValueError` for a module that is not bound.
    """
    is_linen = lambda node: isinstance(node, nn.Module)
    return jax.tree.map(lambda node: _taken_apart(node) if is_linen(node) else node, tree, is_leaf=is_linen)


def rebind_like(network: Any, given: Any) -> Any:
    """`network`, bound again where what was given is a linen module."""
    return network.bind() if isinstance(given, nn.Module) else network


def _taken_apart(model: nn.Module) -> LinenNetwork:
    if model.scope is None:
        raise ValueError(f"The linen module {type(model).__name__} has no weights; bind them: `model.bind(variables)`.")
    module, variables = model.unbind()
    return LinenNetwork(jax.tree.map(jnp.asarray, variables), module)


class PyTreeNetwork(eqx.Module):
    """A network as a pytree whose leaves are all arrays, as `jax.jit` requires; its other leaves are static.

    Equinox networks have functions among their leaves; a plain object is one leaf that is no array.
    """

    arrays: list[Array]
    rest: Any = eqx.field(static=True)

    def bind(self) -> Any:
        """The network, unchanged."""
        treedef, others = self.rest
        arrays = iter(self.arrays)
        return jax.tree.unflatten(treedef, [next(arrays) if other is _ARRAY else other for other in others])

    def encode(self, x: Array) -> Any:
        return self.bind().encode(x)

    def decode(self, z: Array) -> Array:
        return self.bind().decode(z)

    def __call__(self, *args: Array) -> Any:
        return self.bind()(*args)


# Marks the place of an array among the static leaves; a string, so that equal networks compare equal.
_ARRAY = "<array>"


def as_network(model: Any) -> Any:
    """`model` as a pytree whose leaves are all arrays, with the same calls.

    A Flax NNX network is one already. A bound linen module and an equinox network work too, and so does any other
    object or function, whose arrays become constants of the compiled program. A layer that changes a state of its own
    in a call raises there, see `stateless`.
    """
    if isinstance(model, nn.Module):
        return unbind_linen(model)
    model = stateless(model)
    leaves, treedef = jax.tree.flatten(model)
    leaves = [jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in leaves]
    if leaves and all(eqx.is_array(leaf) for leaf in leaves):
        return jax.tree.unflatten(treedef, leaves)
    rest = (treedef, tuple(_ARRAY if eqx.is_array(leaf) else leaf for leaf in leaves))
    try:
        hash(rest)
    except TypeError as error:
        raise ValueError(
            f"The network {type(model).__name__} can be neither flattened to arrays nor hashed ({error}). Make it a "
            "pytree (`equinox.Module`, `flax.nnx.Module`), or give functions."
        ) from error
    return PyTreeNetwork([leaf for leaf in leaves if eqx.is_array(leaf)], rest)


def weights_are_finite(*trees: PyTree) -> Array | bool:
    """Whether the weights of all networks in some pytrees are finite: an infinite one may hide in an activation.

    **Returns:** a boolean scalar; `True` where there is no network.
    """
    is_network = lambda node: isinstance(node, nnx.Module | LinenNetwork | PyTreeNetwork)
    networks = [node for node in jax.tree.leaves(trees, is_leaf=is_network) if is_network(node)]
    weights = [leaf for leaf in jax.tree.leaves([_weights(n) for n in networks]) if eqx.is_inexact_array(leaf)]
    return all_of([jnp.all(jnp.isfinite(leaf)) for leaf in weights]) if weights else True


def _weights(network: Any) -> PyTree:
    """What a network learns, as far as its library says so; a mask of a Flax network may hold infinity."""
    if isinstance(network, LinenNetwork):
        variables = network.variables
        return variables["params"] if isinstance(variables, Mapping) and "params" in variables else variables
    if isinstance(network, nnx.Module):
        is_variable = lambda node: isinstance(node, nnx.Variable)
        return [v for v in jax.tree.leaves(network, is_leaf=is_variable) if isinstance(v, nnx.Param)]
    return network


def weights_dtype(model: PyTree) -> Any:
    """The real dtype in which a network computes, that of its weights."""
    leaves = [leaf for leaf in jax.tree.leaves(model) if eqx.is_inexact_array(leaf)]
    with standard_promotion():
        return jnp.finfo(jnp.result_type(*leaves) if leaves else jnp.result_type(float)).dtype


def check_batch(x: Any, shape: tuple[int, ...], what: str, name: str) -> Array:
    """`x` as an array of shape `(n, *shape)` and floating dtype, as a network expects it."""
    x = as_array(x)
    letters = "(n, h, w, c)" if len(shape) == 3 else "(n, k)"
    expected = f"(n, {', '.join(map(str, shape))})"
    if x.shape[1:] != shape or x.ndim != len(shape) + 1:
        advice = "Networks take a batch " + letters + "; "
        if x.shape == shape:
            advice += "add the batch axis: `x[None]`."
        elif x.ndim == len(shape) and len(shape) == 3 and x.shape[1:] == shape[:2] and shape[2] == 1:
            advice += "add the channel axis: `x[..., None]`."
        else:
            advice += "this network was made for other sizes."
        raise ValueError(f"{name} expects {what} of shape {expected}; got {x.shape}. {advice}")
    return check_floating(x, what, name)


def check_network_shape(image_shape: Any, rngs: Any) -> tuple[int, int, int]:
    """Return the shape of an image as `(h, w, c)`, and raise unless weights can be drawn from `rngs`."""
    image_shape = check_shape(image_shape, "image_shape")
    if len(image_shape) != 3:
        raise ValueError(f"`image_shape` must be (height, width, channels); got {image_shape}.")
    check_rngs(rngs)
    return image_shape


def check_rngs(rngs: Any) -> None:
    """Raise unless `rngs` is a `flax.nnx.Rngs`, from which weights can be drawn."""
    if not isinstance(rngs, nnx.Rngs):
        raise ValueError(f"`rngs` must be a `flax.nnx.Rngs`, made by `nnx.Rngs(0)`; got {type(rngs).__name__}.")


def latent_shape_of(generator: Any, latent_shape: Checked[Sequence[int] | None], call: str) -> tuple[int, ...]:
    """The shape of one latent: as given, or from the `latent_size` of the generator.

    - `call`: the call with a shape, for the error message.
    """
    if latent_shape is None:
        size = getattr(generator, "latent_size", None)
        if size is None:
            raise ValueError(f"The generator {type(generator).__name__} does not say its `latent_size`; give `{call}`.")
        latent_shape = (size,)
    return check_shape(latent_shape, "latent_shape")
