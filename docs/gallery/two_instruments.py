# %% [markdown]
# # Two instruments at once
#
# A coarse picture and five projections of the same object. `stack` makes one operator of both, whose measurement is a
# pair, and whose noise has a level for each.

# %%
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import classical, data, noise, operators, plotting

x = data.shepp_logan(48)
camera = operators.Downsample(x.shape, 4)
scanner = operators.ParallelBeam(x.shape, jnp.linspace(0, jnp.pi, 5, endpoint=False)) / 20
parts = {"camera": camera, "scanner": scanner, "both": operators.stack([camera, scanner])}
images = {}
for name, operator in parts.items():
    likelihood = jaxinv.Likelihood(operator, noise.Gaussian(0.01))
    y = likelihood.simulate(x, key=jax.random.key(0))
    images[name] = classical.tv(likelihood, y, weight=50.0, max_steps=2000).check().value
plotting.show(plotting.compare(images, reference=x, limits=(0, 1)), "two_instruments.png")
