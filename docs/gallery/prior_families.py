# %% [markdown]
# # One problem, every family of priors
#
# A digit from six projections with noise, and what each prior makes of it: none, total variation, an untrained network,
# mean and covariance, eight components, k-means, and three that were trained on digits: a VAE, a flow and a
# score. The trainings are short, so this is a list of calls and no contest.

# %%
import jax
import jax.numpy as jnp
import matplotlib.figure
from flax import nnx

import jaxinv
from jaxinv import (
    classical,
    data,
    diffusion,
    dip,
    generative,
    metrics,
    models,
    noise,
    operators,
    oracles,
    plotting,
    regularisers,
    subspace,
    training,
)

shape = (12, 12, 1)
digits = jnp.asarray(data.digits(size=12)[0])
x, train = digits[4], digits[10:]
scanner = operators.ParallelBeam(shape, jnp.linspace(0, jnp.pi, 6, endpoint=False))
likelihood = jaxinv.Likelihood(scanner, noise.Gaussian(0.5))
y = likelihood.simulate(x, key=jax.random.key(0))
key = jax.random.key(1)
fit = lambda network, loss, steps: training.fit(
    network, loss, train, key=key, num_steps=steps, batch_size=64, learning_rate=2e-3, ema=0.99
)[0]

# %% [markdown]
# The linear priors need no training; the clusters are a mixture with the variance within them.

# %%
gaussian = oracles.Gaussian.from_samples(train)
clusters = subspace.kmeans(train, 50, key=key)
weights = jnp.bincount(clusters.labels, length=50) / len(train)
mixture = oracles.GaussianMixture(weights, clusters.centres, clusters.within / train.size)
tv = regularisers.TV()
untrained = models.SkipUNet(shape, scales=2, channels=16, rngs=nnx.Rngs(0))
found = {
    "FBP": classical.fbp(scanner, y, window=classical.Hann()).value,
    "TV": classical.tv(likelihood, y, weight=4.0).value,
    "deep image prior": dip.reconstruct(
        likelihood, untrained, y, key=key, num_steps=200, regulariser=tv, weight=2.0, learning_rate=0.02
    ).value,
    "Gaussian": classical.gaussian(likelihood, gaussian, y).value,
    "k-means": mixture.posterior(likelihood, y).mean,
}

# %%
vae = fit(models.VAE(shape, 8, widths=(256, 128), rngs=nnx.Rngs(0)), generative.vae_loss(beta=2.0), 600)
flow = fit(models.Flow(shape, num_couplings=4, rngs=nnx.Rngs(1)), generative.flow_loss, 400)
for name, prior in {
    "PCA": generative.PCAPrior(subspace.pca(train, rank=8)),
    "VAE": generative.VAEPrior(vae),
    "flow": generative.FlowPrior(flow),
}.items():
    found[name] = generative.reconstruct(likelihood, prior, y, key=key, restarts=2).value
process, scaling = diffusion.VP(), diffusion.Preconditioned(train.mean(), train.std())
loss = diffusion.score_matching_loss(process, parametrisation=scaling)
network = fit(models.Mixer(shape, patch_size=3, width=64, rngs=nnx.Rngs(2)), loss, 1000)
score = diffusion.score_from(network, process, scaling)
drawn = diffusion.posterior_sample(likelihood, score, y, key=key, method=diffusion.DiffPIR(50), num_samples=16)
found["score, mean of 16"] = drawn.value.mean(0)

# %%
names, both = list(found), [x, *found.values()]
figure = matplotlib.figure.Figure(figsize=(10, 5.2), layout="constrained")
for axes, name, image in zip(figure.subplots(2, 5).flat, ["truth", *names], both, strict=True):
    axes.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set(title=name, xticks=[], yticks=[], xlabel="" if name == "truth" else f"{metrics.psnr(image, x):.1f} dB")
plotting.show(figure, "prior_families.png")
