# %% [markdown]
# # From pictures to noise and back
#
# A noising process turns pictures into noise; the exact score of a Gaussian prior turns noise into pictures, along
# the same path backwards.

# %%
import jax
import jax.numpy as jnp

from jaxinv import data, diffusion, oracles, plotting

digits, _ = data.digits(size=8)
process = diffusion.VP()
prior = oracles.Gaussian.from_samples(digits)
times = (0.01, 0.1, 0.25, 0.5, 0.75, 1.0)
noised = [diffusion.forward(process, jnp.asarray(digits[0]), key=jax.random.key(0), t=t) for t in times]
score = prior.score(process)
solution = diffusion.sample(
    score, (8, 8, 1), key=jax.random.key(1), num_samples=6, method=diffusion.DPMSolver(20)
).check()
rows = jnp.concatenate([jnp.stack(noised), solution.value])
plotting.show(
    plotting.sample_grid(rows, columns=6, limits=(-0.5, 1.5), heading="above: noised; below: samples"), "noising.png"
)
