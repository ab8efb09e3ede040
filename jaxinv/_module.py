"""What operators, noise models, regularisers, priors, scores and solutions have in common as Python objects."""

import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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

    if not TYPE_CHECKING:

        def __getattribute__(self, name: str) -> Any:
            out = object.__getattribute__(self, name)
            if isinstance(out, types.MethodType) and out.__self__ is self and not name.startswith("__"):
                return BoundMethod(out.__func__, self)
            return out

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


# A method of a `Module`, bound to it: a pytree and, like the module, a function that every transformation of JAX
# takes. Two bound methods of Equinox are equal if their modules have equal leaves; JAX cannot look such a function up
# where its leaves are traced. The name and the documentation are those of the method, so the class has no docstring.
class BoundMethod(eqx.Module):
    __func__: Callable[..., Any] = eqx.field(static=True)
    __self__: Module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return types.MethodType(self.__func__, self.__self__)

    if not TYPE_CHECKING:  # Each instance has its own, which checkers do not expect.

        @property
        def __name__(self) -> str:
            return self.__func__.__name__

        @property
        def __doc__(self) -> str | None:
            return self.__func__.__doc__

    def __hash__(self) -> int:
        return hash((self.__func__, self.__self__))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BoundMethod) and self.__self__ is other.__self__ and self.__func__ is other.__func__

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Module, str]]:
        return getattr, (self.__self__, self.__name__)


class Text:
    """An object that prints as a given text."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text
