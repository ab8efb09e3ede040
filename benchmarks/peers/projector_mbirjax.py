"""mbirjax's parallel beam; the images are the slices of one volume. It projects the inscribed disc of pixels only."""

import contextlib
import io

import jax
import jax.numpy as jnp
import mbirjax
from _protocol import answer, inputs, median_seconds

data = inputs()
images, angles = jnp.asarray(data["images"]), data["angles"]
with contextlib.redirect_stdout(io.StringIO()):
    model = mbirjax.ParallelBeamModel((len(angles), images.shape[-1], int(data["num_detectors"])), angles)
    model.set_params(recon_shape=images.shape, verbose=0)
    sinogram = jnp.asarray(model.forward_project(images))
    forward = median_seconds(lambda: jax.block_until_ready(model.forward_project(images)))
    adjoint = median_seconds(lambda: jax.block_until_ready(model.back_project(sinogram)))
answer(("mbirjax", "jax"), forward=forward, adjoint=adjoint)
