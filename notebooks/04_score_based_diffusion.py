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
# # Score-based diffusion
#
# A stochastic differential equation $dx = f(t)\,x\,dt + g(t)\,dw$ turns images into noise. Run backwards, it turns
# noise into images, and all it needs for that is the score $\nabla \log p_t(x)$ of the noised images:
#
# $$dx = \left(f x - g^2\, \nabla \log p_t(x)\right) dt + g\, d\bar w.$$
#
# The probability-flow ODE $dx/dt = f x - \tfrac12 g^2 \nabla \log p_t(x)$ has the same law at each time, without any
# randomness on the way. We begin where the score is known exactly, and then learn it from images.

# %%
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxinv import data, diffusion, generative, metrics, models, oracles, plotting, training
from jaxinv.diffusion import Preconditioned

key = jax.random.key(0)
FULL = "--full" in sys.argv  # or True in a notebook: a larger network and a longer training
process = diffusion.VP()

# %% [markdown]
# ## Forward and backward, with the exact score
#
# Three bumps on the line. Forward, they flow into one standard normal; backward, noise splits into the three again,
# with the weights that they had. The grey background is the exact density at each time.

# %%
prior = oracles.GaussianMixture(
    jnp.array([0.5, 0.3, 0.2]), jnp.array([[-2.0], [0.5], [2.0]]), jnp.full((3, 1, 1), 0.03)
)
times = jnp.linspace(process.t_min, process.t_max, 200)
starts = prior.sample(12, key=key)
forward = jax.vmap(lambda x, k: diffusion.trajectory(process, x, times, key=k))(starts, jax.random.split(key, 12))
reverse = diffusion.sample(
    prior.score(process), (1,), key=key, num_samples=1000, num_saved=200, method=diffusion.ReverseSDE(200)
).check()
flow = diffusion.sample(
    prior.score(process), (1,), key=key, num_samples=12, num_saved=200, method=diffusion.ProbabilityFlow()
).check()


def density(t, x):
    at = lambda t, x: jnp.exp(prior.noised(process, t).log_prob(x[None]))
    return jax.jit(jax.vmap(at))(jnp.asarray(t, jnp.float32), jnp.asarray(x, jnp.float32))


figure = plotting.trajectories(
    {
        "forward SDE": (times, forward),
        "reverse SDE": (reverse.aux["times"][:12], reverse.aux["states"][:12]),
        "probability-flow ODE": (flow.aux["times"], flow.aux["states"]),
    },
    density=density,
)
plotting.show(figure, "trajectories.png")

# %% [markdown]
# With an exact score, what is left is the error of the integrator. How far are 1000 samples from 1000 exact ones, and
# how many evaluations does each sampler take? Two exact sets are apart too; that is the floor.

# %%
exact, more = prior.sample(1000, key=jax.random.key(1)), prior.sample(1000, key=jax.random.key(2))
distance = lambda samples: metrics.sliced_wasserstein(samples, exact, key=key)
print(f"{'exact samples':24} {distance(more):.3f}")
solutions = {"ReverseSDE": reverse}
for method in [diffusion.Heun(25), diffusion.DPMSolver(25)]:
    solutions[type(method).__name__] = diffusion.sample(
        prior.score(process), (1,), key=key, num_samples=1000, method=method
    )
for name, drawn in solutions.items():
    weights = jnp.round(metrics.mode_weights(drawn.value, prior.means), 2)
    evaluations = drawn.stats["network_evaluations"].mean()
    print(f"{name:24} {distance(drawn.value):.3f}, {evaluations:.0f} evaluations, shares {weights}")

# %% [markdown]
# The density of a point follows along the ODE, by the divergence of its velocity; here it can be checked.

# %%
points = jnp.linspace(-3, 3, 7)[:, None]
found = jax.vmap(lambda x: diffusion.log_prob(prior.score(process), x))(points)
print(jnp.round(found, 3), jnp.round(jax.vmap(prior.log_prob)(points), 3), sep="\n")

# %% [markdown]
# ## A learned score
#
# Small digits, 8 x 8 pixels, in $[-1, 1]$ and dequantised: uniform noise within each of the 17 grey levels gives them a
# density. The network predicts the noise that was added to an image, beyond what mean and deviation of the pixels
# tell: with `Preconditioned` it starts from the best affine guess. Less than a minute of training is enough here;
# `jaxinv train score --data mnist` does the same for MNIST.

