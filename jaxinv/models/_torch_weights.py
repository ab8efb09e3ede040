"""Networks with the weights of PyTorch, and back. Files are safetensors, which hold no executable code."""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
from flax import nnx
from safetensors.numpy import load_file

from .._reading import as_path
from .._types import Checked, Network
from ._adm_unet import ADMUNet
from ._diffusers_unet import DiffusersUNet
from ._drunet import DRUNet
from ._torch_layers import Doubling

_SHOWN = 5
_PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
# The names of the file of weights in a folder of `diffusers`; the first one that exists is read.
_WEIGHTS = "diffusion_pytorch_model.safetensors"
# The names of attention in the older checkpoints of diffusers.
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
Weights = dict[str, np.ndarray]


def from_torch(
    source: Checked[str | os.PathLike[str] | Mapping[str, object]],
    architecture: Checked[type[nnx.Module] | None] = None,
    **options: Any,
) -> Network:
    """The network of weights that were trained in PyTorch, with the same outputs.

    The kind of the network and its sizes are read off the names and shapes of the weights. Every weight is used once;
    what is missing, left over or of another shape is named.

    **Arguments:**

    - `source`: a `.safetensors` file; a folder of `diffusers` with `config.json` and the weights beside it, or with
        these in a subfolder `unet`; or a mapping from the names of PyTorch (`state_dict()`) to arrays. A file that
        `torch.save` wrote can execute code when it is read, so it is refused.
    - `architecture`: `DRUNet`, `ADMUNet` or `DiffusersUNet`; by default the one whose names these are.
    - `options`: keyword arguments of the network that its weights do not tell: `image_shape`, which is by default
        `(None, None, c)`; `dtype`, `checkpoint`; of `ADMUNet` `head_width`, `num_heads` and `by_head`; of
        `DiffusersUNet` all of them, where there is no `config.json`.

    **Returns:** a `DRUNet`, an `ADMUNet` or a `DiffusersUNet`. Weights in half precision become float32.

    **Raises:** `ValueError` for a file that is a pickle, with the lines that convert it; for weights of no network that
    is known here; and for names and shapes that do not fit.

    !!! example
        ```python
        import jax.numpy as jnp
        from flax import nnx
        from jaxinv import models
        network = models.DRUNet((None, None, 1), widths=(8, 16), num_blocks=1, rngs=nnx.Rngs(0))
        weights = models.to_torch(network)  # {"m_head.weight": ..., ...}
        again = models.from_torch(weights)
        assert jnp.all(again.head.kernel[...] == network.head.kernel[...])
        ```
    """
    weights, config = _read(source)
    kind = _recognise(weights) if architecture is None else architecture
    if kind not in _SETTINGS:
        known = ", ".join(f"`models.{known.__name__}`" for known in _SETTINGS)
        raise ValueError(f"`architecture` must be one of {known}; got {architecture!r}.")
    try:
        settings = _SETTINGS[kind](weights, config) | options
    except KeyError as error:
        raise ValueError(
            f"These are not the weights of a {kind.__name__}: it has {error.args[0]!r}; they are named {_few(weights)}."
        ) from None
    except (IndexError, ZeroDivisionError) as error:
        raise ValueError(
            f"These are not the weights of a {kind.__name__}: their shapes or numbers do not fit ({error})."
        ) from None
    _check_sizes(settings, len(weights))
    # The network is made without values, since drawing random weights for a large one takes longer than reading a file.
    build: Any = kind
    try:
        network = nnx.eval_shape(lambda: build(**settings, rngs=nnx.Rngs(0)))
    except (TypeError, OverflowError) as error:
        raise ValueError(f"No {kind.__name__} has {_described(settings)}: {str(error).splitlines()[0]}") from error
    places = {name: place for _, _, place in _places(network) for name in place.keys}
    missing, unknown = (
        [name for name in places if name not in weights],
        [name for name in weights if name not in places],
    )
    wrong = [
        f"{name} has the shape {weights[name].shape}, expected {place.shapes()[i]}"
        for place in {id(p): p for p in places.values()}.values()
        for i, name in enumerate(place.keys)
        if name in weights and not place.fits(weights[name], i)
    ]
    wrong += [
        f"{name} holds {array.dtype}, expected floating numbers"
        for name, array in weights.items()
        if name in places and not np.issubdtype(array.dtype, np.floating)
    ]
    complaints = [f"{name} is missing" for name in missing] + [f"{name} is not expected" for name in unknown] + wrong
    if complaints:
        raise ValueError(
            f"The weights do not fit a {kind.__name__} with {_described(settings)}: {_few(complaints, '; ')}. What the "
            "weights do not tell is given by keyword."
        )
    for layer, name, place in _places(network):
        getattr(layer, name).set_value(jnp.asarray(place.read([weights[key] for key in place.keys])))
    return network


