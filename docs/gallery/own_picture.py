# %% [markdown]
# # A picture of your own with holes
#
# A picture with half of its pixels missing, filled in by total variation. Put the path of a PNG of yours in place of
# the phantom: `data.picture("photo.png")`, and `data.picture("mask.png") > 0.5` for the mask, which is 1 where the
# picture is known.

# %%
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import classical, data, noise, operators, plotting

x = data.shepp_logan(64)
mask = jax.random.bernoulli(jax.random.key(0), 0.5, x.shape).astype(jnp.float32)
likelihood = jaxinv.Likelihood(operators.Mask(mask), noise.Gaussian(0.02))
y = likelihood.simulate(x, key=jax.random.key(1))

# %% [markdown]
# The weight is in units of the likelihood, which a small noise makes large: try a few, all in one call.

# %%
weights = jnp.array([5.0, 50.0, 500.0])
solution = jax.vmap(lambda weight: classical.tv(likelihood, y, weight=weight))(weights).check()
images = {"measured": y} | {f"weight {w:.0f}": image for w, image in zip(weights, solution.value, strict=True)}
plotting.show(plotting.compare(images, reference=x), "own_picture.png")
