"""What the schedules of `diffusers` say: scales and deviations, inputs and outputs of networks, and a step of Euler."""

import json

import diffusers
import numpy as np
import torch
from _protocol import answer, inputs

data = inputs()
cases, steps = json.loads(str(data["cases"])), data["steps"]
x, output, noise = (torch.from_numpy(data[name]) for name in ("x", "output", "noise"))
found = {}
for name, config in cases.items():
    kind = config.pop("_class_name")
    schedule = getattr(diffusers, kind)(**config)
    if kind.startswith("EDM"):
        sigmas = schedule.sigmas[:-1].double()[steps]
        found[f"{name}/std"] = sigmas
        found[f"{name}/step"] = schedule.precondition_noise(sigmas)
        found[f"{name}/input"] = torch.stack([schedule.precondition_inputs(x, s) for s in sigmas])
        found[f"{name}/image"] = torch.stack([schedule.precondition_outputs(x, output, s) for s in sigmas])
    elif kind.startswith("FlowMatch"):
        at = schedule.timesteps[steps]
        found[f"{name}/std"] = schedule.sigmas[steps]
        found[f"{name}/step"] = at
        found[f"{name}/noisy"] = torch.stack([schedule.scale_noise(x[None], t[None], noise[None])[0] for t in at])
        schedule.set_timesteps(10)
        found[f"{name}/ends"] = schedule.sigmas[3:5]
        found[f"{name}/next"] = schedule.step(output, schedule.timesteps[3], x).prev_sample
    else:
        kept = torch.cumprod(1 - schedule.betas.double(), 0)[steps]
        found[f"{name}/scale"], found[f"{name}/std"] = kept**0.5, (1 - kept) ** 0.5
        noisy = [schedule.add_noise(x[None], noise[None], torch.tensor([int(i)]))[0] for i in steps]
        found[f"{name}/noisy"] = torch.stack(noisy)
np.savez_compressed(str(data["output_file"]), **{name: np.asarray(value) for name, value in found.items()})
answer(("torch", "diffusers"))
