"""The conversion of bound Flax linen modules, which are no pytrees, to pytrees."""

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


class LinenNetwork(eqx.Module):
    """A bound Flax linen module as a pytree of its variables, with its definition as static data."""

    variables: PyTree[Array]
    module: Any = eqx.field(static=True)

    def bind(self) -> nn.Module:
        """The module, bound."""
        return self.module.bind(self.variables)

    def encode(self, x: Array) -> Any:
        return self.module.apply(self.variables, x, method="encode")

    def decode(self, z: Array) -> Array:
        return self.module.apply(self.variables, z, method="decode")

    def __call__(self, *args: Array) -> Any:
        return self.module.apply(self.variables, *args)


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
