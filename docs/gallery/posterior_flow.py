# %% [markdown]
# # Posterior methods for flow-matching models, and the cheaper moment matching
#
# The problem of the other posterior methods. `TMPD` takes one product with the Jacobian of the network where
# `MomentMatching` takes several. `OTODE` and `PnPFlow` follow the straight paths of `FlowMatching`, which is the
# process of this score; `PnPFlow` restores one picture, and its spread is not that of a posterior.

# %%
import jax
import jax.numpy as jnp
import matplotlib.figure

import jaxinv
from jaxinv import diffusion, noise, operators, oracles, plotting

prior = oracles.GaussianMixture(jnp.array([0.3, 0.7]), jnp.array([[-2.0, 0.0], [2.0, 1.0]]), 0.1)
likelihood = jaxinv.Likelihood(operators.Matrix(jnp.array([[0.2, 1.0]]), (2,)), noise.Gaussian(0.5))
y = jnp.array([0.6])
score = prior.score(diffusion.FlowMatching())
exact = prior.posterior(likelihood, y)
methods = {"TMPD": diffusion.TMPD(), "OTODE": diffusion.OTODE(), "PnPFlow": diffusion.PnPFlow()}
samples = {"exact": exact.sample(500, key=jax.random.key(1))}
for name, method in methods.items():
    solution = diffusion.posterior_sample(likelihood, score, y, key=jax.random.key(0), method=method, num_samples=500)
    samples[name] = solution.check().value
    print(f"{name:8} {jnp.mean(samples[name][:, 0] > 0):.2f} in the right mode, {exact.weights[1]:.2f} exactly")

# %%
figure = matplotlib.figure.Figure(figsize=(8, 2.4), layout="constrained")
for axes, (name, points) in zip(figure.subplots(1, 4, sharex=True, sharey=True), samples.items(), strict=True):
    axes.plot(points[:, 0], points[:, 1], ".", markersize=2)
    axes.set_title(f"{name}\n{100 * jnp.mean(points[:, 0] > 0):.0f} % on the right", fontsize=9)
plotting.show(figure, "posterior_flow.png")
