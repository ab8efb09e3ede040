"""Bases of the two latent spaces in which the latent map is diagonal."""

import math
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from .._arrays import HIGHEST
from .._checks import checked
from .._types import ArrayLike, Checked
from ..models import MLP
from ..training._data import check_data
from ._latent_map import Spectrum
from ._model import LSVD, Side

# The number of examples encoded in one call: the features of a whole training set would not fit the memory.
_CHUNK = 1000


@checked()
def diagonalise(model: Checked[LSVD], images: ArrayLike, measurements: ArrayLike) -> LSVD:
    """Change the bases of the latents of a learned SVD so that they are white and their map is a decreasing spectrum.

    The latents of either side are only determined up to a change of basis, which the dense layers beside them absorb.
    Here the bases are chosen such that over the data all latents have mean 0 and covariance I, and the map between them
    is `z -> s * z + offset` with `s` decreasing and not negative. A value near 1 says that the measurement determines
    this component of the image's latent, a value near 0 that it does not; filters of the spectrum act on these values.
    The function `D_x S E_y` stays the same, as do both autoencoders.

    **Arguments:**

    - `model`: an `LSVD`, with a spectrum or a full latent map, not with `map_widths`.
    - `images`, `measurements`: `(n, ...)` and `(m, ...)`, which need not be pairs.

    **Returns:** a new `LSVD` whose `latent_map` is a `Spectrum`.

    **Raises:** `ValueError` for data that are empty, not finite, or do not fit the model, and for a latent map that is
    not linear.

    !!! example
        ```python
        import jax
        from flax import nnx
        from jaxinv import lsvd
        model = lsvd.LSVD((8, 8, 1), (20,), 4, rngs=nnx.Rngs(0), diagonal=False)
        images = jax.random.uniform(jax.random.key(0), (50, 8, 8, 1))
        measurements = jax.random.uniform(jax.random.key(1), (60, 20))
        model = lsvd.diagonalise(model, images, measurements)
        spectrum = model.latent_map.values[...]
        ```
    """
    check_model(model)
    image, measurement = _white(latents_of(model.image, images)), _white(latents_of(model.measurement, measurements))
    matrix, offset = model.latent_map.affine()
    core = _times(_times(measurement.back, matrix), image.onto)
    shift = _times(_times(measurement.mean, matrix) + offset - image.mean, image.onto)
    return _changed(model, measurement, core, shift, image)


def match(model: LSVD, images: Any, measurements: Any) -> LSVD:
    """The model with the latent map that is the least-squares fit between the latents of pairs.

    If the map is diagonal, its spectrum consists of the canonical correlations of the latents of the two sides.
    """
    of_images, of_measurements = latents_of(model.image, images), latents_of(model.measurement, measurements)
    image, measurement = _white(of_images), _white(of_measurements)
    x, y = (
        _times(z - basis.mean[None], basis.onto) for z, basis in ((of_images, image), (of_measurements, measurement))
    )
    core = _times(y.T, x) / (x.shape[0] - 1)
    latent_map = model.latent_map
    if not isinstance(latent_map, Spectrum):
        model = _copy(model)
        matrix = _times(_times(measurement.onto, core), image.back)
        model.latent_map = latent_map.at(matrix, image.mean - _times(measurement.mean, matrix))
        return model
    return _changed(model, measurement, core, jnp.zeros_like(image.mean), image)


def check_model(model: Any) -> None:
    """Raise unless `model` is an `LSVD`."""
    if not isinstance(model, LSVD):
        raise ValueError(f"`model` must be a `lsvd.LSVD`; got {type(model).__name__}.")


def has_ends(model: LSVD) -> bool:
    """Whether the latents stand between dense layers, so that their bases can be changed."""
    sides = model.image, model.measurement
    return all(_end(network, name) is not None for side in sides for network, name in _ends(side))


def check_ends(model: LSVD) -> None:
    """Raise unless the bases of the latents can be changed."""
    if not has_ends(model):
        raise ValueError(
            "The latents of this model do not stand between dense layers that could absorb a change of basis. Make it "
            "of `models.Dense()`, `models.Convolutional()` or `lsvd.Linear()`, or with `diagonal=False`."
        )


def latents_of(side: Side, data: Any) -> Float[Array, "n k"]:
    """The latents of a whole data set."""
    data, count = check_data(data, side.what)
    if count < 2:
        raise ValueError(f"One example of {side.what} has no covariance; at least two are needed.")
    return jnp.concatenate([_encode(side, data[i : i + _CHUNK]) for i in range(0, count, _CHUNK)])


@eqx.filter_jit
def _encode(side: Side, batch: Array) -> Array:
    return side.encode(batch)


class _Basis(NamedTuple):
    """White coordinates `(z - mean) onto` of latents, as rows, and the way `back`."""

    mean: Float[Array, " k"]
    onto: Float[Array, "k k"]
    back: Float[Array, "k k"]


@jax.jit
def _white(latents: Array) -> _Basis:
    mean = jnp.mean(latents, axis=0)
    count, size = latents.shape
    upper = jnp.linalg.qr(latents - mean[None], mode="r")
    # A square factor also for fewer latents than there are dimensions.
    upper = jnp.concatenate([upper, jnp.zeros((max(size - count, 0), size), upper.dtype)])
    _, lengths, directions = jnp.linalg.svd(upper)
    floor = jnp.finfo(lengths.dtype).eps * max(count, size) * lengths[0]
    # Directions in which the latents do not vary stay as they are, up to a rotation.
    std = jnp.where(lengths > floor, lengths / math.sqrt(count - 1), 1)
    return _Basis(mean, directions.T / std[None, :], std[:, None] * directions)


def _changed(model: LSVD, measurement: _Basis, core: Array, shift: Array, image: _Basis) -> LSVD:
    check_ends(model)
    left, values, right = jnp.linalg.svd(core)
    model = _copy(model)
    _rotate(model.measurement, measurement, left)
    _rotate(model.image, image, right.T)
    model.latent_map = Spectrum(values, _times(shift, right.T))
    return model


def _rotate(side: Side, basis: _Basis, rotation: Array) -> None:
    """Latents become `(z - mean) onto rotation`, in the last layer of the encoder and the first of the decoder."""
    last, first = cast(tuple[Any, Any], tuple(_end(network, name) for network, name in _ends(side)))
    arrays = (leaf[...] for layer in (last, first) for leaf in (layer.kernel, layer.bias))
    arrays = [nnx.Param(array) for array in _rotated(*arrays, basis, rotation)]
    last.kernel, last.bias, first.kernel, first.bias = arrays


@jax.jit
def _rotated(
    last_kernel: Array, last_bias: Array, first_kernel: Array, first_bias: Array, basis: _Basis, rotation: Array
) -> tuple[Array, Array, Array, Array]:
    onto, back = _times(basis.onto, rotation), _times(rotation.T, basis.back)
    new_last = _times(last_kernel, onto), _times(last_bias - basis.mean, onto)
    return *new_last, _times(back, first_kernel), first_bias + _times(basis.mean, first_kernel)


def _ends(side: Side) -> tuple[tuple[Any, str], tuple[Any, str]]:
    return (side.encoder, "last"), (side.decoder, "first")


def _end(network: Any, name: str) -> nnx.Linear | None:
    layer = network.layers[-1 if name == "last" else 0] if isinstance(network, MLP) else getattr(network, name, None)
    return layer if isinstance(layer, nnx.Linear) and layer.bias is not None else None


def _copy(model: LSVD) -> LSVD:
    # Modules can be changed; the one that was given is not.
    return jax.tree.map(lambda leaf: leaf, model)


def _times(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=HIGHEST)
