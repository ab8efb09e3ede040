# %% [markdown]
# # Clusters of digits
#
# k-means with twenty centres: a row of the figure is a centre and the images nearest to it. What the classes take from
# the variance is `between`, what is left is `within`.

# %%
import jax
import jax.numpy as jnp

from jaxinv import data, plotting, subspace

images = jnp.asarray(data.digits(size=16)[0])
found = subspace.kmeans(images, 20, key=jax.random.key(0), restarts=4)
print(f"within {100 * found.within / found.total:.0f} %, between {100 * found.between / found.total:.0f} %")
order = jnp.argsort(-jnp.bincount(found.labels, length=20))[:6]
distance = jnp.sum((images[None] - found.centres[order][:, None]) ** 2, (2, 3, 4))
nearest = images[jnp.argsort(distance, axis=1)[:, :9]]
rows = jnp.concatenate([found.centres[order][:, None], nearest], axis=1)
figure = plotting.sample_grid(
    rows.reshape(-1, 16, 16, 1), columns=10, limits=(0, 1), heading="a centre, and the digits nearest to it"
)
plotting.show(figure, "clusters.png")