def to_torch(network: Checked[nnx.Module]) -> Weights:
    """The weights of a network under the names, and in the layout, that it has in PyTorch.

    **Arguments:**

    - `network`: a `DRUNet`, an `ADMUNet` or a `DiffusersUNet`.

    **Returns:** a dict of NumPy arrays, for `load_state_dict` after `torch.from_numpy`, or for
    `safetensors.numpy.save_file`.

    **Raises:** `ValueError` for another network.

    !!! example
        ```python
        from flax import nnx
        from jaxinv import models
        weights = models.to_torch(models.DRUNet((None, None, 1), widths=(8, 16), num_blocks=1, rngs=nnx.Rngs(0)))
        assert weights["m_head.weight"].shape == (8, 2, 3, 3)
        ```
    """
    if type(network) not in _SETTINGS:
        known = ", ".join(known.__name__ for known in _SETTINGS)
        raise ValueError(f"`to_torch` takes a network that PyTorch has too, {known}; got {type(network).__name__}.")
    weights: Weights = {}
    for layer, name, place in _places(network):
        weights |= dict(zip(place.keys, place.write(np.asarray(getattr(layer, name).get_value())), strict=True))
    return weights


class _Place:
    """Where a weight lies in PyTorch: its keys there, and the layouts of the two."""

    def __init__(self, keys: tuple[str, ...], shape: tuple[int, ...], there: tuple[int, ...]):
        # `there` is the order of our axes in PyTorch, whose first axis is that of the outputs.
        self.keys, self.shape, self.there = keys, shape, there
        self.outputs = there[0]

    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the weights in PyTorch."""
        whole = [self.shape[i] for i in self.there]
        return [(whole[0] // len(self.keys), *whole[1:])] * len(self.keys)

    def fits(self, array: np.ndarray, i: int) -> bool:
        """Whether an array may be that of the key number `i`; a layer over pixels may have axes of length 1."""
        shape = self.shapes()[i]
        return array.shape == shape or (len(shape) == 2 and array.shape[:2] == shape and array.size == np.prod(shape))

    def read(self, arrays: list[np.ndarray]) -> np.ndarray:
        """The weight in our layout."""
        whole = np.concatenate([a.reshape(s) for a, s in zip(arrays, self.shapes(), strict=True)])
        return np.transpose(whole, np.argsort(self.there))

    def write(self, array: np.ndarray) -> list[np.ndarray]:
        """The weights in PyTorch's layout, one for each key."""
        whole = np.ascontiguousarray(np.transpose(array, self.there))
        return np.split(whole, len(self.keys))


def _places(network: Any) -> list[tuple[Any, str, _Place]]:
    """Every weight of a network: its layer, its name there, and its place in PyTorch."""
    names, found = network.torch_keys(), []
    for path, layer in nnx.iter_modules(network):
        params = {name: value for name, value in vars(layer).items() if isinstance(value, nnx.Param)}
        if not params:
            continue
        there = names[".".join(map(str, path))]
        prefixes = (there,) if isinstance(there, str) else there
        for name, value in params.items():
            suffix, order = _layout(layer, name)
            keys = tuple(f"{prefix}.{suffix}" for prefix in prefixes)
            found.append((layer, name, _Place(keys, tuple(value.get_value().shape), order)))
    return found


