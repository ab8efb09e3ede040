# %% [markdown]
# # The baselines
#
# The classical methods on one problem: a digit from ten projections with noise. What learns must beat these, and the
# Gaussian prior, of the mean and covariance of the other digits, is the hardest of them to beat.

# %%
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import classical, data, noise, operators, oracles, plotting

images = jnp.asarray(data.digits(size=16)[0])
x = images[0]
scanner = operators.ParallelBeam(x.shape, jnp.linspace(0, jnp.pi, 10, endpoint=False))
likelihood = jaxinv.Likelihood(scanner, noise.Gaussian(0.5))
y = likelihood.simulate(x, key=jax.random.key(1))
prior = oracles.Gaussian.from_samples(images[1:])
solutions = {
    "FBP": classical.fbp(scanner, y, window=classical.Hann()),
    "truncated SVD": classical.tsvd(likelihood, y, rank=100),
    "Tikhonov": classical.tikhonov(likelihood, y, weight=20.0),
    "TV": classical.tv(likelihood, y, weight=4.0),
    "Gaussian prior": classical.gaussian(likelihood, prior, y),
}
found = {name: solution.check().value for name, solution in solutions.items()}
plotting.show(plotting.compare(found, reference=x), "baselines.png")
