"""The check of random keys."""

import jax
import jax.numpy as jnp

from ._types import Key


def check_key(key: Key) -> None:
    """Raise unless `key` is one typed threefry key.

    An `rbg` key draws other numbers under `vmap` than alone, so that a batch would differ from a loop.
    """
    what = f"{type(key).__name__} of dtype {getattr(key, 'dtype', None)} and shape {getattr(key, 'shape', None)}"
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise ValueError(
            f"`key` must be one typed key, made by `jax.random.key(0)`; got {what}. "
            "Keys of the old style (uint32) convert by `jax.random.wrap_key_data(key)`."
        )
    if "fry" not in str(jax.random.key_impl(key)):
        raise ValueError(
            f"`key` must be a threefry key; got {what}. Other generators draw different numbers under `vmap` than one "
            "by one. Make it by `jax.random.key(0, impl='threefry2x32')`."
        )
    if key.shape != ():
        raise ValueError(
            f"`key` must be one key, of shape (); got shape {key.shape}. Map over several keys with `jax.vmap`."
        )
