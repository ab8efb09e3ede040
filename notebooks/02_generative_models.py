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
    generative.vae_loss(beta=4.0),
    train,
    key=key,
    num_steps=STEPS,
    batch_size=64,
    ema=0.99,
)
(generator, _), _ = training.fit_adversarial(
    models.Generator(shape, LATENTS, widths=(128, 256), rngs=nnx.Rngs(2)),
    models.Critic(shape, widths=(256, 128), rngs=nnx.Rngs(3)),
    generative.nonsaturating_loss(penalty=1.0),
    train,
    key=key,
    num_steps=STEPS,
    batch_size=64,
    ema=0.99,
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
# ## Random images, and the latent space of an autoencoder
#
# A generator is to make images of random latents. The autoencoder was never asked to: its loss
# $\sum_i \|x_i - D(E(x_i))\|^2$ says nothing of latents that are no image's. They may have any scale, and between them
# there are holes. The VAE's loss has the divergence $\mathrm{KL}(q(z \mid x) \,\|\, N(0, I))$, here with the weight 4,
# which fills the space around 0 with images. `AutoencoderPrior` fits a Gaussian to the latents of the training images
# instead; with few latents, as here, that serves as well.

# %%
drawn = jax.random.normal(jax.random.key(5), (300, LATENTS))
codes = autoencoder.encode(train)
print(f"standard deviation of the autoencoder's latents {codes.std(0).min():.1f} to {codes.std(0).max():.1f}, ", end="")
print(f"of the VAE's {vae.encode(train)[0].std(0).min():.1f} to {vae.encode(train)[0].std(0).max():.1f}")
samples = {
    "autoencoder, N(0, I)": autoencoder.decode(drawn),
    "autoencoder, Gaussian of its latents": generative.sample(priors["autoencoder"], 300, key=key),
    "VAE, N(0, I)": vae.decode(drawn),
    "held-out images": test,
}
for name, drawn in samples.items():
    distance = metrics.sliced_wasserstein(drawn.reshape(len(drawn), -1), train.reshape(len(train), -1), key=key)
    print(f"{name:37} {distance:.3f} from the training images")


def mosaic(images):
    """Images `(rows, columns, h, w, c)` as one picture, with white lines between them."""
    framed = jnp.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1)
    return jnp.concatenate(jnp.concatenate(framed, axis=1), axis=1)


figure = plotting.compare(
    {name: mosaic(drawn[:25].reshape(5, 5, *shape)) for name, drawn in samples.items()},
    heading="Random samples",
    limits=(0, 1),
    size=1.8,
)
plotting.show(figure, "random_samples.png")

# %% [markdown]
# ## Interpolation
#
# Three latents span a plane, $z_0 + a\,(z_1 - z_0) + b\,(z_2 - z_0)$. Its corners are the latents of three of the
# images above, and the fourth one is no image's; between them a generator shows what it holds for an image. The lines
# along two edges are `generative.interpolate(prior, z0, z1, 6)`.

# %%
steps = jnp.linspace(0, 1, 6)


def plane(prior, z0, z1, z2):
    """The images on a plane, as one picture: `a` grows to the right, `b` downwards."""
    latents = z0 + steps[None, :, None] * (z1 - z0) + steps[:, None, None] * (z2 - z0)
    return mosaic(jax.vmap(jax.vmap(prior.decode))(latents))


corners = jnp.array([0, 6, 1])
planes = {name: plane(priors[name], *nearest[name].aux["latent"][corners]) for name in ("autoencoder", "VAE", "GAN")}
figure = plotting.compare(planes, heading="Planes spanned by the latents of three images", limits=(0, 1), size=2.2)
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
# ## How sure is it
#
# The latents have a posterior, $p(z \mid y) \propto p(y \mid G(z))\, p(z)$. Chains of the No-U-Turn sampler draw from
# it without bias; the closest Gaussian with independent variables takes fewer gradients, and is usually too narrow.
# Both are posteriors of a model that only knows images in the range of its generator. So first: does any of these
# explain the measurement within its noise? With less noise a range explains less, and where it explains nothing its
# posterior is narrow and wrong.

# %%
vae = priors["VAE"]
print(generative.check_range(likelihood, vae, y[0], key=key))
sharp = jaxinv.Likelihood(operators.Identity(shape), noise.Gaussian(0.02))
print(generative.check_range(sharp, vae, sharp.simulate(x[0], key=key), key=key))

# %%
chains = generative.sample_posterior(likelihood, vae, y[0], key=key, num_samples=400, num_warmup=150, num_chains=2)
closest = generative.variational_posterior(likelihood, vae, y[0], key=key, num_samples=400, num_steps=300)
print(f"chains: r-hat {chains.stats['r_hat'].max():.3f}, effective sample size {chains.stats['ess'].min():.0f}")
for name, solution in {"chains": chains, "closest Gaussian": closest}.items():
    inside = metrics.coverage(solution.value, x[0])
    print(f"{name:17} deviation {solution.value.std(0).mean():.3f}, truth within 90 %: {inside:.2f} of the pixels")

# %% [markdown]
# The GAN of this notebook has a critic that may not be steep, and an average of its weights. Why it needs them, and
# what happens without, is the subject of the notebook on the training of generative models.
