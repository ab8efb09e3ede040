"""The networks of `_torch_cases` in PyTorch: outputs and gradients in both precisions, or the seconds of a call.

DRUNet and guided diffusion's U-Net are deepinv's; the constructor of the second takes no sizes: they are set in its
source.
In double precision the times are too, which both peers compute in single precision.
"""

import inspect
import json

import diffusers
import numpy as np
import torch
from _protocol import answer, inputs, median_seconds
from _torch_cases import draw
from deepinv.models import DRUNet, diffunet
from diffusers.models import embeddings

data = inputs()
case = json.loads(str(data["case"]))
sizes, kind = case["sizes"], case["kind"]
channels = data["x"].shape[-1]
labels = torch.tensor(case["labels"]) if case.get("labels") else None
_DEFAULTS = {
    "model_channels": "128",
    "num_res_blocks": "1",
    "attention_resolutions": '"16"',
    "num_classes": "None",
    "num_heads": "4",
    "num_head_channels": "64",
    "use_scale_shift_norm": "True",
    "resblock_updown": "True",
    "use_new_attention_order": "False",
    "channel_mult": "(1, 1, 2, 2, 4, 4)",
}


def adm():
    source = inspect.getsource(diffunet).replace("from .", "from deepinv.models.")
    for name, value in sizes.items():
        value = tuple(value) if isinstance(value, list) else value
        source = source.replace(f" {name} = {_DEFAULTS[name]}", f" {name} = {value!r}", 1)
    for single in ("x.float()", "timesteps[:, None].float()"):
        source = source.replace(single, single.replace(".float()", ""))
    source = source.replace("end=half, dtype=torch.float32", "end=half, dtype=timesteps.dtype")
    source = source.replace("x.type(self.dtype)", "x")
    space = {"__name__": "sized"}
    exec(source, space)
    return space["DiffUNet"](in_channels=channels, out_channels=channels, pretrained=None)


def sinusoids(timesteps, dim, flip_sin_to_cos=False, downscale_freq_shift=1, scale=1, max_period=10000):
    exponent = torch.arange(dim // 2, dtype=timesteps.dtype) / (dim // 2 - downscale_freq_shift)
    angles = scale * timesteps[:, None] * torch.exp(-np.log(max_period) * exponent)[None]
    parts = [torch.cos(angles), torch.sin(angles)] if flip_sin_to_cos else [torch.sin(angles), torch.cos(angles)]
    return torch.cat(parts, dim=-1)


if kind == "DRUNet":
    module = DRUNet(in_channels=channels, out_channels=channels, pretrained=None, **sizes)
    call = lambda module, x, t: module(x, t)
elif kind == "ADMUNet":
    module = adm()
    call = lambda module, x, t: module.forward_diffusion(x, t, y=labels)
else:
    embeddings.get_timestep_embedding = sinusoids
    module = diffusers.UNet2DModel(in_channels=channels, out_channels=channels, **sizes)
    call = lambda module, x, t: module(x, t, class_labels=labels).sample
module.eval()
with torch.no_grad():
    for name, parameter in module.named_parameters():
        parameter.copy_(torch.from_numpy(draw(name, tuple(parameter.shape))))
to_torch = lambda images, dtype: torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(dtype)
to_numpy = lambda images: images.detach().permute(0, 2, 3, 1).numpy()


def both(dtype):
    module.to(dtype)
    x, t = to_torch(data["x"], dtype).requires_grad_(), torch.from_numpy(data["t"]).to(dtype)
    y = call(module, x, t)
    # A cotangent that both sides make.
    cotangent = to_torch(np.linspace(-1, 1, y.numel()).reshape(to_numpy(y).shape), dtype)
    return to_numpy(y), to_numpy(torch.autograd.grad(y, x, cotangent)[0])


if "repeats" in data:
    x, t = to_torch(data["x"], torch.float32), torch.from_numpy(data["t"]).float()

    def forward():
        with torch.no_grad():
            call(module, x, t)

    repeats = int(data["repeats"])
    answer(
        ("torch", "deepinv", "diffusers"),
        forward=median_seconds(forward, repeats=repeats),
        gradient=median_seconds(lambda: both(torch.float32), repeats=repeats),
    )
else:
    found = {}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        found[f"y_{name}"], found[f"gradient_{name}"] = both(dtype)
    np.savez(str(data["output"]), **found)
    answer(("torch", "deepinv", "diffusers"))
