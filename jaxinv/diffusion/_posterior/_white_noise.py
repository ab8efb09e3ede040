"""Noise of whitened measurements."""

import math

import jax
import jax.numpy as jnp

from ..._types import Key, State


def white_noise(like: State, key: Key) -> State:
    """Noise of unit variance, in real and imaginary part each, of the shape of a whitened measurement."""
    leaves, structure = jax.tree.flatten(like)
    size = lambda leaf: math.sqrt(2) if jnp.iscomplexobj(leaf) else 1.0
    draw = lambda i, leaf: size(leaf) * jax.random.normal(jax.random.fold_in(key, i), leaf.shape, leaf.dtype)
    return jax.tree.unflatten(structure, [draw(i, leaf) for i, leaf in enumerate(leaves)])