# %%
digits, _ = data.digits(size=8)
grey = np.round(16 * digits).astype(int)[np.random.default_rng(0).permutation(len(digits))]
digits = np.asarray(2 * data.dequantise(grey, key=jax.random.key(0), levels=17) - 1)
train, test = digits[100:], jnp.asarray(digits[:100])
shape = train.shape[1:]
parametrisation = Preconditioned(train.mean(), train.std())
STEPS = 800 if FULL else 500
network, history = training.fit(
    models.UNet(shape, widths=(32, 64) if FULL else (16, 32), rngs=nnx.Rngs(0)),
    diffusion.score_matching_loss(process, parametrisation=parametrisation),
    train,
    key=key,
    optimiser=optax.adam(optax.warmup_cosine_decay_schedule(0.0, 2e-3, 100, STEPS, 1e-5)),
    num_steps=STEPS,
    batch_size=32,
    ema=0.99,
)
score = diffusion.score_from(network, process, parametrisation)
print(f"{history['seconds']:.0f} s; the last hundred losses {history['loss'][-100:].mean():.3f}")

# %%
solution = diffusion.sample(score, shape, key=key, num_samples=48, num_saved=6, method=diffusion.DPMSolver(30))
plotting.show(
    plotting.sample_grid(solution.check().value, columns=12, heading="Samples", limits=(-1, 1)), "samples.png"
)
plotting.show(plotting.sample_grid(test[:48], columns=12, heading="Held-out digits", limits=(-1, 1)), "digits.png")
for name, images in {"samples": solution.value, "other digits": test[:48]}.items():
    print(f"{name:14} {metrics.sliced_wasserstein(images, train, key=key):.3f} from the training digits")

# %% [markdown]
# ## Images turn into noise, and noise into images

# %%
times = jnp.array([0.001, 0.1, 0.2, 0.35, 0.6, 1.0])
forward = jax.vmap(lambda x, k: diffusion.trajectory(process, x, times, key=k))(test[:2], jax.random.split(key, 2))
reverse = jax.tree.map(lambda leaf: leaf[:2], solution.aux)
figure = plotting.trajectories(
    {"forward": (times, forward), "reverse": (reverse["times"], reverse["states"])}, limits=(-1.5, 1.5)
)
plotting.show(figure, "trajectories_of_digits.png")

# %% [markdown]
# ## Latents by the ODE
#
# The ODE is a bijection: `encode` takes an image to its noise and `decode` takes it back. Between two latents, on the
# great arc (they lie near a sphere), the images on the way look like digits; a cross-fade of the two images does not.

# %%
latents = jax.vmap(lambda x: diffusion.encode(score, x).value)(test[:2])
arc = jax.vmap(lambda s: generative.Spherical()(latents[0], latents[1], s))(jnp.linspace(0, 1, 9))
between = jax.vmap(lambda z: diffusion.decode(score, z).value)(arc)
print(f"encode and decode: error {jnp.abs(between[jnp.array([0, -1])] - test[:2]).max():.1e}")
print(f"mean squares of the latents: {jnp.mean(latents**2, axis=(1, 2, 3))}")
fade = test[0][None] + jnp.linspace(0, 1, 9)[:, None, None, None] * (test[1] - test[0])[None]
figure = plotting.sample_grid(
    jnp.concatenate([between, fade]), columns=9, heading="Along the arc of latents; cross-fade", limits=(-1, 1)
)
plotting.show(figure, "interpolation.png")

# %% [markdown]
# ## Likelihood
#
# In bits for each pixel (with 17 grey levels, uniform noise within them has $\log_2 17 = 4.09$), beside a Gaussian of
# the mean and covariance of the training digits. The divergence is estimated by random signs, without bias.

# %%
some = test[:12]
nats = jax.vmap(lambda x, k: diffusion.log_prob(score, x, key=k))(some, jax.random.split(key, 12))
gaussian = oracles.Gaussian.from_samples(train)
for name, value in {"score network": nats, "Gaussian": jax.vmap(gaussian.log_prob)(some)}.items():
    bits = metrics.bits_per_dim(-value, shape, data_range=2, levels=17)
    print(f"{name:14} {bits.mean():.2f} bits per pixel")
