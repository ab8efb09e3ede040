# %% [markdown]
# # The density of a flow
#
# A normalising flow bends the plane until a normal law lies on the examples. Its density is exact, every latent is a
# point, and every point has a latent. Circles of latents show how the plane was bent.

# %%
import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
from flax import nnx

from jaxinv import generative, models, plotting, training

rng = np.random.default_rng(0)
angle, upper = np.pi * rng.uniform(size=4000), rng.integers(0, 2, 4000)
moons = np.stack([np.cos(angle) - 0.5 + upper, np.where(upper, 0.25 - np.sin(angle), np.sin(angle) - 0.25)], -1)
points = (moons + 0.08 * rng.normal(size=moons.shape)).astype(np.float32).reshape(-1, 2, 1, 1)

flow, history = training.fit(
    models.Flow(
        (2, 1, 1), coupling=models.RationalQuadratic(), trunk=models.Dense((32, 32)), alpha=None, rngs=nnx.Rngs(0)
    ),
    generative.flow_loss,
    points,
    key=jax.random.key(0),
    num_steps=1500,
    batch_size=256,
    learning_rate=3e-3,
    ema=0.99,
)
line = jnp.linspace(-2, 2, 150)
plane = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2, 1, 1)
latents, log_det = flow.forward(plane)
density = jnp.exp(log_det - 0.5 * jnp.sum(latents**2, 1)).reshape(150, 150)
samples = flow.inverse(jax.random.normal(jax.random.key(1), (1000, 2)))[..., 0, 0]
rings = jnp.linspace(0, 2 * jnp.pi, 200)
circles = [flow.inverse(r * jnp.stack([jnp.cos(rings), jnp.sin(rings)], -1))[..., 0, 0] for r in (0.5, 1.0, 1.5, 2.0)]

# %%
figure = matplotlib.figure.Figure(figsize=(9, 3.2), layout="constrained")
places = figure.subplots(1, 3, sharex=True, sharey=True)
places[0].plot(*points[:1000, :, 0, 0].T, ".", markersize=2)
places[1].imshow(density, extent=(-2, 2, -2, 2), origin="lower", cmap="magma")
places[2].plot(*samples.T, ".", markersize=2, color="0.6")
for circle in circles:
    places[2].plot(*circle.T, linewidth=1)
for place, title in zip(places, ("examples", "density", "samples, circles of latents"), strict=True):
    place.set(title=title, aspect="equal", xlim=(-2, 2), ylim=(-1.5, 1.5))
plotting.show(figure, "flow_density.png")
