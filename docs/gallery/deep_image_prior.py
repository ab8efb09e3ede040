# %% [markdown]
# # The deep image prior, and when to stop
#
# A network fitted to one noisy picture fits the picture first and the noise later. The PSNR against the truth, which
# only a demonstration has, rises and falls; total variation keeps it up.

# %%
import jax
import numpy as np
from flax import nnx

import jaxinv
from jaxinv import data, dip, models, noise, operators, plotting, regularisers

x = data.shepp_logan(32)
likelihood = jaxinv.Likelihood(operators.Identity(x.shape), noise.Gaussian(0.1))
y = likelihood.simulate(x, key=jax.random.key(0))
network = models.SkipUNet(x.shape, scales=2, channels=16, rngs=nnx.Rngs(0))
common = {"key": jax.random.key(1), "num_steps": 600, "reference": x, "learning_rate": 0.02}
solutions = {
    "plain": dip.reconstruct(likelihood, network, y, **common),
    "with TV": dip.reconstruct(likelihood, network, y, regulariser=regularisers.TV(), weight=5.0, **common),
}
for name, solution in solutions.items():
    history = np.asarray(solution.check().stats["history"]["psnr"])
    print(f"{name}: {history.max():.1f} dB at best, {history[-1]:.1f} dB at the end")
images = {"measured": y} | {name: solution.value for name, solution in solutions.items()}
plotting.show(plotting.compare(images, reference=x), "deep_image_prior.png")
