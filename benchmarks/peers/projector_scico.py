"""scico's 2-d X-ray transform, of boxes for pixels; several images by `jax.vmap`."""

import jax
import jax.numpy as jnp
import numpy as np
from _protocol import answer, inputs, median_seconds
from scico.linop.xray import XRayTransform2D

data = inputs()
images = jnp.asarray(np.moveaxis(data["images"], -1, 0))
size = images.shape[-1]
# Its unit is a bin, and a projected pixel must not be wider: pixels of side sqrt(1/2), as is its default.
operator = XRayTransform2D((size, size), jnp.asarray(data["angles"]), det_count=int(data["num_detectors"]))
forward, adjoint = jax.jit(jax.vmap(operator)), jax.jit(jax.vmap(operator.T))
sinograms = forward(images)
answer(
    ("scico", "jax"),
    forward=median_seconds(lambda: jax.block_until_ready(forward(images))),
    adjoint=median_seconds(lambda: jax.block_until_ready(adjoint(sinograms))),
)
