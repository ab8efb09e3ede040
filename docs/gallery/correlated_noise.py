# %% [markdown]
# # Noise that is not white
#
# A detector drifts, and the noise of neighbouring entries goes together. Who takes it for white noise of the same size
# fits stripes; a `CorrelatedGaussian` knows them, and takes them away.

# %%
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import classical, data, noise, operators, oracles, plotting

images = jnp.asarray(data.digits(size=16)[0])
x, prior = images[3], oracles.Gaussian.from_samples(images[100:])
index = jnp.arange(256)
same_row = index[:, None] // 16 == index[None, :] // 16
covariance = 0.09 * same_row + 0.0025 * jnp.eye(256)
drift = noise.CorrelatedGaussian(jnp.linalg.cholesky(covariance))
operator = operators.Identity(x.shape)
y = jaxinv.Likelihood(operator, drift).simulate(x, key=jax.random.key(0))
images = {"measured": y}
for name, law in {"as white noise": noise.Gaussian(0.3), "as it is": drift}.items():
    images[name] = classical.gaussian(jaxinv.Likelihood(operator, law), prior, y).check().value
plotting.show(plotting.compare(images, reference=x, limits=(0, 1)), "correlated_noise.png")
