# %% [markdown]
# # Which digit was it
#
# Forty clusters of digits make a mixture of Gaussians, whose posterior under a linear measurement is a mixture again,
# with weights that are known exactly. The lower half of a digit is hidden: what else could it be?

# %%
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import data, noise, operators, oracles, plotting, subspace

images = jnp.asarray(data.digits(size=12)[0])
x, others = images[19], images[100:]
found = subspace.kmeans(others, 40, key=jax.random.key(0))
shares = jnp.bincount(found.labels, length=40) / len(others)
prior = oracles.GaussianMixture(shares, found.centres, float(found.within) / others.size)

mask = jnp.zeros(x.shape).at[:6].set(1.0)
likelihood = jaxinv.Likelihood(operators.Mask(mask), noise.Gaussian(0.3))
y = likelihood.simulate(x, key=jax.random.key(1))
posterior = prior.posterior(likelihood, y)
order = jnp.argsort(-posterior.weights)[:5]
columns = {"measured": y} | {
    f"{place}: {100 * posterior.weights[i]:.0f} %": posterior.means[i] for place, i in enumerate(order, 1)
}
figure = plotting.compare(columns, reference=x, metrics={}, errors=False, limits=(0, 1))
plotting.show(figure, "exact_mixture.png")
print(f"log evidence {prior.evidence(likelihood, y):.1f}")
