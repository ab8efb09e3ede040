"""The states of deepinv's DPS and DiffPIR, with a small DRUNet of drawn weights and with noise that is given."""

import deepinv
import numpy as np
import torch
from _protocol import answer, inputs
from _torch_cases import draw
from deepinv.models import DRUNet
from deepinv.sampling import DDPMSolver, DiffPIR, DPSDataFidelity, PosteriorDiffusion, VariancePreservingDiffusion

data = inputs()
tensor = lambda name: torch.from_numpy(data[name]).permute(2, 0, 1)[None].contiguous()
noise = [torch.from_numpy(z).permute(2, 0, 1)[None].contiguous() for z in data["noise"]]
channels = data["x"].shape[-1]
network = DRUNet(in_channels=channels, out_channels=channels, pretrained=None, nc=(4, 8, 8, 16), nb=1).eval()
with torch.no_grad():
    for name, parameter in network.named_parameters():
        parameter.copy_(torch.from_numpy(draw(name, tuple(parameter.shape))))
physics = deepinv.physics.Inpainting(mask=tensor("mask")[0], img_size=tensor("x").shape[1:])
physics.noise_model = deepinv.physics.GaussianNoise(float(data["std"]))
y = tensor("y")


def given(like, **options):
    return queue.pop(0).to(like.dtype)


found = {}
torch.randn_like = given


class Solver(DDPMSolver):
    def randn_like(self, like, *arguments, **options):
        return given(like)


queue = list(noise)
model = PosteriorDiffusion(
    data_fidelity=DPSDataFidelity(denoiser=network, weight=float(data["weight"])),
    denoiser=network,
    sde=VariancePreservingDiffusion(dtype=torch.float32),
    solver=Solver(timesteps=torch.from_numpy(data["times"]).float()),
    dtype=torch.float32,
    minus_one_one=False,
)
_, path = model(y, physics, x_init=tensor("x"), get_trajectory=True, denoise_output=False)
found["DPS"] = path[:, 0].detach().permute(0, 2, 3, 1).numpy()

states = []


class Spy(torch.nn.Module):
    def forward(self, x, sigma):
        states.append(x)
        return network(x, sigma)


queue = list(noise)
model = DiffPIR(
    Spy(), deepinv.optim.L2(), sigma=float(data["std"]), max_iter=len(noise), zeta=0.5, lambda_=float(data["lambda"])
)
model(y, physics, x_init=tensor("x"))
found["DiffPIR"] = torch.stack([x[0].permute(1, 2, 0) for x in states]).numpy()
at = [model.find_nearest(model.reduced_alpha_cumprod, model.sigmas[i]) for i in model.seq]
found["steps"] = np.array([int(i) for i in at])
np.savez(str(data["output_file"]), **found)
answer(("torch", "deepinv"))
