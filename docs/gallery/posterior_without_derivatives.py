# %% [markdown]
# # Posterior methods without derivatives of the network
#
# The problem of the other posterior methods: two modes, of which the measurement sees little. These four alternate
# between the prior and the measurement, and never differentiate the score; `DiffPIR` takes the fewest evaluations
# and keeps the least spread.

# %%
import jax
import jax.numpy as jnp
import matplotlib.figure

import jaxinv
from jaxinv import diffusion, noise, operators, oracles, plotting

prior = oracles.GaussianMixture(jnp.array([0.3, 0.7]), jnp.array([[-2.0, 0.0], [2.0, 1.0]]), 0.1)
likelihood = jaxinv.Likelihood(operators.Matrix(jnp.array([[0.2, 1.0]]), (2,)), noise.Gaussian(0.5))
y = jnp.array([0.6])
score = prior.score(diffusion.VP())
exact = prior.posterior(likelihood, y)
methods = {
    "DAPS": diffusion.DAPS(),
    "PnPDM": diffusion.PnPDM(),
    "AnnealedLangevin": diffusion.AnnealedLangevin(),
    "DiffPIR": diffusion.DiffPIR(),
}
samples = {"exact": exact.sample(500, key=jax.random.key(1))}
for name, method in methods.items():
    solution = diffusion.posterior_sample(likelihood, score, y, key=jax.random.key(0), method=method, num_samples=500)
    samples[name] = solution.check().value
    print(f"{name:17} {jnp.mean(samples[name][:, 0] > 0):.2f} in the right mode, {exact.weights[1]:.2f} exactly")

# %%
figure = matplotlib.figure.Figure(figsize=(10, 2.4), layout="constrained")
for axes, (name, points) in zip(figure.subplots(1, 5, sharex=True, sharey=True), samples.items(), strict=True):
    axes.plot(points[:, 0], points[:, 1], ".", markersize=2)
    axes.set_title(f"{name}\n{100 * jnp.mean(points[:, 0] > 0):.0f} % on the right", fontsize=9)
plotting.show(figure, "posterior_without_derivatives.png")
