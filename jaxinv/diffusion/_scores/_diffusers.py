"""Scores of the networks and schedules that Hugging Face's `diffusers` saves."""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array

from ..._reading import as_path
from ..._score import AbstractProcess
from ..._types import Checked, Scalar
from ...models import from_torch
from .._processes._discrete_vp import DiscreteVP
from ._parametrisation import AbstractParametrisation, Denoiser, Noise
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

    **Returns:** a score, whose process is a `diffusion.DiscreteVP`.

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
    try:
        betas = _betas(config, found)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{found} describes no schedule: {error}") from None
    process = DiscreteVP(betas)
    prediction = config.get("prediction_type", "epsilon")
    if not isinstance(prediction, str) or prediction not in _PREDICTIONS:
        raise ValueError(f"{found}: the `prediction_type` {prediction!r} is not known; {', '.join(_PREDICTIONS)} are.")
    network = from_torch(path, num_timesteps=int(process.betas.shape[0]), **options)
    return score_from(network, process, _PREDICTIONS[prediction])


def _betas(config: dict[str, Any], path: Path) -> np.ndarray:
    """The betas of a configuration, as `diffusers` makes them."""
    kind = str(config.get("_class_name", "DDPMScheduler"))
    if not kind.startswith(_DISCRETE):
        raise ValueError(f"{path}: the schedule {kind} is not known; those with discrete betas are, such as DDPM's.")
    if config.get("rescale_betas_zero_snr", False):
        raise ValueError(f"{path}: `rescale_betas_zero_snr` makes a last step without any signal, which has no score.")
    count = config.get("num_train_timesteps", 1000)
    if not isinstance(count, int) or not 1 < count <= _MOST_STEPS:
        raise ValueError(f"{path}: `num_train_timesteps` must be an integer from 2 to {_MOST_STEPS}; got {count!r}.")
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
