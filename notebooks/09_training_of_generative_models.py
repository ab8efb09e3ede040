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
# # How generative models are trained, and how a GAN fails
#
# Two ways to teach a generator. One has a density, or a bound of it, and raises the *likelihood* of the examples:
# normalising flows, VAEs. The other, the *adversarial* one, only asks a critic whether samples can be told from
# examples,
# $$\min_G \max_D\; E_x \log D(x) + E_z \log\big(1 - D(G(z))\big).$$
# The critic sees a handful of samples at a time, and a generator that makes one kind of image well may pass: *mode
# collapse*. We look at both in a plane, where all can be drawn, and then at digits.

# %%
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.figure
import optax
from flax import nnx

from jaxinv import data, generative, models, plotting, subspace, training

key = jax.random.key(0)
FULL = "--full" in sys.argv  # or True in a notebook: longer trainings, and MNIST in place of small digits

# %% [markdown]
# ## Eight modes on a ring
#
# Points in the plane, which the library takes for images of two pixels.

# %%
MODES, SPREAD = 8, 0.02
turns = 2 * jnp.pi * jnp.arange(MODES) / MODES
centres = 0.5 + 0.35 * jnp.stack([jnp.cos(turns), jnp.sin(turns)], axis=1)
which = jax.random.randint(jax.random.key(1), (4000,), 0, MODES)
ring = centres[which] + SPREAD * jax.random.normal(jax.random.key(2), (4000, 2))
ring = ring.reshape(-1, 2, 1, 1)
shape = ring.shape[1:]
noise = jax.random.normal(jax.random.key(3), (1000, 2))


def modes_found(generator, *, key):
    """How many modes have 2 % of the samples within four deviations, and what part of the samples is near any mode."""
    points = generator(jax.random.normal(key, (1000, 2))).reshape(-1, 1, 2)
    near = jnp.sum((points - centres[None]) ** 2, axis=2) < (4 * SPREAD) ** 2
    found = jnp.mean(near, axis=0) > 0.02
    return {"modes": jnp.sum(found).astype(points.dtype), "near": jnp.mean(jnp.any(near, axis=1))}


# %% [markdown]
# Generator and critic are the same in all games. *Minimax* is the game above, trained by Adam as one trains anything
# else. Its generator has no gradient where the critic is sure; the *non-saturating* loss, $-E \log D(G(z))$, mends
# that. The generator still runs after the critic, which forgets the modes that the generator has left: with momentum
# they go round in circles. What helps: no momentum, the default of `fit_adversarial`, and a critic that must not be
# steep, by the penalty R1, $\tfrac{\gamma}{2} E\|\nabla D(x)\|^2$. To watch a training we stop it: with a checkpoint
# the next call goes on from there.

# %%
STAGES = (50, 150, 600, 1500)
ADAM = optax.adam(1e-3)  # made once: optimisers compare by identity
GAMES = {
    "minimax": {"loss": generative.minimax_loss(), "optimisers": ADAM},
    "non-saturating": {"loss": generative.nonsaturating_loss(), "optimisers": ADAM},
    "R1, no momentum": {"loss": generative.nonsaturating_loss(penalty=1.0), "learning_rate": 1e-3},
}