def _layout(layer: Any, name: str) -> tuple[str, tuple[int, ...]]:
    """The name of a weight in PyTorch, and the order of our axes there."""
    if name == "kernel":
        if isinstance(layer, Doubling):
            return "weight", (0, 3, 1, 2)
        return "weight", (3, 2, 0, 1) if isinstance(layer, nnx.Conv) else (1, 0)
    if name == "embedding":
        return "weight", (0, 1)
    return ("weight" if name == "scale" else "bias"), (0,)


def _read(source: Any) -> tuple[Weights, dict[str, Any] | None]:
    """The weights of a source by name, as float arrays, and its configuration if it has one."""
    if isinstance(source, Mapping):
        return _cleaned(source), None
    if not isinstance(source, str | os.PathLike):
        raise ValueError(
            f"`source` must be the path of a .safetensors file or of a folder, or a mapping from names to arrays; got "
            f"{type(source).__name__}. Of a torch module it is `module.state_dict()`."
        )
    path, config = as_path(source, "a .safetensors file or a folder"), None
    if path.is_dir():
        path = path / "unet" if (path / "unet").is_dir() else path
        config = _read_config(path / "config.json")
        if not (path / _WEIGHTS).is_file():
            pickled = [str(p) for p in path.iterdir() if p.suffix in _PICKLES]
            if pickled:
                _refuse_pickle(pickled[0])
            raise ValueError(f"{path} has no {_WEIGHTS}. Save the model with `safe_serialization=True`.")
        path = path / _WEIGHTS
    if path.suffix in _PICKLES:
        _refuse_pickle(str(path))
    try:
        return _cleaned(load_file(path)), config
    except FileNotFoundError:
        raise ValueError(f"There is no file {path}.") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no safetensors file, or a damaged one: {error}") from None


def _cleaned(weights: Mapping[str, Any]) -> Weights:
    cleaned = {}
    for name, value in weights.items():
        if hasattr(value, "detach"):  # a tensor
            value = value.detach().cpu().float() if str(value.dtype) == "torch.bfloat16" else value.detach().cpu()
        array = np.asarray(value)
        if not (np.issubdtype(array.dtype, np.number) or array.dtype == jnp.bfloat16):
            raise ValueError(f"The weight {name!r} must be an array of numbers; got {type(value).__name__}.")
        if array.dtype in (np.float16, jnp.bfloat16):
            array = array.astype(np.float32)
        for old, new in _OLD_NAMES.items():
            name = name.replace(old, new)
        cleaned[name.removeprefix("module.")] = array
    # These buffers follow from the configuration.
    return {name: array for name, array in cleaned.items() if not name.endswith("alphas_cumprod")}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"There is no {path}: a folder of diffusers has one beside the weights.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object; it holds a {type(config).__name__}.")
    kind = config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise ValueError(f"{path} describes a {kind}; `models` has UNet2DModel, as `models.DiffusersUNet`.")
    return config


def _refuse_pickle(path: str) -> None:
    new = str(Path(path).with_suffix(".safetensors"))
    raise ValueError(
        f"{path} is a pickle of PyTorch, which can execute code when it is read. Convert it once, where PyTorch is "
        "installed and the file is trusted:\n"
        f"    import torch, safetensors.torch\n"
        f"    weights = torch.load({path!r}, map_location='cpu', weights_only=True)\n"
        f"    safetensors.torch.save_file({{k: v.contiguous() for k, v in weights.items()}}, {new!r})"
    )


def _check_sizes(settings: Mapping[str, Any], count: int) -> None:
    """Raise for a network of more parts than there are weights, before a file of a few bytes makes it."""
    for name in ("num_blocks", "layers_per_block"):
        value = settings.get(name, 1)
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, int) and number > count:
                raise ValueError(f"The weights are {count}, too few for a network with {name}={number}.")
    for name in ("widths", "block_out_channels", "down_block_types", "up_block_types"):
        value = settings.get(name, ())
        if isinstance(value, list | tuple) and len(value) > count:
            raise ValueError(f"The weights are {count}, too few for a network with {len(value)} levels.")


