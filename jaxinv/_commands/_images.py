"""The training images of the commands, and the images that they hold out."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .. import data as datasets, io
from .._formats import slices_of
from .._reading import read_array

SIZE = 28
# The numbers of test and tuning images that are held out from a file, the digits and the ellipses.
_TEST, _TUNING = 200, 97
_PHANTOMS = 5000
_FEWEST = 20


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
    elif Path(name).is_dir():
        return _split_folder(pictures_in(Path(name)), count, name)
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


def _split_folder(images: Array, count: int, name: str) -> tuple[Array, Array, Array]:
    """A tenth of a folder for tests and a tenth for tuning: a person has hundreds of pictures, and not thousands."""
    if len(images) < _FEWEST:
        raise ValueError(
            f"{name} holds {len(images)} pictures; at least {_FEWEST} are needed, a fifth of them held out."
        )
    images = images[jax.random.permutation(jax.random.fold_in(jax.random.key(0), 0), len(images))]
    part = min(len(images) // 10, _TEST)
    return images[2 * part :], images[part : 2 * part], images[: min(count, part)]


def pictures_in(path: Path) -> Array:
    """All pictures of a folder, or of a `.npy` file, `(n, h, w, c)`, in [0, 1] if they have 8 or 16 bits.

    **Raises:** `ValueError` that names the file if they are not all of one shape.
    """
    if not path.is_dir():
        return _of_file(path)
    files = slices_of(path)
    images: list[np.ndarray] = []
    for file in files:
        images.append(io.read_image(file))
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"The pictures of {path} should have one shape: {file.name} has {images[-1].shape}, and "
                f"{files[0].name} {images[0].shape}. Crop them first."
            )
    return jnp.asarray(np.stack(images))


def _of_file(path: Path) -> Array:
    if path.suffix != ".npy" or not path.is_file():
        raise ValueError(
            f"--data {path}: give `digits`, `mnist`, `ellipses`, or a file of images, (n, h, w, c), made by "
            "`numpy.save`, or a folder of pictures."
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
