"""What operators, noise models, regularisers, priors, scores and solutions have in common as Python objects."""

from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from .requirements import Parametric

# An array of at most so many entries is printed with its values, a larger one by its dtype and shape.
_PRINTED = 8


class Module(Parametric):
    """An `equinox.Module` that every transformation of JAX accepts as a function, and that prints its numbers.

    `jax.jit` and others look functions up by their hash. That of an equinox module is made of its leaves, and arrays
    have none. Two modules are therefore equal only if they are the same object; compare contents with
    `equinox.tree_equal`.

    A jitted module is compiled with its arrays as constants, as a closure is. To change them without compiling again,
    pass the module as an argument: `jax.jit(lambda operator, x: operator(x))`.
    """

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        return eqx.tree_pformat(jax.tree.map(self._printed, self, is_leaf=self._is_printed_whole))

    def _is_printed_whole(self, node: Any) -> bool:
        """Whether `_printed` takes a node as it is, in place of its leaves."""
        del node
        return False

    def _printed(self, leaf: Any) -> Any:
        """What stands for a leaf in the printed form: a text, or the leaf itself, which equinox prints by its shape."""
        if not isinstance(leaf, jax.Array | np.ndarray) or isinstance(leaf, jax.core.Tracer) or leaf.size > _PRINTED:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return Text(np.array2string(np.asarray(leaf), precision=4, separator=", ").replace("\n", ""))


class Text:
    """Something that prints as a given text."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text
