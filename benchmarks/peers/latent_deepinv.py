"""deepinv's `CSGMGenerator`, one problem and one start after the other, and a hand-batched PyTorch loop."""

import deepinv
import torch
from _protocol import answer, inputs, median_seconds

data = inputs()
steps, rate = int(data["steps"]), float(data["rate"])
weights = [(torch.from_numpy(data[f"weight{i}"]), torch.from_numpy(data[f"bias{i}"])) for i in range(3)]
matrix, y = torch.from_numpy(data["matrix"]), torch.from_numpy(data["y"])
starts = torch.from_numpy(data["starts"])  # (problems, restarts, latents)


def decode(z):
    (w0, b0), (w1, b1), (w2, b2) = weights
    silu = torch.nn.functional.silu
    return torch.sigmoid(silu(silu(z @ w0 + b0) @ w1 + b1) @ w2 + b2)


class Decoder(torch.nn.Module):
    nz = starts.shape[-1]

    def forward(self, z, *args, **kwargs):
        return decode(z.reshape(z.shape[0], -1)).reshape(-1, 1, 28, 28)


class Measure(deepinv.physics.LinearPhysics):
    def A(self, x, **kwargs):
        return x.reshape(x.shape[0], -1) @ matrix.T


generator = deepinv.models.CSGMGenerator(Decoder(), inf_max_iter=steps, inf_tol=0.0, inf_lr=rate)
physics = Measure()
one = lambda: [generator.eval()(y[i : i + 1], physics) for i in range(2)]
per_call = median_seconds(one, repeats=3) / 2


def batched():
    z = starts.clone().reshape(-1, starts.shape[-1]).requires_grad_()
    target = y.repeat_interleave(starts.shape[1], 0)
    adam = torch.optim.Adam([z], lr=rate)
    for _ in range(int(data["loop_steps"])):
        adam.zero_grad()
        residual = decode(z) @ matrix.T - target
        loss = (residual**2).sum() / (2 * float(data["std"]) ** 2) + (z**2).sum() / 2
        loss.backward()
        adam.step()


loop = median_seconds(batched, repeats=3) / int(data["loop_steps"])
answer(("deepinv", "torch"), one_call=per_call, loop_step=loop)
