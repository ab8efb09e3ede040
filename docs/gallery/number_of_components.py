# %% [markdown]
# # How many components
#
# The rank at which the relative loss falls below a quarter, in both norms of the lecture; and what inverse problems
# make of a rank: too few components cannot draw the picture, too many draw the noise.

# %%
import jax
import jax.numpy as jnp
import matplotlib.figure

from jaxinv import data, plotting, subspace

images = jax.random.permutation(jax.random.key(0), jnp.asarray(data.digits(size=8)[0]))
train, test = images[:1500], images[1500:]
whole = subspace.pca(train, rank=60)
values = whole.singular_values
figure = matplotlib.figure.Figure(figsize=(8, 2.8), layout="constrained")
left, right = figure.subplots(1, 2)
for name, norm in {"Frobenius": subspace.Frobenius(), "nuclear": subspace.Nuclear()}.items():
    losses = norm.losses(values)
    rank = int(subspace.choose_rank(values, 0.25, norm))
    (line,) = left.plot(losses / losses[0], label=f"{name}: rank {rank}")
    left.plot([rank, rank], [0, 0.25], color=line.get_color(), linestyle=":")
left.axhline(0.25, color="0.6", linewidth=0.8)
left.set(xlabel="rank", ylabel="relative loss", xlim=(0, 60), ylim=(0, 1))
left.legend()

# %%
ranks = jnp.arange(60)
for std in (0.02, 0.1, 0.3):
    noisy = test + std * jax.random.normal(jax.random.key(1), test.shape)
    codes = whole.encode(noisy)
    error = lambda rank, codes=codes: jnp.mean((whole.decode(jnp.where(ranks < rank, codes, 0)) - test) ** 2) ** 0.5
    errors = jax.lax.map(error, ranks)
    best = int(jnp.argmin(errors))
    (line,) = right.plot(ranks, errors, label=f"noise {std}: best {best}")
    right.plot(best, errors[best], "o", color=line.get_color(), markersize=4)
right.set(xlabel="rank", ylabel="error of noisy test images", ylim=(0, 0.32), xlim=(0, 60))
right.legend()
plotting.show(figure, "number_of_components.png")
