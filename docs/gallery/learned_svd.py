# %% [markdown]
# # The learned singular value decomposition
#
# The SVD of a scanner encodes measurements and decodes pictures, and knows nothing of pictures. The best linear map of
# the same rank, learned from pairs, spends its components on what varies among digits *and* survives the measurement.
# The last columns are its first singular pictures.

# %%
import jax
import jax.numpy as jnp
import matplotlib.figure

import jaxinv
from jaxinv import classical, data, lsvd, metrics, noise, operators, plotting

images = jax.random.permutation(jax.random.key(0), jnp.asarray(data.digits(size=12)[0]))
train, test = images[:1500], images[1500:1600]
scanner = operators.materialise(operators.ParallelBeam((12, 12, 1), jnp.linspace(0, jnp.pi, 8, endpoint=False)))
likelihood = jaxinv.Likelihood(scanner, noise.Gaussian(0.5))
measure = jax.jit(jax.vmap(lambda x, k: likelihood.simulate(x, key=k)))
lessons = measure(train, jax.random.split(jax.random.key(1), len(train)))
y = measure(test, jax.random.split(jax.random.key(2), len(test)))

ranks = (2, 4, 8, 12, 16, 24, 32, 48, 64, 80)
quality = lambda found: float(jax.vmap(metrics.psnr)(jnp.clip(found, 0, 1), test).mean())
known = jax.jit(lambda rank: jax.vmap(lambda y: classical.tsvd(likelihood, y, rank=rank).value)(y))
learned = lsvd.reduced_rank_regression(train, lessons, 80)
curves = {
    "SVD of the scanner": [quality(known(jnp.array(r))) for r in ranks],
    "learned from pairs": [quality(learned(y, lsvd.Truncation(r))) for r in ranks],
}

# %%
figure = matplotlib.figure.Figure(figsize=(9, 2.8), layout="constrained")
axes = figure.subplot_mosaic([["curve", 0, 1, 2, 3], ["curve", 4, 5, 6, 7]], width_ratios=[2.6, 1, 1, 1, 1])
for name, values in curves.items():
    axes["curve"].plot(ranks, values, "o-", markersize=3, label=name)
axes["curve"].set(xlabel="rank", ylabel="PSNR of test digits (dB)")
axes["curve"].legend(fontsize=8)
units = jnp.eye(80)
for i in range(8):
    picture = learned.decode(units[i]) - learned.decode(0 * units[i])
    axes[i].imshow(picture[..., 0], cmap="RdBu", vmin=-jnp.abs(picture).max(), vmax=jnp.abs(picture).max())
    axes[i].set(xticks=[], yticks=[])
plotting.show(figure, "learned_svd.png")