def stages(train):
    """What `train(num_steps, checkpoint)` has made after each number of steps, and its last history."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [train(num_steps, Path(folder) / "run") for num_steps in STAGES]
    return [made for made, _ in runs], runs[-1][1]


def play(game):
    """A GAN on the ring."""
    networks = (
        models.Generator(shape, 2, widths=(64, 64), rngs=nnx.Rngs(0)),
        models.Critic(shape, widths=(64, 64), rngs=nnx.Rngs(1)),
    )
    options = {"key": key, "batch_size": 128, "chunk_size": 75, "monitor": modes_found, **game}
    return stages(
        lambda num_steps, file: training.fit_adversarial(
            *networks, data=ring, num_steps=num_steps, checkpoint=file, **options
        )
    )


games = {name: play(game) for name, game in GAMES.items()}
for name, (_, history) in games.items():
    modes, near = (history["monitor"][entry] for entry in ("modes", "near"))
    print(
        f"{name:20} modes found on the way {[int(m) for m in modes[1::2]]}, at the end {100 * near[-1]:.0f} % near one"
    )


# %%
def scatter(axes, points, colour, size=2):
    axes.scatter(*points.reshape(-1, 2).T, s=size, color=colour, linewidth=0, rasterized=True)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], aspect="equal")


def film(rows, draw):
    """A row for each model and a column for each stage, the examples in cyan; `draw(axes, model)` adds the rest."""
    figure = matplotlib.figure.Figure(figsize=(1.6 * len(STAGES), 1.65 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(STAGES))
    for axes, steps in zip(panels[0], STAGES, strict=True):
        axes.set_title(f"{steps} steps", fontsize=8)
    for line, (name, made) in zip(panels, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=8)
        for axes, model in zip(line, made, strict=True):
            draw(axes, model)
    return figure


def samples_of(axes, generator):
    scatter(axes, ring[:800], "tab:cyan")
    scatter(axes, generator(noise), "tab:orange")


plotting.show(film({name: [g for g, _ in made] for name, (made, _) in games.items()}, samples_of), "mode_collapse.png")

# %%
figure = matplotlib.figure.Figure(figsize=(4.5, 2.6), layout="constrained")
axes = figure.add_subplot()
for name, (_, history) in games.items():
    axes.plot(history["monitor_steps"], history["monitor"]["modes"], marker="o", markersize=3, label=name)
axes.set(xlabel="step", ylabel=f"modes found, of {MODES}", ylim=(-0.3, MODES + 0.3))
figure.legend(fontsize=8, loc="outside upper center", ncols=3)
plotting.show(figure, "modes_found.png")

# %% [markdown]
# ## Likelihood, and samples, during training
#
# The picture of the lecture (after Prince): an adversarial model, above, has samples only, and these become less and
# less distinguishable from the examples; a model with a likelihood, below, has a density that flows to where the
# examples are. The flow's density is exact, its samples follow from it. The VAE's is bounded from below, and its
# samples are those of its decoder, with the noise of its likelihood.


# %%
SCALE = 6  # the flow sees the plane in units in which the ring is as large as its latents


def log_density(flow, points):
    """The log-density of points, in nats: that of their latents, and the determinants of the flow and of the scale."""
    z, log_det = flow.forward(SCALE * (points - 0.5))
    return log_det + 2 * jnp.log(SCALE) - 0.5 * jnp.sum(z**2, axis=1) - jnp.log(2 * jnp.pi)


def negative_log_likelihood(flow, batch, *, key):
    del key
    return -jnp.mean(log_density(flow, batch))


def learn(model, loss, learning_rate):
    """A model with a likelihood, on the ring."""
    options = {"key": key, "batch_size": 128, "learning_rate": learning_rate, "chunk_size": 150}
    return stages(
        lambda num_steps, file: training.fit(model, loss, ring, num_steps=num_steps, checkpoint=file, **options)
    )


flow = models.Flow(
    shape, alpha=None, trunk=models.Dense((64,)), num_couplings=4, coupling=models.RationalQuadratic(), rngs=nnx.Rngs(0)
)
vae = models.VAE(shape, 2, widths=(64, 64), likelihood=models.Gaussian(SPREAD), rngs=nnx.Rngs(0))
flows, flow_history = learn(flow, negative_log_likelihood, 3e-3)
vaes, vae_history = learn(vae, generative.vae_loss(), 3e-3)
for name, history in {"flow": flow_history, "VAE, the bound": vae_history}.items():
    print(name, [f"{-history['loss'][max(s - 50, 0) : s].mean():.2f}" for s in STAGES], "nats of log-likelihood")

# %%
line = (jnp.arange(80) + 0.5) / 80
pixels = jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, *shape)


def density_of(axes, model):
    if isinstance(model, models.Flow):
        shown = jnp.exp(0.5 * jax.jit(log_density)(model, pixels)).reshape(80, 80)  # the root, for the low parts
        axes.imshow(shown, origin="lower", extent=(0, 1, 0, 1), cmap="Greys", vmax=float(jnp.quantile(shown, 0.99)))
        scatter(axes, ring[:300], "tab:cyan", 1)
        scatter(axes, 0.5 + model.inverse(noise[:300]) / SCALE, "tab:orange", 1)
    elif isinstance(model, models.VAE):
        scatter(axes, ring[:800], "tab:cyan")
        scatter(axes, model.decode(noise) + SPREAD * noise.reshape(-1, *shape)[::-1], "tab:orange")
    else:
        samples_of(axes, model)


best = [generator for generator, _ in games["R1, no momentum"][0]]
plotting.show(film({"GAN": best, "VAE": vaes, "flow": flows}, density_of), "training_left_to_right.png")

# %% [markdown]
# ## Digits
#
# The same collapse on images. Modes are now clusters of the training images, ten of them, and `generative.ModeCoverage`
# counts which of them the samples reach after every chunk of the training. With `--full` it is MNIST.

# %%
if FULL:
    images = data.mnist("train")[0].astype("float32") / 255
    widths, steps = (512, 256), 4000
else:
    images, widths, steps = data.digits(size=14)[0], (256, 128), 800
clusters = subspace.kmeans(images[:5000], 10, key=key, restarts=2)
monitor = generative.ModeCoverage(clusters, num_samples=500)
digits = {}
for name in ("minimax", "R1, no momentum"):
    (generator, _), history = training.fit_adversarial(
        models.Generator(images.shape[1:], 8, widths=widths, rngs=nnx.Rngs(0)),
        models.Critic(images.shape[1:], widths=widths, rngs=nnx.Rngs(1)),
        data=images,
        key=key,
        **GAMES[name],
        num_steps=steps,
        batch_size=64,
        monitor=monitor,
        chunk_size=steps // 20,
    )
    digits[name] = generator(jax.random.normal(jax.random.key(4), (24, 8))), history
    reached = [round(10 * float(c)) for c in history["monitor"]["coverage"]]
    print(f"{name:20} of 10 clusters reached: {reached[1::2]}")

# %%
grid = jnp.concatenate([drawn for drawn, _ in digits.values()])
figure = plotting.sample_grid(grid, columns=12, heading="Two rows each: " + "; ".join(digits), limits=(0, 1))
plotting.show(figure, "collapsed_digits.png")
figure = matplotlib.figure.Figure(figsize=(4.5, 2.6), layout="constrained")
axes = figure.add_subplot()
for name, (_, history) in digits.items():
    axes.plot(history["monitor_steps"], 10 * history["monitor"]["coverage"], marker="o", markersize=3, label=name)
axes.set(xlabel="step", ylabel="clusters reached, of 10", ylim=(-0.3, 10.3))
figure.legend(fontsize=8, loc="outside upper center", ncols=3)
plotting.show(figure, "clusters_reached.png")
