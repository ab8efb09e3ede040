"""The scores that the commands train, and their files; `_networks.py` has the generative priors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

from .. import diffusion, io, models, training
from .._types import Key
from ..diffusion import Preconditioned
from ._networks import METADATA, Shape, describe, described_shape, rngs_of


class _Process(NamedTuple):
    make: Callable[[], diffusion.AbstractProcess]
    weighting: diffusion.AbstractWeighting


# Images are in [0, 1], so at 28 x 28 pixels their distances are at most 28.
PROCESSES = {
    "vp": _Process(diffusion.VP, diffusion.NoiseWeighting()),
    "subvp": _Process(diffusion.SubVP, diffusion.NoiseWeighting()),
    "ve": _Process(lambda: diffusion.VE(sigma_max=30.0), diffusion.NoiseWeighting()),
    "flow": _Process(diffusion.FlowMatching, diffusion.VelocityWeighting()),
}
NETWORKS = {"unet": models.UNet, "mixer": models.Mixer}


# The moments of the images that a parametrisation may have.
_MOMENTS = ("mean", "std", "basis")


class Score(NamedTuple):
    """A trained network, with the process and parametrisation that make it a score."""

    network: Any
    process: str
    parametrisation: Preconditioned

    @property
    def shape(self) -> Shape:
        """The shape of an image."""
        return self.network.image_shape

    def prior(self) -> diffusion.AbstractScore:
        """The score of images in [0, 1], with its process."""
        return diffusion.score_from(self.network, PROCESSES[self.process].make(), self.parametrisation)

    def draw(self, count: int, *, key: Key, method: diffusion.AbstractSampler) -> Array:
        """`count` samples, all of which succeeded."""
        return diffusion.sample(self.prior(), self.shape, key=key, num_samples=count, method=method).check().value


def fit(
    network: Any,
    images: Array,
    tuning: Array | None,
    *,
    key: Key,
    process: str = "vp",
    parametrisation: Preconditioned | None = None,
    num_steps: int,
    batch_size: int,
    **options: Any,
) -> tuple[Score, dict[str, Any]]:
    """Train a network by denoising score matching; `options` are those of `training.fit`.

    **Arguments:**

    - `network`: an untrained network.
    - `images`: the training images.
    - `tuning`: images that select the best epoch; `None` for the last epoch.
    - `process`: a key of `PROCESSES`.
    - `parametrisation`: the parametrisation of the score, by default with the mean and the deviation of the images.
    - `key`, `num_steps`, `batch_size`: as for `training.fit`.

    **Returns:** the score, and the history of `training.fit`.
    """
    chosen = PROCESSES[process]
    parametrisation = Preconditioned(images.mean(), images.std()) if parametrisation is None else parametrisation
    loss = diffusion.score_matching_loss(chosen.make(), chosen.weighting, parametrisation=parametrisation)
    rate = optax.warmup_cosine_decay_schedule(0.0, 2e-3, min(500, num_steps // 10), num_steps, 2e-5)
    network, history = training.fit(
        network,
        loss,
        images,
        key=key,
        optimiser=optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
        num_steps=num_steps,
        ema=0.999,
        # Use whole batches, since an incomplete one would compile another copy of the network.
        validation=None if tuning is None else tuning[: max(len(tuning) // batch_size, 1) * batch_size],
        batch_size=batch_size,
        **options,
    )
    return Score(network, process, parametrisation), history


def make(kind: str, shape: Shape, key: Key) -> Any:
    """An untrained network."""
    return NETWORKS[kind](shape, rngs=rngs_of(key))


def save(path: Path, kind: str, score: Score) -> None:
    """Write a trained score with all that `load` needs."""
    description = {"kind": "score", "network": kind, "image_shape": score.shape, "process": score.process}
    description["moments"] = {name: v.shape for name, v in _moments(score).items()}
    io.save(path, {"network": score.network} | _moments(score), metadata={METADATA: json.dumps(description)})


def is_score(path: Path) -> bool:
    """Whether `save` wrote this file."""
    return describe(path).get("kind") == "score"


def load(path: Path) -> Score:
    """Read the score that `save` wrote."""
    description = describe(path)
    process, kind, moments = (description.get(name) for name in ("process", "network", "moments"))
    if not (description.get("kind") == "score" and str(process) in PROCESSES and str(kind) in NETWORKS):
        raise ValueError(f"{path} holds no score that `jaxinv train score` wrote.")
    if not isinstance(moments, dict) or not moments.keys() <= set(_MOMENTS):
        raise ValueError(f"{path} is corrupt: it describes the moments {str(moments)[:60]}.")
    shape = described_shape(description.get("image_shape"), path, 3)
    # Only shapes, so that no memory is taken for weights that the file does not hold.
    like: Any = {
        name: jax.ShapeDtypeStruct(described_shape(shape, path, None), jnp.float32) for name, shape in moments.items()
    }
    like["network"] = jax.eval_shape(lambda: NETWORKS[str(kind)](shape, rngs=nnx.Rngs(0)))
    found = io.load(path, like)
    return Score(found["network"], str(process), Preconditioned(*(found.get(name) for name in _MOMENTS)))


def _moments(score: Score) -> dict[str, Array]:
    stored = {name: getattr(score.parametrisation, name) for name in _MOMENTS}
    return {name: jnp.asarray(v, jnp.float32) for name, v in stored.items() if v is not None}
