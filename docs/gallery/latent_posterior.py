# %% [markdown]
# # All latents that explain a measurement
#
# The posterior of a generative prior is a law of a few latent variables, which NUTS draws without bias. Six rows of
# the digit are seen; the draws agree there, and differ below. For a linear generator the answer is known, and they
# have its mean and deviation.

# %%
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import data, generative, noise, operators, oracles, plotting, subspace

images = jnp.asarray(data.digits(size=12)[0])
x, others = images[0], images[100:]
mask = jnp.zeros(x.shape).at[:6].set(1.0)
likelihood = jaxinv.Likelihood(operators.Mask(mask), noise.Gaussian(0.05))
y = likelihood.simulate(x, key=jax.random.key(0))
basis = subspace.pca(others, rank=16)
prior = generative.PCAPrior(basis)
solution = generative.sample_posterior(
    likelihood, prior, y, key=jax.random.key(1), num_samples=400, num_warmup=200, num_chains=2
).check()
print(
    f"r-hat at most {solution.stats['r_hat'].max():.3f}, effective samples at least {solution.stats['ess'].min():.0f}"
)

# %%
factor = (basis.components * basis.standard_deviations[:, None, None, None]).reshape(16, -1).T
exact = oracles.Gaussian.from_factor(basis.mean, factor).posterior(likelihood, y)
draws = solution.value
columns = {
    "measured": y,
    "a draw": draws[0],
    "another": draws[200],
    "mean": draws.mean(0),
    "exact mean": exact.mean,
    "deviation x 3": 3 * draws.std(0),
    "exact": 3 * jnp.sqrt(exact.variance),
}
figure = plotting.compare(columns, reference=x, metrics={}, errors=False, limits=(0, 1))
plotting.show(figure, "latent_posterior.png")
