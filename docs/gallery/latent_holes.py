# %% [markdown]
# # Random samples of an autoencoder, and of a VAE
#
# Both make digits of two latent variables. The loss of the plain autoencoder does not say where its latents lie: they
# spread over any scale, and a latent from the standard normal law, a cross, meets one corner of them, or a hole. That
# of the variational autoencoder asks its latents to fill the law.

# %%
import jax
import jax.numpy as jnp
import matplotlib.figure
from flax import nnx

from jaxinv import data, generative, models, plotting, training

digits, labels = data.digits(size=14)
common = {"key": jax.random.key(0), "num_steps": 1500, "batch_size": 64, "ema": 0.99}
plain, _ = training.fit(
    models.Autoencoder((14, 14, 1), 2, widths=(128, 64), rngs=nnx.Rngs(0)),
    generative.autoencoder_loss,
    digits,
    **common,
)
vae, _ = training.fit(
    models.VAE((14, 14, 1), 2, widths=(128, 64), rngs=nnx.Rngs(0)), generative.vae_loss(beta=8.0), digits, **common
)
z = jax.random.normal(jax.random.key(1), (60, 2))
codes = {"plain autoencoder": plain.encode(digits), "variational": vae.encode(digits)[0]}
images = {"plain autoencoder": plain.decode(z), "variational": vae.decode(z)}

# %%
figure = matplotlib.figure.Figure(figsize=(10, 2.4), layout="constrained")
places = figure.subplots(1, 4, width_ratios=(1, 1.7, 1, 1.7))
for (name, code), scatter, picture in zip(codes.items(), places[::2], places[1::2], strict=True):
    print(f"{name}: latents have standard deviations {code[:, 0].std():.1f} and {code[:, 1].std():.1f}")
    scatter.scatter(*code.T, c=labels, s=2, cmap="tab10")
    scatter.plot(*z.T, "k+", markersize=4)
    scatter.set(title=name, box_aspect=1)
    tiles = jnp.pad(images[name][..., 0].reshape(6, 10, 14, 14), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=1)
    tiles = tiles.transpose(0, 2, 1, 3).reshape(6 * 16, 10 * 16)
    picture.imshow(tiles, cmap="gray", vmin=0, vmax=1)
    picture.set(title="images of the crosses", xticks=[], yticks=[])
plotting.show(figure, "latent_holes.png")