def _recognise(weights: Weights) -> type[nnx.Module]:
    for kind, name in (
        (DRUNet, "m_head.weight"),
        (ADMUNet, "input_blocks.0.0.weight"),
        (DiffusersUNet, "conv_in.weight"),
    ):
        if name in weights:
            return kind
    raise ValueError(
        f"These are the weights of no network that is known here, DRUNet, ADMUNet or DiffusersUNet; they are named "
        f"{_few(weights)}. If they lie inside another entry (`state_dict`, `ema`), give that one."
    )


def _drunet(weights: Weights, config: Any) -> dict[str, Any]:
    del config
    levels = 1 + max((int(m[1]) for name in weights if (m := re.match(r"m_down(\d+)\.", name))), default=0)
    blocks = max((int(m[1]) for name in weights if (m := re.match(r"m_down1\.(\d+)\.weight", name))), default=1)
    widths = [weights["m_head.weight"].shape[0]]
    widths += [weights[f"m_down{level}.{blocks}.weight"].shape[0] for level in range(1, levels)]
    return {
        "image_shape": (None, None, weights["m_tail.weight"].shape[0]),
        "widths": tuple(widths),
        "num_blocks": blocks,
    }


def _adm(weights: Weights, config: Any) -> dict[str, Any]:
    del config
    count = 1 + max((int(m[1]) for name in weights if (m := re.match(r"output_blocks\.(\d+)\.", name))), default=-1)
    # The first of the output blocks that doubles the image ends the coarsest level.
    doubles = r"output_blocks\.(\d+)\.[12]\.(?:in_layers\.2|conv)\.weight"
    ends = sorted(int(m[1]) for name in weights if (m := re.match(doubles, name)))
    per_level = ends[0] + 1 if ends else count
    levels = count // per_level
    firsts = [1 + level * per_level for level in range(levels)]
    widths = tuple(weights[f"input_blocks.{i}.0.in_layers.2.weight"].shape[0] for i in firsts)
    channels, outputs = weights["input_blocks.0.0.weight"].shape[1], weights["out.2.weight"].shape[0]
    return {
        "image_shape": (None, None, channels),
        "widths": widths,
        "num_blocks": per_level - 1,
        "attention_levels": tuple(i for i, k in enumerate(firsts) if f"input_blocks.{k}.1.qkv.weight" in weights),
        "base_width": weights["time_embed.0.weight"].shape[1],
        "learned_variance": outputs == 2 * channels,
        "num_classes": weights["label_emb.weight"].shape[0] if "label_emb.weight" in weights else None,
        "scales": weights["input_blocks.1.0.emb_layers.1.weight"].shape[0] == 2 * widths[0],
        "residual_resampling": f"input_blocks.{per_level}.0.op.weight" not in weights,
    }


def _diffusers(weights: Weights, config: dict[str, Any] | None) -> dict[str, Any]:
    settings = {"image_shape": (None, None, weights["conv_in.weight"].shape[1])}
    if config is None:
        return settings
    config = {name: value for name, value in config.items() if not name.startswith("_")}
    for name in ("in_channels", "sample_size", "num_train_timesteps", "dropout"):
        config.pop(name, None)
    if "class_embed_type" in config and config["class_embed_type"] is None:
        del config["class_embed_type"]
    return settings | config


_SETTINGS: dict[type[nnx.Module], Callable[[Weights, Any], dict[str, Any]]] = {
    DRUNet: _drunet,
    ADMUNet: _adm,
    DiffusersUNet: _diffusers,
}


def _few(names: Any, between: str = ", ") -> str:
    names = list(names)
    more = "" if len(names) <= _SHOWN else f"{between}and {len(names) - _SHOWN} more"
    return between.join(names[:_SHOWN]) + more


def _described(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())
