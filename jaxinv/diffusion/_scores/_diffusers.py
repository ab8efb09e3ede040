"""Scores of the networks and schedules that Hugging Face's `diffusers` saves."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..._module import Module
from ..._networks import as_network
from ..._reading import as_path
from ..._score import AbstractProcess
from ..._types import Checked, PyTree, Scalar
from ...models import from_torch
from .._processes._discrete_vp import DiscreteVP
from .._processes._edm import EDM
from .._processes._flow_matching import FlowMatching
from ._parametrisation import AbstractParametrisation, Denoiser, Noise, Velocity
from ._preconditioned import Preconditioned
from ._score import NetworkScore, score_from

# The schedules that say how a network was trained by their betas, whatever steps they take.
_DISCRETE = (
    "DDPM",
    "DDIM",
    "PNDM",
    "DPMSolver",
    "UniPC",
    "EulerDiscrete",
    "EulerAncestral",
    "HeunDiscrete",
    "LMSDiscrete",
)
_CONTINUOUS = ("EDM", "FlowMatch")
# More steps are no schedule, and would take memory before anything says so.
_MOST_STEPS = 1_000_000


class AnglePrediction(AbstractParametrisation):
    """The velocity in the angle between image and noise, `scale E[n | x_t] - std E[x_0 | x_t]` ("v-prediction").

    For processes with `scale^2 + std^2 = 1`.

    **Reference:** Salimans, Ho, Progressive distillation for fast sampling of diffusion models, 2022.
    """

    def split(self, process: AbstractProcess, t: Scalar, x: Array, output: Array) -> tuple[Array, Array]:
        scale, std = process.marginal(t)
        return scale * x - std * output, std * x + scale * output

    def target(self, process: AbstractProcess, t: Scalar, x0: Array, noise: Array) -> Array:
        scale, std = process.marginal(t)
        return scale * noise - std * x0


_PREDICTIONS: dict[str, AbstractParametrisation] = {
    "epsilon": Noise(),
    "sample": Denoiser(),
    "v_prediction": AnglePrediction(),
}


def from_diffusers(folder: Checked[str | os.PathLike[str]], **options: Any) -> NetworkScore:
    """The score of a diffusion model that `diffusers` saved: network, noising process and what the network predicts.

    Its images are in [-1, 1], `(h, w, c)`. Bring a measurement of images in [0, 1] to that range by the operator: for
    `y = A u + n` and `x = 2 u - 1`, `2 y - A 1 = A x + 2 n`.

    **Arguments:**

    - `folder`: a folder that `save_pretrained` wrote of a pipeline (with the subfolders `unet` and `scheduler`), or of
        a `UNet2DModel` with a `scheduler_config.json` beside it. Nothing is downloaded.
    - `options`: keyword arguments of `models.DiffusersUNet`, such as `image_shape`, `dtype` and `checkpoint`.

    **Returns:** a score, whose process is a `diffusion.DiscreteVP`; a `diffusion.EDM` for the schedules of EDM, and a
    `diffusion.FlowMatching` for those of flow matching, whose `shift` concerns the steps of a sampler only.

    **Raises:** `ValueError` for files that are missing, for weights in a pickle, and for a schedule or a block that is
    not known here, which it names.

    **Reference:** von Platen et al., Diffusers: state-of-the-art diffusion models, 2022.

    !!! example
        ```python
        import json, pathlib, tempfile
        from flax import nnx
        from safetensors.numpy import save_file
        from jaxinv import diffusion, models
        sizes = {
            "block_out_channels": [8, 16],
            "down_block_types": ["DownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "UpBlock2D"],
            "norm_num_groups": 4,
            "add_attention": False,
        }
        folder = pathlib.Path(tempfile.mkdtemp())  # as `UNet2DModel.save_pretrained(folder)` leaves it
        weights = models.to_torch(models.DiffusersUNet((None, None, 1), rngs=nnx.Rngs(0), **sizes))
        save_file(weights, folder / "diffusion_pytorch_model.safetensors")
        (folder / "config.json").write_text(json.dumps(sizes))
        (folder / "scheduler_config.json").write_text(json.dumps({"beta_schedule": "scaled_linear"}))
        score = diffusion.from_diffusers(folder)
        ```
    """
    path = as_path(folder, "a folder that `diffusers` saved")
    if not path.is_dir():
        raise ValueError(f"`folder` must be a folder that `diffusers` saved; {path} is none.")
    places = [path / "scheduler" / "scheduler_config.json", path / "scheduler_config.json"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ValueError(f"There is no {places[0]} and no {places[1]}: the schedule says how the network was trained.")
    try:
        config = json.loads(found.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{found} is no JSON file: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{found} must hold a JSON object; it holds a {type(config).__name__}.")
    read = _continuous if str(config.get("_class_name", "")).startswith(_CONTINUOUS) else _discrete
    try:
        training = read(config, found)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{found} describes no schedule: {error}") from None
    network = training.recast(from_torch(path, num_timesteps=training.num_timesteps, **options))
    return score_from(network, training.process, training.parametrisation)


class _Training(NamedTuple):
    """How a network was trained, as a configuration says it."""

    process: AbstractProcess
    parametrisation: AbstractParametrisation
    num_timesteps: int
    recast: Callable[[PyTree], PyTree]


def _discrete(config: dict[str, Any], path: Path) -> _Training:
    """The training of a network at the noise levels of a list of betas."""
    process = DiscreteVP(_betas(config, path))
    prediction = config.get("prediction_type", "epsilon")
    if not isinstance(prediction, str) or prediction not in _PREDICTIONS:
        raise ValueError(f"{path}: the `prediction_type` {prediction!r} is not known; {', '.join(_PREDICTIONS)} are.")
    return _Training(process, _PREDICTIONS[prediction], int(process.betas.shape[0]), lambda network: network)


class _Recast(Module):
    """A network of `diffusers` that is called with the times of a process of ours.

    - `network`: the network, whose step is `num_timesteps t - 1`.
    - `std`: of the data, by which the image is scaled and time is transformed, as in EDM; `None` for flow matching,
        where the step is `num_timesteps t`.
    - `num_timesteps`, `sign`: static; the sign of the output.
    """

    network: PyTree
    std: Array | None
    num_timesteps: int = eqx.field(static=True)
    sign: int = eqx.field(static=True)

    def __call__(self, x: Array, t: Array) -> Array:
        if self.std is None:
            return self.sign * self.network(x, t + 1 / self.num_timesteps)
        total = jnp.sqrt(t**2 + self.std.astype(x.dtype) ** 2).reshape((-1,) + (1,) * (x.ndim - 1))
        return self.sign * self.network(x / total, (0.25 * jnp.log(t) + 1) / self.num_timesteps)


def _continuous(config: dict[str, Any], path: Path) -> _Training:
    """The training of a network at all noise levels of an interval."""
    count = _num_timesteps(config, path)
    if str(config["_class_name"]).startswith("FlowMatch"):
        if config.get("invert_sigmas", False):
            raise ValueError(f"{path}: `invert_sigmas` counts time from the noise, which is not known here.")
        recast = lambda network: _Recast(as_network(network), None, count, 1)
        return _Training(FlowMatching(1 / count, 1 - 1 / count), Velocity(), count, recast)
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"{path}: the `prediction_type` {prediction!r} of EDM is not known; epsilon, v_prediction are."
        )
    std = float(config.get("sigma_data", 0.5))
    process = EDM(float(config.get("sigma_min", 0.002)), float(config.get("sigma_max", 80.0)))
    # `Preconditioned` subtracts what the network returns, as "v_prediction" has it.
    sign = 1 if prediction == "v_prediction" else -1
    return _Training(
        process,
        Preconditioned(0.0, std),
        count,
        lambda network: _Recast(as_network(network), jnp.asarray(std), count, sign),
    )


def _num_timesteps(config: dict[str, Any], path: Path) -> int:
    count = config.get("num_train_timesteps", 1000)
    if not isinstance(count, int) or not 1 < count <= _MOST_STEPS:
        raise ValueError(f"{path}: `num_train_timesteps` must be an integer from 2 to {_MOST_STEPS}; got {count!r}.")
    return count


def _betas(config: dict[str, Any], path: Path) -> np.ndarray:
    """The betas of a configuration, as `diffusers` makes them."""
    kind = str(config.get("_class_name", "DDPMScheduler"))
    if not kind.startswith(_DISCRETE):
        raise ValueError(f"{path}: the schedule {kind} is not known; those with discrete betas are, such as DDPM's.")
    if config.get("rescale_betas_zero_snr", False):
        raise ValueError(f"{path}: `rescale_betas_zero_snr` makes a last step without any signal, which has no score.")
    count = _num_timesteps(config, path)
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    schedule = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        return np.asarray(config["trained_betas"], np.float64)
    if schedule == "linear":
        return np.linspace(start, end, count)
    if schedule == "scaled_linear":
        return np.linspace(math.sqrt(start), math.sqrt(end), count) ** 2
    if schedule == "squaredcos_cap_v2":
        ends = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.minimum(1 - ends[1:] / ends[:-1], 0.999)
    if schedule == "sigmoid":
        return (end - start) / (1 + np.exp(-np.linspace(-6, 6, count))) + start
    known = "linear, scaled_linear, squaredcos_cap_v2 and sigmoid"
    raise ValueError(f"{path}: the `beta_schedule` {schedule!r} is not known; {known} are.")
