"""Reconstruction by a trained model."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import is_complex
from .._jit import verb
from .._network_state import stateless
from .._networks import as_network, weights_dtype
from .._solution import RESULTS, Solution
from .._types import Network, State
from ._latent_map import AbstractFilter, SpectralFilter


@verb(traced=())
def reconstruct(model: Network, y: State, *, filter: SpectralFilter | None = None) -> Solution:
    """Reconstruct one measurement by a learned SVD, `D_x S E_y(y)`; map many with `jax.vmap`.

    **Arguments:**

    - `model`: an `LSVD`, a `ReducedRankRegression`, or any network from measurements to images with batched calls. A
        model of your own takes a filter if it has `takes_filter = True`, the call `model(y, filter)`, and `encode(y)`.
    - `y`: one measurement, of the shape that the model was made for.
    - `filter`: the filter of the spectrum: `Tikhonov(weight)`, `Truncation(rank)`, or a function `(k,) -> (k,)`. Create
        a function once and reuse it: each new one compiles again.

    **Returns:** a `Solution`. Its `aux` is a dict of the `latent` of the measurement, `(k,)`; `None` for networks that
    take no filter.

    **Raises:** `ValueError` for a measurement of another shape, a complex one, or a filter where there is no spectrum.

    **Reference:** Boink, Brune, Learned SVD: solving inverse problems via hybrid autoencoding, 2019.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import lsvd
        images = jax.random.normal(jax.random.key(0), (100, 6, 6, 1))
        measurements = images[:, ::2].reshape(100, -1) + 0.1 * jax.random.normal(jax.random.key(1), (100, 18))
        model = lsvd.reduced_rank_regression(images, measurements, 8)
        solution = lsvd.reconstruct(model, measurements[0], filter=lsvd.Truncation(4))
        ```
    """
    takes_filter = getattr(model, "takes_filter", False)
    if filter is not None and not takes_filter:
        raise ValueError(f"`filter` acts on the spectrum of an `LSVD`; {type(model).__name__} has none.")
    network = stateless(model) if takes_filter else as_network(model)
    y = _check_measurement(y, getattr(model, "measurement_shape", None)).astype(weights_dtype(network))
    finite = jnp.all(jnp.isfinite(y))
    result = RESULTS.where(finite, RESULTS.successful, RESULTS.nonfinite_measurement)
    if isinstance(filter, AbstractFilter):
        invalid = filter.invalid() & finite
        result = RESULTS.where(invalid, RESULTS.invalid_parameter, result)
    batch = jnp.where(finite, y, jnp.zeros_like(y))[None]
    image = network(batch, filter)[0] if takes_filter else network(batch)[0]
    aux = {"latent": model.encode(batch)[0]} if takes_filter else None
    broken = ~jnp.all(jnp.isfinite(image)) & (result == RESULTS.successful)
    result = RESULTS.where(broken, RESULTS.nonfinite, result)
    return Solution(jnp.where(result == RESULTS.successful, image, jnp.zeros_like(image)), result, {}, aux)


def _check_measurement(y: Any, shape: tuple[int, ...] | None) -> Array:
    if isinstance(y, tuple | list | dict):
        raise ValueError(
            f"The model takes a measurement as one array; got {type(y).__name__}. Give the parts of a stack as "
            "channels."
        )
    y = jnp.asarray(y)
    if shape is not None and y.shape != shape:
        advice = "It may belong to another model."
        if y.shape[1:] == shape:
            advice = "It looks like a batch: `reconstruct` takes one at a time, so map with `jax.vmap`."
        elif (*y.shape, 1) == shape:
            advice = "Add the channel axis: `y[..., None]`."
        raise ValueError(f"The model takes a measurement of shape {shape}; got {y.shape}. {advice}")
    if is_complex(y):
        raise ValueError("The measurement is complex; the model takes real ones: real and imaginary part as channels.")
    return y
