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
# # Deep image prior
#
# No training data at all. A network $F_\theta$ with a fixed random input $z_0$ makes an image, and its weights are
# fitted to *one* measurement,
# $$\min_\theta\; -\log p(y \mid F_\theta(z_0)) + \lambda R(F_\theta(z_0)).$$
# Convolutions and upsampling make images before they make noise: the prior is the architecture, and when to stop.

# %%
import sys

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from flax import nnx

import jaxinv
from jaxinv import classical, data, dip, metrics, models, noise, operators, plotting, regularisers

key = jax.random.key(0)
FULL = "--full" in sys.argv  # or True in a notebook: a larger image and network, and longer runs

# %% [markdown]
# ## Why it must be stopped
#
# A linear network $F_\theta = B\theta$ shows it all: after $t$ steps of gradient descent from 0 the component of the
# data along the singular vector $i$ of $AB$ is fitted by the factor $1 - (1 - \eta s_i^2)^t$. Large singular values
# come first; where they belong to images and the small ones to noise, stopping is regularisation.

# %%
size = 48 if FULL else 32
x = data.ellipses(1, size, key=jax.random.key(7))[0]
angles = jnp.linspace(0, jnp.pi, 20, endpoint=False)
operator = operators.ParallelBeam((size, size, 1), angles, pixel_size=2 / size, detector_spacing=2 / size)
std = 0.05 * float(jnp.abs(operator(x)).mean())
likelihood = jaxinv.Likelihood(operator, noise.Gaussian(std))
y = likelihood.simulate(x, key=jax.random.key(1))

STEPS, RATE = (1000, 5e-3) if FULL else (400, 2e-2)
network = models.SkipUNet((size, size, 1), scales=4 if FULL else 2, channels=24 if FULL else 16, rngs=nnx.Rngs(0))
common = {"key": key, "num_steps": STEPS, "reference": x, "stride": 10}
total_variation, weight = regularisers.TV(), 3e-4 / std**2
held_out = dip.HeldOut(0.05, STEPS)  # fits 95 % of the data, and returns the image that predicts the others best
z0 = 0.1 * jax.random.normal(jax.random.key(3), (size, size, 1))


def fit(network=network, z0=z0, weight=0.0, ema=0.99, rate=RATE):
    """Fit a network. What differs from run to run are arrays and numbers: one compiled program serves them all."""
    return dip.reconstruct(
        likelihood,
        network,
        y,
        start=dip.From(z0),
        stopping=held_out,
        regulariser=total_variation,
        weight=weight,
        ema=ema,
        learning_rate=rate,
        **common,
    )


runs = {"DIP": fit(ema=0.0), "average .99": fit(), "DIP+TV": fit(weight=weight)}

# %%
figure = matplotlib.figure.Figure(figsize=(6, 3), layout="constrained")
axes = figure.add_subplot()
for name, solution in runs.items():
    history = solution.stats["history"]
    axes.plot(history["step"], history["psnr"], label=name)
axes.set(xlabel="step", ylabel="PSNR (dB)", ylim=(15, None))
axes.legend()
plotting.show(figure, "dip_history.png")

# %% [markdown]
# The plain prior rises, and with `--full` it falls again; the small network of the short run only stops rising. An
# average over the steps takes its noise away, and total variation keeps it where it is. Without a regulariser a rule
# that needs no truth has to find the place. Measurements that were held out find it: every run above kept the image
# that predicted them best. The variance of the last images, which has a valley there in denoising, falls on with the
# steps of the full run: try a rule before you trust it.

# %%
solutions = {name: (run, run) for name, run in runs.items()}
if FULL:  # another rule is another program, and compiles for as long as this one runs
    variance = dip.WindowedVariance(100, 300)
    solution = dip.reconstruct(likelihood, network, y, stopping=variance, ema=0.99, learning_rate=RATE, **common)
    solutions["average, variance"] = solution, runs["average .99"]
