"""deepinv's parallel-beam projector: interpolated rotation, its adjoint by back-propagation."""

import deepinv
import numpy as np
import torch
from _protocol import answer, inputs, median_seconds

data = inputs()
images = torch.from_numpy(np.moveaxis(data["images"], -1, 0)[:, None].copy())
physics = deepinv.physics.Tomography(
    angles=torch.rad2deg(torch.from_numpy(data["angles"])), img_width=images.shape[-1], circle=False, normalize=False
)
with torch.no_grad():
    sinograms = physics.A(images)
    forward = median_seconds(lambda: physics.A(images))
    adjoint = median_seconds(lambda: physics.A_adjoint(sinograms))
answer(("deepinv", "torch"), forward=forward, adjoint=adjoint)
