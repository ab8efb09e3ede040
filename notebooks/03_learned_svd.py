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
# # The learned singular value decomposition
#
# The singular value decomposition $A = U \Sigma V^*$ solves a linear inverse problem by an encoder $U^*$ of
# measurements, a diagonal map $\Sigma^{-1}$, filtered where it must be, and a decoder $V$ of images. A *learned* SVD
# (Boink, Brune, 2019) has an autoencoder $D_x, E_x$ of images, another $D_y, E_y$ of measurements, and a diagonal map
# $S$ between their latents:
#
# $$\hat x = D_x\, S\, E_y(y).$$
#
# With linear networks the best one is known in closed form, reduced-rank regression. We take it as the yardstick, and
# then see what non-linear networks gain at the same number of latents.

# %%
import jax
import jax.numpy as jnp
from flax import nnx

import jaxinv
from jaxinv import classical, data, lsvd, metrics, models, noise, operators, oracles, plotting

key = jax.random.key(0)

# %% [markdown]
# ## Tomography of digits
#
# Handwritten digits of 16 x 16 pixels, seen from ten angles, with noise. The operator is small, so we store its matrix.

# %%
images = jnp.asarray(data.digits(size=16)[0])
images = jax.random.permutation(key, images)
train, test = images[:1500], images[1500:]
scanner = operators.materialise(
    operators.ParallelBeam((16, 16, 1), jnp.linspace(0, jnp.pi, 10, endpoint=False), num_detectors=23)
)
scanner = operators.materialise(scanner / operators.norm(scanner, key=key))
likelihood = jaxinv.Likelihood(scanner, noise.Gaussian(0.1))
measure = jax.jit(jax.vmap(lambda x, k: likelihood.simulate(x, key=k)))
y_train = measure(train, jax.random.split(jax.random.key(1), len(train)))
y = measure(test, jax.random.split(jax.random.key(2), len(test)))


def quality(reconstructions):
    """The mean PSNR on the test images, clipped to [0, 1]."""
    return float(jax.vmap(metrics.psnr)(jnp.clip(reconstructions, 0, 1), test).mean())


print("image", train.shape[1:], "-> sinogram", y.shape[1:])

# %% [markdown]
# ## The SVD of the operator, and the best map of a given rank
#
# The truncated SVD knows the operator and nothing of images: 16 components are too few, and more let the noise in.
# Reduced-rank regression spends its components on what varies among the images *and* survives the measurement.

# %%
tsvd = jax.jit(lambda y, rank: jax.vmap(lambda y: classical.tsvd(likelihood, y, rank=rank).value)(y))
for rank in (16, 32, 64):
    print(f"truncated SVD, rank {rank:>2}: {quality(tsvd(y, jnp.array(rank))):.2f} dB")

prior = oracles.Gaussian.from_samples(train)
regression = lsvd.ReducedRankRegression.from_prior(likelihood, prior, 64)
for rank in (8, 16, 32, 64):
    print(f"reduced-rank regression, rank {rank:>2}: {quality(regression(y, lsvd.Truncation(rank))):.2f} dB")
mmse = jax.vmap(lambda y: classical.gaussian(likelihood, prior, y).value)(y)
print(f"of full rank, the Gaussian posterior mean: {quality(mmse):.2f} dB")
print("spectrum:", [round(float(s), 2) for s in regression.spectrum[:8]], "...")

# %% [markdown]
# `from_prior` used the covariance of the training images and the operator. From pairs alone, without the operator:

# %%
from_pairs = lsvd.reduced_rank_regression(train, y_train, 16)
print(f"from {len(train)} pairs, rank 16: {quality(from_pairs(y)):.2f} dB")

# %% [markdown]
# ## Learned, with non-linear networks
#
# The joint loss of the paper,
# $\|x - D_x S E_y(y)\|^2 + a_x \|x - D_x E_x(x)\|^2 + a_y \|y - D_y E_y(y)\|^2$, needs pairs. We give the likelihood in
# place of measurements, so that every step draws new noise.

