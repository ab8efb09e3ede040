# %% [markdown]
# # The plane of two latents
#
# A variational autoencoder with two latent variables, and all that it can draw: the image of every point of a grid.
# Neighbours look alike, and the term of the loss that asks for a normal law leaves no holes.

# %%
import jax
import jax.numpy as jnp
import matplotlib.figure
from flax import nnx

from jaxinv import data, generative, models, plotting, training

digits, labels = data.digits(size=14)
vae, history = training.fit(
    models.VAE((14, 14, 1), 2, widths=(128, 64), rngs=nnx.Rngs(0)),
    generative.vae_loss(beta=8.0),
    digits,
    key=jax.random.key(0),
    num_steps=2000,
    batch_size=64,
    ema=0.99,
)
codes, _ = vae.encode(digits)
line = jnp.linspace(-2.2, 2.2, 16)
across, down = jnp.meshgrid(line, -line)
tiles = vae.decode(jnp.stack([across, down], -1).reshape(-1, 2)).reshape(16, 16, 14, 14)

# %%
figure = matplotlib.figure.Figure(figsize=(9, 4.2), layout="constrained")
left, right = figure.subplots(1, 2)
dots = left.scatter(*codes.T, c=labels, s=3, cmap="tab10", vmin=-0.5, vmax=9.5)
left.set(title="digits in the plane", xlim=(-3.3, 3.3), ylim=(-3.3, 3.3), aspect="equal")
figure.colorbar(dots, ax=left, ticks=range(10), shrink=0.8)
right.imshow(tiles.transpose(0, 2, 1, 3).reshape(224, 224), cmap="gray", extent=(-2.2, 2.2, -2.2, 2.2))
right.set(title="what the plane draws")
plotting.show(figure, "latent_plane.png")
