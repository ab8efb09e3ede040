"""The training images of the commands, and the images that they hold out."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import data as datasets
from .._reading import read_array

SIZE = 28
# The numbers of test and tuning images that are held out from a file, the digits and the ellipses.
_TEST, _TUNING = 200, 97
_PHANTOMS = 5000


def load(name: str, count: int, quick: bool) -> tuple[Array, Array, Array]:
    """Training images, tuning images to select weights and epochs, and `count` test images; all `(n, h, w, c)`.

    The split does not depend on the seed, so that no command tests on training images of another one.
    """
    if name == "mnist":
        train, held_out = datasets.mnist("train")[0], datasets.mnist("test")[0]
        train, tuning, test = train[:-1000], train[-1000:], held_out[100 : 100 + count]
        if quick:
            train = train[:5000]
        train, tuning, test = (jnp.asarray(part, jnp.float32) / 255 for part in (train, tuning, test))
        return train, tuning, test
    if name == "digits":
        images = jnp.asarray(datasets.digits(size=SIZE)[0])
    elif name == "ellipses":
        images = datasets.ellipses(_PHANTOMS, SIZE, key=jax.random.key(0))
    else:
        images = _of_file(Path(name))
    least = _TEST + _TUNING + 1
    if len(images) < least:
        raise ValueError(
            f"--data {name}: holds {len(images)} images; at least {least} are needed, of which 297 held out."
        )
    if count > _TEST:
        raise ValueError(f"--images {count}: with --data {name} at most {_TEST} are held out; use --data mnist.")
    images = images[jax.random.permutation(jax.random.fold_in(jax.random.key(0), 0), len(images))]
    return images[_TEST + _TUNING :], images[_TEST : _TEST + _TUNING], images[:count]


def _of_file(path: Path) -> Array:
    if path.suffix != ".npy" or not path.is_file():
        raise ValueError(
            f"--data {path}: give `digits`, `mnist`, `ellipses`, or a file of images, (n, h, w, c), made by "
            "`numpy.save`."
        )
    images = read_array(path)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or images.size == 0:
        raise ValueError(f"--data {path}: expected images of shape (n, h, w, c) with c 1 or 3; got {images.shape}.")
    if images.dtype in (np.uint8, np.uint16):
        images = images / np.float32(np.iinfo(images.dtype).max)
    if not np.issubdtype(images.dtype, np.floating) or not np.isfinite(images).all():
        raise ValueError(
            f"--data {path}: expected images of 8 or 16 bits without sign, or finite floating ones; got {images.dtype}."
        )
    if images.min() < 0 or images.max() > 1:
        raise ValueError(
            f"--data {path}: values must be in [0, 1], or of 8 or 16 bits; got {images.min():.4g} to "
            f"{images.max():.4g}. Map them to [0, 1] first, all by the same numbers."
        )
    return jnp.asarray(images, jnp.float32)
