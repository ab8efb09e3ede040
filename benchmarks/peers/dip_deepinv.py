"""deepinv's `DeepImagePrior` with its `ConvDecoder`, on one inpainting problem."""

import deepinv
import torch
from _protocol import answer, inputs, median_seconds

data = inputs()
steps, layers, channels = (int(data[name]) for name in ("steps", "layers", "channels"))
to_torch = lambda image: torch.from_numpy(image).permute(2, 0, 1).contiguous()
mask, y = to_torch(data["mask"]), to_torch(data["y"])[None]
physics = deepinv.physics.Inpainting(img_size=tuple(mask.shape), mask=mask)
decoder = deepinv.models.ConvDecoder(img_size=tuple(mask.shape), in_size=(4, 4), layers=layers, channels=channels)
prior = deepinv.models.DeepImagePrior(decoder, img_size=(channels, 4, 4), iterations=steps, learning_rate=1e-2)
run = median_seconds(lambda: prior(y, physics), repeats=3)
answer(("deepinv", "torch"), run=run)
