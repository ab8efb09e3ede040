"""Reconstruction by an unrolled network."""

from typing import Any

import jax
import jax.numpy as jnp

from .._jit import verb
from .._loop import all_finite
from .._networks import as_network
from .._solution import RESULTS, Solution
from .._types import Network, PyTree, State


@verb(traced=())
def reconstruct(network: Network, y: State) -> Solution:
    """Reconstruct the image of one measurement by a network; map many with `jax.vmap`.

    **Arguments:**

    - `network`: one from batches of measurements to batches of images: `models.LISTA`, `models.LearnedGradient`,
        `models.LearnedPrimalDual`, or another with the same call. A network that has `prepare_measurements(y)`, as
        these do, gets the batch as that method returns it.
    - `y`: one measurement; for a stack, a tuple of arrays.

    **Returns:** a `Solution`. Its result is `nonfinite_measurement` where `y` holds NaN or infinity (for the networks
    named above: where it is measured), and `nonfinite` where the image does; the image is then zero.

    **Raises:** `ValueError` for a measurement of another shape than the network takes.

    !!! example
        ```python
        import jax.numpy as jnp
        from flax import nnx
        from jaxinv import models, operators, unrolled
        network = models.LearnedGradient(operators.Downsample((8, 8, 1), 2), num_layers=2, rngs=nnx.Rngs(0))
        image = unrolled.reconstruct(network, jnp.ones((4, 4, 1))).check().value
        ```
    """
    # `as_network` may wrap it, and hide its methods.
    given, network = network, as_network(network)
    batch = _batch(given, y)
    finite = all_finite(batch)
    batch = jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.zeros_like(leaf)), batch)
    image = _only(network(batch))
    good = finite & all_finite(image)
    result = RESULTS.where(good, RESULTS.successful, RESULTS.nonfinite)
    result = RESULTS.where(finite, result, RESULTS.nonfinite_measurement)
    return Solution(jnp.where(good, image, jnp.zeros_like(image)), result, {})


def _batch(network: Network, y: State) -> PyTree:
    """A batch of one measurement, as the network takes it."""
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], y)
    prepare = getattr(network, "prepare_measurements", None)
    return batch if prepare is None else prepare(batch)


def _only(images: PyTree) -> Any:
    """The one image of a batch of one."""
    if getattr(images, "shape", (0,))[0] != 1:
        raise ValueError(
            "`network` must take a batch of measurements `(1, ...)` to a batch of images `(1, ...)`; it made "
            f"{getattr(images, 'shape', type(images).__name__)}."
        )
    return images[0]
