# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Generative models as priors
#
# A generator $G$ learned from images alone makes images $G(z)$ of few latent variables. Reconstruction becomes a search
# in the latent space, $\min_z -\log p(y \mid G(z)) + \text{weight} \cdot \Psi(z)$. This notebook trains an
# autoencoder, a variational autoencoder and a generative adversarial network on small digits, and uses them.

# %%
import sys

import jax
import jax.numpy as jnp
from flax import nnx

import jaxinv
from jaxinv import classical, data, generative, metrics, models, noise, operators, oracles, plotting, subspace, training

key = jax.random.key(0)
FULL = "--full" in sys.argv  # or True in a notebook: longer trainings, and more starts of every search

# %% [markdown]
# ## Images, and no pairs

# %%
images, _ = data.digits(size=14)
images = images[jax.random.permutation(key, len(images))]
train, test = images[200:], images[:200]
shape = train.shape[1:]
print(train.shape)

# %% [markdown]
# ## Three generators, and a linear one

# %%
LATENTS = 8
STEPS, RESTARTS = (1000, 8) if FULL else (500, 4)
autoencoder, _ = training.fit(
    models.Autoencoder(shape, LATENTS, widths=(256, 128), rngs=nnx.Rngs(0)),
    generative.autoencoder_loss,
    train,
    key=key,
    num_steps=STEPS,
    batch_size=64,
    ema=0.99,
)
vae, _ = training.fit(
    models.VAE(shape, LATENTS, widths=(256, 128), rngs=nnx.Rngs(1)),
    generative.vae_loss(),
    train,
    key=key,
    num_steps=STEPS,
    batch_size=64,
    ema=0.99,
)
# What the section on mode collapse looks at: how many clusters of the images the generator reaches.
clusters = subspace.kmeans(train, 10, key=key, restarts=4)
monitor = generative.ModeCoverage(clusters)
(generator, critic), history = training.fit_adversarial(
    models.Generator(shape, LATENTS, widths=(128, 256), rngs=nnx.Rngs(2)),
    models.Critic(shape, widths=(256, 128), rngs=nnx.Rngs(3)),
    generative.nonsaturating_loss(penalty=1.0),
    train,
    key=key,
    num_steps=STEPS,
    batch_size=64,
    ema=0.99,
    monitor=monitor,
)
priors = {
    "PCA": generative.PCAPrior(subspace.pca(train, rank=LATENTS)),
    "autoencoder": generative.AutoencoderPrior(autoencoder, autoencoder.encode(train)),
    "VAE": generative.VAEPrior(vae),
    "GAN": generative.GANPrior(generator),
}

# %% [markdown]
# How near do their ranges come to held-out images? That is a search for the nearest point, from several starts, which
# `generative.project` makes. It is also `reconstruct` with the identity for its operator, and without the energy of the
# prior. Written so, with matrices for operators, it shares a compiled program with the reconstructions further down.


# %%
def solve(prior, likelihood, y, weight=1.0, method=None):
    """Search the range of the prior for an image of each measurement, from `RESTARTS` starts."""
    one = lambda y, k: generative.reconstruct(
        likelihood, prior, y, key=k, weight=weight, method=method, restarts=RESTARTS
    )
    return jax.vmap(one)(y, jax.random.split(jax.random.key(2), len(y)))


x = test[:8]
direct = jaxinv.Likelihood(operators.Matrix(jnp.eye(x[0].size), shape), noise.Gaussian(1.0))
nearest = {name: solve(prior, direct, x.reshape(8, -1), weight=0.0) for name, prior in priors.items()}
for name, solution in nearest.items():
    print(f"{name:12} {jax.vmap(metrics.psnr)(solution.value, x).mean():.2f} dB")

# %% [markdown]
# ## Interpolation
#
# Between the latents of the first two of these images; along the way a generator shows what it holds for an image.

# %%
rows = []
for name, prior in priors.items():
    found = nearest[name].aux["latent"]
    rows.append(generative.interpolate(prior, found[0], found[1], 7))
grid = jnp.stack(rows)  # (priors, 7, h, w, c)
figure = plotting.compare(
    {f"t = {i / 6:.2f}": grid[:, i] for i in range(7)}, titles=list(priors), heading="Interpolation", errors=False
)
plotting.show(figure, "interpolation.png")

# %% [markdown]
# ## Reconstruction in the latent space
#
# A blurred, noisy digit. One compiled call solves all problems from all starts; the best start is kept, and all of them
# are returned: a latent objective may have local minima, and the spread over the starts shows whether they matter here.

# %%
line = jnp.arange(5.0) - 2
kernel = jnp.exp(-0.5 * (line[:, None] ** 2 + line[None, :] ** 2))
blur = operators.Convolution(kernel / kernel.sum(), shape)
likelihood = jaxinv.Likelihood(operators.Matrix(operators.materialise(blur).matrix, shape), noise.Gaussian(0.1))
y = jax.vmap(lambda x, k: likelihood.simulate(x, key=k))(x, jax.random.split(jax.random.key(1), 8))
results = {}
for name, prior in priors.items():
    solution = solve(prior, likelihood, y)
    results[name] = solution.value
    spread = jnp.std(solution.aux["objectives"], axis=1).mean()
    quality = jax.vmap(metrics.psnr)(solution.value, x).mean()
    print(f"{name:12} {quality:.2f} dB, spread of the objective over starts {spread:.2f}")

# %% [markdown]
# ## What the range misses
#
# An image is near the range, not in it. `Relaxed` lets it deviate, `x = G(z) + u`: with sparse `u`, or with `u` that
# follow the covariance of what the generator is known to miss, fitted on training images. A dense Gaussian prior of the
# images is the honest baseline: on small digits it is hard to beat.

# %%
missed = generative.residual_gaussian(priors["VAE"], train[:500], rank=40)
relaxed = generative.Relaxed(jaxinv.regularisers.Gaussian(missed))
results["relaxed VAE"] = solve(priors["VAE"], likelihood, y, method=relaxed).value
gaussian = oracles.Gaussian.from_samples(train)
results["Gaussian"] = jax.vmap(lambda y: classical.gaussian(likelihood, gaussian, y).value)(y)
for name in ("VAE", "relaxed VAE", "Gaussian"):
    print(f"{name:12} {jax.vmap(metrics.psnr)(jnp.clip(results[name], 0, 1), x).mean():.2f} dB")
figure = plotting.compare({name: value[:3] for name, value in results.items()}, reference=x[:3], limits=(0, 1))
plotting.show(figure, "deblurring_by_generators.png")

# %% [markdown]
# ## Mode collapse
#
# The lecture's warning: an adversarial generator may forget a part of the data. `ModeCoverage` counted, after every
# chunk of the training, which clusters of the training images the samples reach.

# %%
shares = jnp.bincount(clusters.assign(generative.sample(priors["GAN"], 500, key=key)), length=10) / 500
print("share of the GAN's samples in each of 10 clusters:", jnp.round(shares, 2))
plotting.show(plotting.mode_coverage(history, reference_entropy=monitor.reference_entropy), "mode_coverage.png")
