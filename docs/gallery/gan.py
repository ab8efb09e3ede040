# %% [markdown]
# # A generative adversarial network
#
# The same generator and critic under two games. In that of the first paper, `minimax_loss`, the critic wins early, the
# generator has no gradient left, and its samples collapse to one or two patterns. The non-saturating loss, with a
# penalty on the slope of the critic (R1) and no momentum, the default of `fit_adversarial`, reaches all digits. The
# monitor counts which of twenty clusters of the training images the samples reach.

# %%
import jax
import jax.numpy as jnp
import matplotlib.figure
import optax
from flax import nnx

from jaxinv import data, generative, models, plotting, subspace, training

digits, _ = data.digits(size=12)
monitor = generative.ModeCoverage(subspace.kmeans(digits, 20, key=jax.random.key(5)))
games = {
    "minimax": (generative.minimax_loss(), {"optimisers": optax.adam(1e-3)}),
    "non-saturating, R1": (generative.nonsaturating_loss(1.0), {"ema": 0.99}),
}
samples, curves = {}, {}
for name, (loss, options) in games.items():
    (generator, _), history = training.fit_adversarial(
        models.Generator((12, 12, 1), 8, widths=(128, 256), rngs=nnx.Rngs(0)),
        models.Critic((12, 12, 1), widths=(256, 128), rngs=nnx.Rngs(1)),
        loss,
        digits,
        key=jax.random.key(0),
        num_steps=1500,
        batch_size=64,
        monitor=monitor,
        chunk_size=100,
        **options,
    )
    curves[name] = history["monitor_steps"], 20 * history["monitor"]["coverage"]
    samples[name] = generator(jax.random.normal(jax.random.key(2), (40, 8)))
    print(f"{name}: {curves[name][1][-1]:.0f} of 20 clusters at the end")

# %%
figure = matplotlib.figure.Figure(figsize=(10, 2.8), layout="constrained")
*pictures, curve = figure.subplots(1, 3)
for axes, (name, images) in zip(pictures, samples.items(), strict=True):
    tiles = jnp.pad(images[..., 0].reshape(5, 8, 12, 12), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=1)
    tiles = tiles.transpose(0, 2, 1, 3).reshape(5 * 14, 8 * 14)
    axes.imshow(tiles, cmap="gray", vmin=0, vmax=1)
    axes.set(title=name, xticks=[], yticks=[])
for name, (steps, reached) in curves.items():
    curve.plot(steps, reached, marker=".", label=name)
curve.set(xlabel="step", ylabel="clusters reached, of 20", ylim=(0, 20.5))
curve.legend(loc="center right")
plotting.show(figure, "gan.png")