# %%
make = lambda **more: lsvd.LSVD(
    (16, 16, 1), y.shape[1:], 16, rngs=nnx.Rngs(0), trunk=models.Dense((128, 64)), output=jax.nn.sigmoid, **more
)
options = {"num_steps": 1500, "batch_size": 64, "learning_rate": 2e-3, "ema": 0.99}
joint, history = lsvd.train(make(), train, likelihood, key=key, method=lsvd.Joint(0.1, 0.1), **options)
solve = jax.jit(lambda model, y: jax.vmap(lambda y: lsvd.reconstruct(model, y))(y))
solution = solve(joint, y).check()
print(f"joint, 16 latents: {quality(solution.value):.2f} dB after {history['seconds']:.0f} s")

# %% [markdown]
# The lecture's variant trains the autoencoders separately. They need no pairs: here they see different digits. Only the
# latent map does, a linear least-squares problem with an exact solution, for which 300 pairs will do.

# %%
separate, histories = lsvd.train(
    make(), train[:750], y_train[750:], key=key, method=lsvd.Separate(), pairs=(train[:300], y_train[:300]), **options
)
print(f"separate, 16 latents: {quality(solve(separate, y).value):.2f} dB after {histories['seconds']:.0f} s")

# %% [markdown]
# The lecture fits the latent map by the loss of the images, $\sum_i \|x_i - D_x S E_y(y_i)\|^2$ with both autoencoders
# as they are: an error of the latents counts as much as the decoder makes of it. `map_steps` go on with it from the fit
# of the latents. The map may be linear, or have hidden layers; the latter has more to learn from the same pairs.

# %%
maps = {"latents, linear": separate}
for name, widths in {"images, linear": None, "images, not linear": (64,)}.items():
    maps[name], _ = lsvd.train(
        make(map_widths=widths),
        train[:750],
        y_train[750:],
        key=key,
        method=lsvd.Separate(map_steps=300),
        pairs=(train[:300], y_train[:300]),
        **options,
    )
for name, model in maps.items():
    on_pairs = jnp.mean((solve(model, y_train[:300]).value - train[:300]) ** 2)
    print(f"map by {name:18}: {quality(solve(model, y).value):.2f} dB, on its pairs {-10 * jnp.log10(on_pairs):.2f} dB")

# %% [markdown]
# ## The spectrum
#
# The latents of an autoencoder have no natural basis. `train` brings them to the one in which they are uncorrelated
# over the training data, of variance 1, and in which the latent map is diagonal and decreasing. (`diagonalise` does
# that for any learned SVD.) For the separate training the spectrum then consists of the canonical correlations between
# the two latent spaces: 1 for what the measurement determines, 0 for what it does not.

# %%
print("joint   ", [round(float(s), 2) for s in joint.latent_map.values[...]])
print("separate", [round(float(s), 2) for s in separate.latent_map.values[...]])

# %% [markdown]
# It can be filtered after the training, as that of a matrix: truncated, or damped by Tikhonov's filter
# $s \mapsto s \cdot s^2 / (s^2 + \alpha)$. On measurements with more noise than the model was trained for:

# %%
noisy = jaxinv.Likelihood(scanner, noise.Gaussian(0.3))
worse = jax.vmap(lambda x, k: noisy.simulate(x, key=k))(test, jax.random.split(jax.random.key(3), len(test)))
damped = jax.jit(
    lambda weight: jax.vmap(lambda y: lsvd.reconstruct(joint, y, filter=lsvd.Tikhonov(weight)).value)(worse)
)
for weight in (0.0, 0.1, 0.3, 1.0):
    print(f"Tikhonov filter, weight {weight}: {quality(damped(weight)):.2f} dB")

# %% [markdown]
# ## Side by side

# %%
columns = {
    "truncated SVD, 32": tsvd(y[:3], jnp.array(32)),
    "regression, 16": from_pairs(y[:3]),
    "Gaussian mean": mmse[:3],
    "separate, by latents": solve(separate, y[:3]).value,
    "separate, by images": solve(maps["images, not linear"], y[:3]).value,
    "joint, 16": solution.value[:3],
}
plotting.show(plotting.compare(columns, reference=test[:3]), "learned_svd.png")
