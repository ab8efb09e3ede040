# %% [markdown]
# # What moves in front of what stays
#
# Robust principal components split a film into a matrix of low rank, the scene in its changing light, and a sparse
# one, what passes in front. Ordinary components leave a ghost of it in every frame.

# %%
import jax.numpy as jnp

from jaxinv import data, plotting, subspace

times = jnp.linspace(0, 1, 24)[:, None, None]
rows, columns = jnp.meshgrid(jnp.arange(24.0), jnp.arange(24.0), indexing="ij")
light = 0.7 + 0.3 * jnp.sin(2 * jnp.pi * times)
scene = light * (0.4 * data.shepp_logan(24)[None, ..., 0] + 0.3)
ball = (rows - 4 - 15 * times) ** 2 + (columns + 3 - 30 * times) ** 2 < 9
film = jnp.where(ball, 1.0, scene)

parts = subspace.robust_pca(film)
plain = subspace.pca(film, rank=2)
print(f"rank {parts.rank} after {parts.num_steps} steps")
pictures = {
    "frame": film,
    "low rank": parts.low_rank,
    "sparse": parts.sparse,
    "two components": plain.decode(plain.encode(film)),
}
shown = jnp.array([5, 11, 18])
columns = {name: value[shown][..., None] for name, value in pictures.items()}
titles = [f"frame {i}" for i in shown]
plotting.show(plotting.compare(columns, titles=titles, limits=(0, 1)), "robust_components.png")
