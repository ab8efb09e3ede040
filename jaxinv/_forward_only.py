"""The identity on the result of a loop without a derivative in reverse mode, which raises an error that says what to
do."""

from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ._types import PyTree

# The name of the verb that is traced, for the error.
calling: ContextVar[str] = ContextVar("calling", default="this solver")
_forward_only = Primitive("jaxinv_forward_only")


def forward_only(tree: PyTree) -> PyTree:
    """`tree`, with derivatives in forward mode; reverse mode raises a `ValueError` that names the options.

    JAX would raise its own error, at a loop that the user has not written.

    **Arguments:**

    - `tree`: any pytree of arrays.
    """
    inexact = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.inexact)
    return jax.tree.map(lambda leaf: _forward_only.bind(leaf, owner=calling.get()) if inexact(leaf) else leaf, tree)


def _jvp(primals: Any, tangents: Any, *, owner: str) -> Any:
    ((x,), (change,)) = primals, tangents
    out = _forward_only.bind(x, owner=owner)
    return out, change if isinstance(change, ad.Zero) else _forward_only.bind(change, owner=owner)


def _transpose(cotangent: Any, x: Any, *, owner: str) -> Any:
    raise ValueError(
        f"`{owner}` cannot be differentiated in reverse mode (`jax.grad`, `jax.vjp`) as it was called: its loop stops "
        "when it has converged, and keeps no steps. There are three ways: pass `differentiate=jaxinv.Unrolled()`, "
        "through all steps, or `differentiate=jaxinv.Implicit()`, at the solution, where the verb takes them; or use "
        "forward mode, `jax.jvp` or `jax.jacfwd`, for few parameters."
    )


_forward_only.def_impl(lambda x, *, owner: x)
_forward_only.def_abstract_eval(lambda x, *, owner: x)
ad.primitive_jvps[_forward_only] = _jvp
ad.primitive_transposes[_forward_only] = _transpose
batching.primitive_batchers[_forward_only] = lambda args, dims, *, owner: (
    _forward_only.bind(args[0], owner=owner),
    dims[0],
)
mlir.register_lowering(_forward_only, lambda context, x, *, owner: [x])
