"""The priors that the commands train, and how they are kept in a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from .. import generative, io, models
from .._prior import AbstractGenerativePrior

Shape = tuple[int, ...]
# Of the training images, whose latents tell an autoencoder's prior where the images are.
_KEPT = 2000


class Kind(NamedTuple):
    """A network that is trained by minimising one loss."""

    make: Callable[[Shape, int, nnx.Rngs], Any]
    loss: Callable[..., Any]
    prior: Callable[[Any, Array], AbstractGenerativePrior]
    latents: Callable[[Any, Array], Array]  # kept beside the network


def _no_latents(model: Any, images: Array) -> Array:
    del model, images
    return jnp.zeros((0,))


KINDS = {
    "autoencoder": Kind(
        lambda shape, size, rngs: models.Autoencoder(shape, size, rngs=rngs),
        generative.autoencoder_loss,
        generative.AutoencoderPrior,
        lambda model, images: model.encode(images[:_KEPT]),
    ),
    "vae": Kind(
        lambda shape, size, rngs: models.VAE(shape, size, rngs=rngs),
        generative.vae_loss(),
        lambda model, latents: generative.VAEPrior(model),
        _no_latents,
    ),
}


def save(path: Path, kind: str, shape: Shape, size: int, model: Any, images: Array) -> None:
    """Write a trained network with all that `load` needs."""
    latents = KINDS[kind].latents(model, images)
    description = {"kind": kind, "image_shape": shape, "latents": size, "kept": latents.shape}
    io.save(path, {"model": model, "latents": latents}, metadata={"jaxinv.network": json.dumps(description)})


def load(path: Path) -> tuple[str, Shape, AbstractGenerativePrior]:
    """The kind of a network that `save` wrote, the shape of its images, and its prior."""
    text = io.read_metadata(path).get("jaxinv.network")
    description = json.loads(text) if text else {}
    kind = description.get("kind")
    if kind not in KINDS:
        raise ValueError(f"{path} holds no network that `jaxinv train` wrote.")
    shape, size = tuple(description["image_shape"]), description["latents"]
    like = {
        "model": KINDS[kind].make(shape, size, nnx.Rngs(0)),
        "latents": jnp.zeros(description["kept"], jnp.float32),
    }
    found = io.load(path, like)
    return kind, shape, KINDS[kind].prior(found["model"], found["latents"])


def rngs_of(key: jax.Array) -> nnx.Rngs:
    """The generator of initial weights that derives from a key."""
    return nnx.Rngs(int(jax.random.randint(key, (), 0, 1 << 30)))
