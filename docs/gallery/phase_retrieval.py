# %% [markdown]
# # Phase retrieval
#
# A camera measures how strong a wave is, and not its phase: `|A x|` is no linear operator, and the objective has
# minima that are no solutions. The search runs in the principal components of other digits, from sixteen starts in
# one compiled call. The objective tells which of them to believe.

# %%
import jax
import jax.numpy as jnp
import matplotlib.figure

import jaxinv
from jaxinv import data, generative, metrics, noise, operators, plotting, subspace

images = jnp.asarray(data.digits(size=8)[0])
x, others = images[12], images[100:]
rows = jax.random.normal(jax.random.key(0), (100, 64)) / 8
likelihood = jaxinv.Likelihood(operators.Magnitude(operators.Matrix(rows, x.shape)), noise.Gaussian(0.05))
y = likelihood.simulate(x, key=jax.random.key(1))
prior = generative.PCAPrior(subspace.pca(others, rank=24))
solution = generative.reconstruct(likelihood, prior, y, key=jax.random.key(2), restarts=16).check()
objectives, found = solution.aux["objectives"], solution.aux["images"]
quality = jax.vmap(lambda image: metrics.psnr(image, x))(found)
nearest = prior.decode(prior.encode(x))
print(
    f"best start {metrics.psnr(solution.value, x):.1f} dB; the range of the prior allows {metrics.psnr(nearest, x):.1f}"
)

# %%
figure = matplotlib.figure.Figure(figsize=(8, 2.6), layout="constrained")
axes = figure.subplots(1, 4, width_ratios=[1.7, 1, 1, 1])
axes[0].plot(objectives, quality, "o", markersize=4)
axes[0].set(xlabel="objective of a start", ylabel="PSNR (dB)")
for place, (name, image) in zip(
    axes[1:],
    {"truth": x, "best start": solution.value, "worst start": found[jnp.argmax(objectives)]}.items(),
    strict=True,
):
    place.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
    place.set(title=name, xticks=[], yticks=[])
plotting.show(figure, "phase_retrieval.png")