for name, (solution, whole) in solutions.items():
    peak, quality = float(jnp.max(whole.stats["history"]["psnr"])), metrics.psnr(solution.value, x)
    print(f"{name:17} keeps step {solution.stats['step']}: {quality:.2f} dB (peak {peak:.2f} dB)")

# %%
images = {
    "FBP": classical.fbp(operator, y, window=classical.Hann()).value,
    "TV": classical.tv(likelihood, y, weight=weight).value,
    "DIP": runs["DIP"].value,
    "DIP+TV": runs["DIP+TV"].value,
}
figure = plotting.compare(images, reference=x, heading="Twenty projections", limits=(0, 1))
plotting.show(figure, "dip_tomography.png")

# %% [markdown]
# ## Taught before
#
# The same network first learns to clean up back-projections of random ellipses of the same geometry, drawn while it
# trains, and then needs fewer steps on the measurement. Its input has seen all of the data, so held-out ones say
# nothing here, and we look at the whole run.

# %%
LESSONS = 300 if FULL else 100
taught, _ = dip.pretrain(likelihood, network, key=jax.random.key(2), num_steps=LESSONS, batch_size=4)
figure = matplotlib.figure.Figure(figsize=(6, 3), layout="constrained")
axes = figure.add_subplot()
for name, own in {"drawn weights": network, "taught weights": taught}.items():
    history = fit(own, classical.fbp(operator, y).value, weight, ema=0.9, rate=1e-3).stats["history"]
    axes.plot(history["step"], history["psnr"], label=name)
    print(f"{name:15} PSNR after 0, 50, {STEPS} steps:", *(f"{history['psnr'][i]:.2f}" for i in (0, 5, -1)))
axes.set(xlabel="step", ylabel="PSNR (dB)")
axes.legend()
plotting.show(figure, "dip_taught.png")

# %% [markdown]
# ## Many at once
#
# The layers of a deep decoder are products of matrices, and those of many decoders are batched products. Here eight
# measurements with half of the pixels, each with weights of its own.

# %%
many = data.ellipses(8, 32, key=jax.random.key(3))
mask = jax.random.bernoulli(jax.random.key(4), 0.5, (32, 32, 1)).astype(jnp.float32)
inpainting = jaxinv.Likelihood(operators.Mask(mask), noise.Gaussian(0.02))
ys = jax.vmap(lambda x, k: inpainting.simulate(x, key=k))(many, jax.random.split(key, 8))
decoder = models.DeepDecoder((32, 32, 1), channels=32, rngs=nnx.Rngs(0))
solution = dip.reconstruct_many(inpainting, decoder, ys, key=key, num_steps=1000 if FULL else 200, ema=0.9)
print("PSNR of eight:", np.round(np.asarray(jax.vmap(metrics.psnr)(solution.value, many)), 1))
figure = plotting.compare(
    {"measured": ys[:4], "deep decoder": solution.value[:4]}, reference=many[:4], heading="Half the pixels"
)
plotting.show(figure, "deep_decoder.png")

# %% [markdown]
# ## How sure is it?
#
# Around the weights that were found, the network is linear in them, and a Gaussian prior on weights gives a Gaussian
# posterior of the image: samples, and a standard deviation for every pixel, without ever forming the Jacobian.

# %%
found = solution.lane(0)
posterior = dip.linearised_posterior(
    inpainting, found.aux["network"], ys[0], key=key, z0=found.aux["input"], prior_std=0.1, num_samples=16, rtol=1e-3
)
deviation = posterior.stats["std"]
known = float((deviation * mask).sum() / mask.sum())
unknown = float((deviation * (1 - mask)).sum() / (1 - mask).sum())
print(f"standard deviation where measured {known:.4f}, where not {unknown:.4f}")
error = jnp.abs(found.value - many[0])
figure = plotting.compare(
    {"deviation times 5": 5 * deviation, "error times 5": 5 * error}, heading="Uncertainty and error", limits=(0, 1)
)
plotting.show(figure, "dip_uncertainty.png")
