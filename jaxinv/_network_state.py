"""Layers with a state of their own, such as batch statistics or random streams, which JAX's functions would lose.

A network is a constant of a reconstruction, and in training only its weights change. A layer that changes anything
else in a call would start from the same state in every call. `stateless` makes such a call a `ValueError`.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import flax.errors
import jax
from flax import nnx

from ._types import PyTree

# The entry of a variable's metadata that holds its name, for the message.
_NAME = "jaxinv_name"
ADVICE = (
    "Its new state would be lost after every call. To use what was trained elsewhere, make it constant: "
    "`network.eval()`, or `use_running_average=True` and `deterministic=True` (Flax), `eqx.nn.inference_mode(network)` "
    "(equinox). To train, take `GroupNorm` or `LayerNorm` for `BatchNorm`, and give `Dropout` its key in the call, "
    "`rngs=nnx.Rngs(dropout=key)`, with the `key` of the loss."
)


class _Constant:
    """The base of variables that no call may set."""

    __slots__ = ()

    def set_value(self, value: Any, **options: Any) -> None:
        del value, options
        variable: Any = self
        kind = type(self).__mro__[2].__name__
        layer, _, name = variable.get_metadata(_NAME).rpartition(".")
        raise ValueError(f"The layer {layer!r} of the network sets its {name!r}, an nnx.{kind}, in a call. {ADVICE}")


def stateless(network: PyTree) -> PyTree:
    """`network` with variables that raise where a call sets them, except its weights (`nnx.Param`).

    Variables that no call sets, such as batch statistics in evaluation or a fixed Fourier embedding, are constants, and
    welcome. `restored` undoes it.

    **Raises:** `ValueError` that names the first layer of equinox that is not in inference mode.
    """
    is_node = lambda node: isinstance(node, nnx.Variable | eqx.nn.StatefulLayer)
    nodes, treedef = jax.tree_util.tree_flatten_with_path(network, is_leaf=is_node)
    return jax.tree.unflatten(treedef, [_checked(path, node) for path, node in nodes])


@contextlib.contextmanager
def state_is_refused() -> Iterator[None]:
    """Flax's own error for a variable set inside another function of JAX, as a `ValueError`.

    A random stream asks whether it can be set before it sets anything.
    """
    try:
        yield
    except flax.errors.TraceContextError as error:
        reason = str(error).split(" (https")[0]
        raise ValueError(f"A layer of the network changes a state of its own in a call ({reason}). {ADVICE}") from error


def restored(network: PyTree) -> PyTree:
    """`network`, which `stateless` returned, with ordinary variables."""
    is_constant = lambda node: isinstance(node, _Constant)
    return jax.tree.map(lambda node: _restored(node) if is_constant(node) else node, network, is_leaf=is_constant)


def _checked(path: tuple[Any, ...], node: Any) -> Any:
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    if isinstance(node, eqx.nn.StatefulLayer) and not getattr(node, "inference", True):
        raise ValueError(f"The layer {name or 'itself'!r}, an equinox {type(node).__name__}, has a state. {ADVICE}")
    if not isinstance(node, nnx.Variable) or isinstance(node, nnx.Param | nnx.Intermediate | _Constant):
        return node
    return _constant_kind(type(node)).from_metadata(node.get_raw_value(), {**node.get_metadata(), _NAME: name})


@functools.cache
def _constant_kind(kind: type[nnx.Variable]) -> type[nnx.Variable]:
    return type(kind.__name__, (_Constant, kind), {"__slots__": ()})


def _restored(node: Any) -> nnx.Variable:
    metadata = {name: value for name, value in node.get_metadata().items() if name != _NAME}
    return type(node).__mro__[2].from_metadata(node.get_raw_value(), metadata)
