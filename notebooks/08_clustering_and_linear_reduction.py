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
# # Clustering and linear reduction
#
# The oldest unsupervised learning: images without labels, put into groups, or described by few numbers. Both are least
# squares. *Clustering* allows $k$ images, the centres, and *principal components* an affine subspace of $r$ dimensions:
# $$\min_{c_1 \dots c_k} \sum_i \min_j \|x_i - c_j\|^2, \qquad
#   \min_{\operatorname{rank} X_r \le r} \|X - X_r\|.$$

# %%
import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

import jaxinv
from jaxinv import data, generative, metrics, noise, operators, plotting, subspace

key = jax.random.key(0)
images, labels = data.digits(size=8)
images = jnp.asarray(images)
train, test = images[300:], images[:300]
print("images", train.shape, "and the labels of ten digits, which nothing below sees")

# %% [markdown]
# ## k-means
#
# Lloyd's algorithm assigns every image to the nearest centre, and moves every centre to the mean of its images. The
# variance of the data is split in two, that *within* the classes and that *between* them:
# $$\underbrace{\sum_i \|x_i - \bar x\|^2}_{\text{total}} =
#   \underbrace{\sum_j \sum_{i \in C_j} \|x_i - c_j\|^2}_{\text{within}} +
#   \underbrace{\sum_j n_j \|c_j - \bar x\|^2}_{\text{between}}.$$
# Clustering makes the first small and so the second large. More clusters always help; how many is enough shows in the
# curve, if it has a bend. On digits it has none: ten is our knowledge, not that of the data.

# %%
clusters = {k: subspace.kmeans(train, k, key=key, restarts=4) for k in (2, 5, 10, 30)}
for k, found in clusters.items():
    within, between = float(found.within / found.total), float(found.between / found.total)
    print(f"{k:2} clusters: within {within:.3f}, between {between:.3f}, sum {within + between:.5f}")

figure = matplotlib.figure.Figure(figsize=(4.5, 2.8), layout="constrained")
axes = figure.add_subplot()
for name in ("within", "between"):
    axes.plot(list(clusters), [float(getattr(c, name) / c.total) for c in clusters.values()], marker="o", label=name)
axes.set(xlabel="number of clusters", ylabel="share of the variance", ylim=(0, 1), xscale="log")
axes.set_xticks(list(clusters), [str(k) for k in clusters])
axes.minorticks_off()
axes.legend()
plotting.show(figure, "kmeans_variance.png")

# %% [markdown]
# The centres look like digits, because digits do cluster. The table says which true digits a cluster holds: some digits
# have a cluster of their own, others share one.

# %%
found = clusters[10]
members = np.array(
    [[np.sum(np.asarray(labels)[300:][np.asarray(found.labels) == j] == d) for d in range(10)] for j in range(10)]
)
order = np.argsort(members.argmax(1), kind="stable")
print("share of each cluster that is its commonest digit:")
print(*(f"{members[j].argmax()}: {100 * members[j].max() / members[j].sum():.0f} %" for j in order), sep=", ")
print("of held-out digits in the right cluster:", end=" ")
right = np.asarray(members.argmax(1))[np.asarray(found.assign(test))] == np.asarray(labels)[:300]
print(f"{100 * right.mean():.0f} %")
plotting.show(
    plotting.sample_grid(found.centres[order], columns=10, heading="Ten centres", limits=(0, 1)), "kmeans_centres.png"
)

# %% [markdown]
# ## Principal components, and how many
#
# With $X - \bar x = U \Sigma V^\top$ the best subspace of rank $r$ is spanned by the first $r$ rows of $V^\top$, in
# every unitarily invariant norm (Eckart, Young, Mirsky). What is lost is, relative to the whole,
# $$\frac{\|X - X_r\|_F}{\|X\|_F} = \Big(\frac{\sum_{i>r} \sigma_i^2}{\sum_i \sigma_i^2}\Big)^{1/2}, \qquad
#   \frac{\|X - X_r\|_*}{\|X\|_*} = \frac{\sum_{i>r} \sigma_i}{\sum_i \sigma_i}.$$
# One chooses the rank by a threshold, and the norm matters. The curves cross: squares favour the large values, so that
# the Frobenius loss falls faster at first, and the root makes more of what is left at the end.

# %%
THRESHOLD = 0.25
whole = subspace.pca(train)
values = whole.singular_values
norms = {"Frobenius": subspace.Frobenius(), "nuclear": subspace.Nuclear()}
figure = matplotlib.figure.Figure(figsize=(4.5, 2.8), layout="constrained")
axes = figure.add_subplot()
for i, (name, norm) in enumerate(norms.items()):
    losses = norm.losses(values)
    rank = subspace.choose_rank(values, THRESHOLD, norm)
    print(f"{name:9} norm: rank {rank:2} of {len(values)} loses {float(losses[rank] / losses[0]):.3f}")
    axes.plot(losses / losses[0], color=f"C{i}", label=f"{name}: rank {rank}")
    axes.plot([rank, rank], [0, THRESHOLD], color=f"C{i}", linestyle=":")
