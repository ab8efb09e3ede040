"""The generative priors that the commands train, and their files; `_score.py` has the scores."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from .. import generative, io, metrics, models, training
from .._prior import AbstractGenerativePrior

Shape = tuple[int, ...]
# The entry of a file's metadata that describes its contents.
METADATA = "jaxinv.network"
# The number of training images whose latents the file of an autoencoder stores, for its prior.
_KEPT = 2000
# No image, latent or set of latents in a file has more numbers.
_MOST = 2**24


class Kind(NamedTuple):
    """The functions that make, train, use and evaluate one kind of network."""

    make: Callable[[Shape, int, nnx.Rngs], Any]
    train: Callable[..., tuple[Any, dict[str, Any]]]
    prior: Callable[[Any, Array], AbstractGenerativePrior]
    latents: Callable[[Any, Array], Array]  # The latents to store with the network.
    evaluate: Callable[[AbstractGenerativePrior, Array], str]  # The evaluation on held-out images.


def _minimise(loss: Any) -> Callable[..., tuple[Any, dict[str, Any]]]:
    def train(model: Any, images: Array, tuning: Array, **options: Any) -> tuple[Any, dict[str, Any]]:
        return training.fit(model, loss, images, validation=tuning, ema=0.999, **options)

    return train


def _play(
    generator: Any, images: Array, tuning: Array, *, key: jax.Array, **options: Any
) -> tuple[Any, dict[str, Any]]:
    del tuning
    critic = models.Critic(images.shape[1:], rngs=rngs_of(jax.random.fold_in(key, 1)))
    loss = generative.nonsaturating_loss(penalty=1.0)
    (generator, _), history = training.fit_adversarial(
        generator, critic, loss, images, key=jax.random.fold_in(key, 2), ema=0.999, **options
    )
    return generator, history


def _no_latents(model: Any, images: Array) -> Array:
    del model, images
    return jnp.zeros((0,))


def _decoded(prior: AbstractGenerativePrior, images: Array) -> str:
    quality = jax.vmap(lambda x: metrics.psnr(prior.decode(prior.encode(x)), x))(images).mean()
    return f"encode and decode {quality:.2f} dB"


def _projected(prior: AbstractGenerativePrior, images: Array) -> str:
    some = images[:20]
    nearest = lambda x, key: generative.project(prior, x, key=key, restarts=8).value
    found = jax.vmap(nearest)(some, jax.random.split(jax.random.key(0), len(some)))
    return f"nearest images of its range {jax.vmap(metrics.psnr)(found, some).mean():.2f} dB"


def _coded(prior: Any, images: Array) -> str:
    nats = -jax.vmap(prior.log_prob)((255 * images + 0.5) / 256).mean()
    return f"{metrics.bits_per_dim(nats, images.shape[1:]):.2f} bits per dimension"


KINDS = {
    "autoencoder": Kind(
        lambda shape, size, rngs: models.Autoencoder(shape, size, rngs=rngs),
        _minimise(generative.autoencoder_loss),
        generative.AutoencoderPrior,
        lambda model, images: model.encode(images[:_KEPT]),
        _decoded,
    ),
    "vae": Kind(
        lambda shape, size, rngs: models.VAE(shape, size, rngs=rngs),
        _minimise(generative.vae_loss()),
        lambda model, latents: generative.VAEPrior(model),
        _no_latents,
        _decoded,
    ),
    "gan": Kind(
        lambda shape, size, rngs: models.Generator(shape, size, rngs=rngs),
        _play,
        lambda model, latents: generative.GANPrior(model),
        _no_latents,
        _projected,
    ),
    # A flow has as many latents as pixels.
    "flow": Kind(
        lambda shape, size, rngs: models.Flow(shape, rngs=rngs),
        _minimise(generative.flow_loss),
        lambda model, latents: generative.FlowPrior(model),
        _no_latents,
        _coded,
    ),
}


def save(path: Path, kind: str, shape: Shape, size: int, model: Any, images: Array) -> None:
    """Write a trained network with all that `load` needs."""
    latents = KINDS[kind].latents(model, images)
    description = {"kind": kind, "image_shape": shape, "latents": size, "kept": latents.shape}
    io.save(path, {"model": model, "latents": latents}, metadata={METADATA: json.dumps(description)})


def load(path: Path) -> tuple[str, Shape, AbstractGenerativePrior]:
    """The kind of a network that `save` wrote, the shape of its images, and its prior."""
    description = describe(path)
    kind = description.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        if kind == "score":
            raise ValueError(f"{path} holds a score, which has no latents: `jaxinv sample` draws from it.")
        raise ValueError(f"{path} holds no network that `jaxinv train` wrote.")
    shape = described_shape(description.get("image_shape"), path, 3)
    (size,) = described_shape([description.get("latents")], path, 1)
    kept = described_shape(description.get("kept"), path, None)
    # Only shapes, so that no memory is taken for weights that the file does not hold.
    like = {
        "model": jax.eval_shape(lambda: KINDS[kind].make(shape, size, nnx.Rngs(0))),
        "latents": jax.ShapeDtypeStruct(kept, jnp.float32),
    }
    found = io.load(path, like)
    return kind, shape, KINDS[kind].prior(found["model"], found["latents"])


def describe(path: Path) -> dict[str, Any]:
    """What a file that the commands wrote says of its contents; empty for any other safetensors file."""
    return io.read_json(io.read_metadata(path).get(METADATA, "{}"), path)


def described_shape(shape: Any, path: Path, ndim: int | None) -> Shape:
    """A shape in a description, with `ndim` axes unless that is `None`.

    **Raises:** `ValueError` that names the file if it is none, or one of more numbers than any file here has.
    """
    sizes = isinstance(shape, list) and all(type(size) is int and 0 <= size <= _MOST for size in shape)
    if not sizes or ndim not in (None, len(shape)) or (ndim and 0 in shape) or math.prod(shape) > _MOST:
        raise ValueError(f"{path} is corrupt: it describes images or latents of shape {str(shape)[:60]}.")
    return tuple(shape)


def rngs_of(key: jax.Array) -> nnx.Rngs:
    """The generator of initial weights that derives from a key."""
    return nnx.Rngs(int(jax.random.randint(key, (), 0, 1 << 30)))
