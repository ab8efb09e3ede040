"""deepinv's `DPS`, `DiffPIR` and guided `PosteriorDiffusion`, with a network of given weights."""

import deepinv
import torch
from _protocol import answer, inputs, median_seconds
from deepinv.sampling import AncestralSolver, PosteriorDiffusion, VariancePreservingDiffusion
from deepinv.sampling.noisy_datafidelity import PiGDMDataFidelity

data = inputs()
count, steps, repeats = (int(data[name]) for name in ("samples", "steps", "repeats"))
channels_first = lambda name: torch.from_numpy(data[name]).permute(2, 0, 1).float()
mask = channels_first("mask")
y = channels_first("y")[None].repeat(count, 1, 1, 1)


class Network(deepinv.models.base.Denoiser):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList()
        for i in range(int(data["layers"])):
            kernel = torch.from_numpy(data[f"kernel{i}"]).permute(3, 2, 0, 1).contiguous()
            layer = torch.nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
            layer.weight.data, layer.bias.data = kernel, torch.from_numpy(data[f"bias{i}"])
            self.layers.append(layer.requires_grad_(False))

    def forward(self, x, sigma, *args, **kwargs):
        value = x
        for layer in self.layers[:-1]:
            value = torch.relu(layer(value))
        # The noise, so that all is as in the run that asks; the level is a number or one for each image.
        sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        return x - sigma * self.layers[-1](value)


network = Network()
noise = deepinv.physics.GaussianNoise(float(data["std"]))
physics = deepinv.physics.Inpainting(img_size=tuple(mask.shape), mask=mask, noise_model=noise)
single = torch.float32
dps = deepinv.sampling.DPS(network, num_steps=steps, dtype=single)
diffpir = deepinv.sampling.DiffPIR(network, deepinv.optim.data_fidelity.L2(), sigma=float(data["std"]), max_iter=steps)
solver = AncestralSolver(timesteps=torch.linspace(1, 0, steps))
process = VariancePreservingDiffusion(dtype=single)
pigdm = PosteriorDiffusion(PiGDMDataFidelity(), network, process, solver, dtype=single)
methods = {"DPS": dps, "DiffPIR": diffpir, "PiGDM": pigdm}
seconds = {name: median_seconds(lambda m=method: m(y, physics), repeats) for name, method in methods.items()}
answer(("deepinv", "torch"), **seconds)
