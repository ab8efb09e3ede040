# %% [markdown]
# # An uncertainty map
#
# Under a Gaussian prior the posterior of a deblurring and inpainting problem is known. Samples of a diffusion with the
# exact score have its mean and its standard deviation, pixel by pixel: large where nothing was measured.

# %%
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import data, diffusion, noise, operators, oracles, plotting

digits, _ = data.digits(size=8)
x, others = jnp.asarray(digits[0]), digits[1:]
prior = oracles.Gaussian.from_samples(others)
mask = jnp.ones((8, 8, 1)).at[2:6, 3:7].set(0)
likelihood = jaxinv.Likelihood(operators.Mask(mask), noise.Gaussian(0.05))
y = likelihood.simulate(x, key=jax.random.key(0))

method = diffusion.MomentMatching(50)
solution = diffusion.posterior_sample(
    likelihood, prior.score(diffusion.VP()), y, key=jax.random.key(1), method=method, num_samples=200
)
samples = solution.check().value
exact = prior.posterior(likelihood, y)
draws = exact.sample(200, key=jax.random.key(2))
images = {
    "measured": y,
    "mean": samples.mean(0),
    "deviation x 3": 3 * samples.std(0),
    "exact mean": draws.mean(0),
    "exact deviation x 3": 3 * draws.std(0),
}
plotting.show(plotting.compare(images, reference=x, metrics={}, errors=False, limits=(0, 1)), "uncertainty.png")