axes.axhline(THRESHOLD, color="0.5", linewidth=0.8)
axes.set(xlabel="rank", ylabel="relative loss", xlim=(0, len(values)), ylim=(0, 1))
axes.legend()
plotting.show(figure, "pca_loss.png")

# %% [markdown]
# The mean, the first components, and a held-out digit in subspaces of growing rank. `subspace.pca(train, rank=r)` gives
# the same components, and `tolerance=` takes the threshold in place of a rank.

# %%
columns = {"image": test[:3]}
for rank in (2, 8, 16, 32):
    part = subspace.PCA(whole.mean, whole.components[:rank], values[:rank])
    columns[f"rank {rank}"] = part.decode(part.encode(test[:3]))
reference = columns.pop("image")
plotting.show(plotting.compare(columns, reference=reference, limits=(0, 1), errors=False), "pca_projections.png")
shown = jnp.concatenate([whole.mean[None], 0.5 + whole.components[:7]])
plotting.show(
    plotting.sample_grid(shown, columns=8, heading="Mean and seven components", limits=(0, 1)), "pca_components.png"
)

# %% [markdown]
# A subspace is also a prior for an inverse problem, the linear one among the generators of the next notebook. Half of
# the pixels, a little noise: least squares in the coordinates, with their variances.

# %%
mask = jax.random.bernoulli(jax.random.key(4), 0.5, test.shape[1:]).astype(jnp.float32)
likelihood = jaxinv.Likelihood(operators.Mask(mask), noise.Gaussian(0.05))
measured = jax.vmap(lambda x, k: likelihood.simulate(x, key=k))(test[:20], jax.random.split(key, 20))
prior = generative.PCAPrior(
    subspace.PCA(whole.mean, whole.components[:16], values[:16], whole.standard_deviations[:16])
)
solve = jax.vmap(lambda y, k: generative.reconstruct(likelihood, prior, y, key=k).value)
filled = solve(measured, jax.random.split(key, 20))
for name, value in {"measured": measured, "in 16 components": filled}.items():
    print(f"{name:16} {jax.vmap(metrics.psnr)(value, test[:20]).mean():.2f} dB")

# %% [markdown]
# ## Robust principal components: what moves in front of what stays
#
# The frames of a scene whose light changes are a matrix of rank one or two, each frame a row. What passes in front of
# the scene is large, and not small noise: it turns the principal components. *Robust* PCA looks for a matrix of low
# rank and a sparse one,
# $$\min_{L + S = M} \|L\|_* + \lambda \|S\|_1,$$
# a convex problem, whose solution is the right one as long as the rank is low and errors hit few entries of any row.

# %%
FRAMES, SIDE = 40, 24
scene = data.shepp_logan(SIDE)[..., 0]
rows, columns = jnp.meshgrid(jnp.arange(SIDE), jnp.arange(SIDE), indexing="ij")
times = jnp.linspace(0, 1, FRAMES)
light = 0.7 + 0.3 * jnp.sin(2 * jnp.pi * times)
background = light[:, None, None] * (0.4 * scene + 0.3)[None] + 0.1 * (times[:, None, None] * (rows / SIDE)[None])
path = 24 * times - 4, 4 + 14 * times
inside = lambda position, start: (position[None] >= start[:, None, None]) & (position[None] < start[:, None, None] + 6)
occluded = inside(columns, path[0]) & inside(rows, path[1])
frames = jnp.where(occluded, 1.0, background)

parts = subspace.robust_pca(frames)
plain = subspace.pca(frames, rank=2)
projected = plain.decode(plain.encode(frames))
error = lambda estimate: float(jnp.linalg.norm(estimate - background) / jnp.linalg.norm(background))
print(f"rank {parts.rank} after {parts.num_steps} steps; relative error of the background: ", end="")
print(f"robust {error(parts.low_rank):.4f}, principal components {error(projected):.4f}")
found = jnp.abs(parts.sparse) > 0.05
print(f"of the occluded pixels {100 * float(found[occluded].mean()):.0f} % are found, ", end="")
print(f"of the others {100 * float(found[~occluded].mean()):.2f} % are taken for occluded")

# %%
shown = jnp.array([8, 16, 24])
pictures = {"frame": frames, "low rank": parts.low_rank, "sparse": parts.sparse, "PCA of rank 2": projected}
figure = plotting.compare(
    {name: value[shown][..., None] for name, value in pictures.items()},
    titles=[f"frame {i}" for i in shown],
    limits=(0, 1),
)
plotting.show(figure, "robust_pca.png")
