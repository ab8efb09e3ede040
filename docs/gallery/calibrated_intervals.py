# %% [markdown]
# # Are the intervals right
#
# Draw a truth from the prior, measure it, draw 19 samples of the posterior: the rank of the truth among them is uniform
# if the sampler is exact. A heap in the middle belongs to a sampler that spreads too much, heaps at the ends
# to one that is too sure. Bins outside the grey band are red; one in a hundred is there by chance.

# %%
import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import diffusion, metrics, noise, operators, oracles, plotting

factor = jnp.array([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0], [0.5, 0.5, 0.7]])
prior = oracles.Gaussian.from_factor(jnp.zeros(3), factor)
score = prior.score(diffusion.VP())
likelihood = jaxinv.Likelihood(
    operators.Matrix(jnp.array([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]), (3,)), noise.Gaussian(0.3)
)
keys = jax.random.split(jax.random.key(1), 200)


def rank(method, key):
    truth, measuring, drawing = jax.random.split(key, 3)
    x = prior.sample(1, key=truth)[0]
    y = likelihood.simulate(x, key=measuring)
    drawn = diffusion.posterior_sample(likelihood, score, y, key=drawing, method=method, num_samples=19).value
    return metrics.calibration_ranks(drawn, x, lambda x: x[0])


methods = {"MomentMatching": diffusion.MomentMatching(50), "DPS": diffusion.DPS(50), "DiffPIR": diffusion.DiffPIR(50)}
ranks = {
    name: jax.jit(jax.vmap(lambda key, method=method: rank(method, key)))(keys) for name, method in methods.items()
}
table = jnp.stack(list(ranks.values()), axis=1)
plotting.show(plotting.calibration(table, 19, titles=list(ranks)), "calibrated_intervals.png")
