# %% [markdown]
# # A thousand problems at once
#
# `jax.vmap` gives what a loop over the problems gives. One of them has a broken detector: it gets a code of its own,
# and the others do not notice.

# %%
import time

import jax
import jax.numpy as jnp

import jaxinv
from jaxinv import classical, data, noise, operators, plotting

x = data.ellipses(1000, 28, key=jax.random.key(0))
scanner = operators.ParallelBeam(x.shape[1:], jnp.linspace(0, jnp.pi, 15, endpoint=False))
likelihood = jaxinv.Likelihood(scanner, noise.Gaussian(0.2))
y = jax.vmap(lambda x, k: likelihood.simulate(x, key=k))(x, jax.random.split(jax.random.key(1), 1000))
y = y.at[3, 7, 5].set(jnp.nan)

# %%
solve = jax.jit(jax.vmap(lambda y: classical.tikhonov(likelihood, y, weight=20.0)))
solve = solve.lower(y).compile()
began = time.perf_counter()
solutions = jax.block_until_ready(solve(y))
print(f"{1000 / (time.perf_counter() - began):.0f} problems a second")
failed = solutions.result != jaxinv.RESULTS.successful
print("failed:", jnp.flatnonzero(failed), jaxinv.RESULTS[solutions.lane(3).result])
plotting.show(plotting.sample_grid(solutions.value[:48], columns=12, limits=(0, 1)), "thousand_problems.png")
