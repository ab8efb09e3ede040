"""Objects that yield arrays and are not pytrees of arrays: data sources and iterators."""

import warnings
from typing import Any

import jax


def is_source(thing: Any) -> bool:
    """Whether an object has items, by index or one after the other, and is not a container that JAX knows.

    A container of JAX (a list, a dict, a module) is a pytree, also if it could be iterated over.
    """
    if hasattr(thing, "__next__"):
        return True
    if isinstance(thing, str | bytes | set | frozenset):
        return False
    if not hasattr(thing, "__iter__") and not has_items(thing):
        return False
    try:
        with warnings.catch_warnings():
            # JAX warns that it takes an object that can be iterated over for a leaf.
            warnings.simplefilter("ignore", DeprecationWarning)
            leaves = jax.tree.leaves(thing)
    except (TypeError, ValueError):
        return True
    return len(leaves) == 1 and leaves[0] is thing


def has_items(thing: Any) -> bool:
    """Whether an object has a length, and items by their numbers."""
    return hasattr(thing, "__len__") and hasattr(thing, "__getitem__")
