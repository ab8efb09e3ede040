# %% [markdown]
# # Sparse vectors from few numbers
#
# Twelve of 100 entries are not zero, and `m` random combinations of them are measured. The 1-norm finds them as soon as
# `m` is large enough, the 2-norm never does; and of its two solvers FISTA is the faster one. All problems of the
# left picture are one call.

# %%
import jax
import jax.numpy as jnp
import matplotlib.figure

import jaxinv
from jaxinv import classical, noise, operators, plotting

keys = jax.random.split(jax.random.key(0), 20)


def problem(key, m):
    """A sparse vector, and `m` of 100 measurements of it; the other ones have weight 0."""
    where, values, rows, noises = jax.random.split(key, 4)
    x = jax.random.normal(values, (100,)) * (jax.random.permutation(where, 100) < 12)
    matrix = jax.random.normal(rows, (100, 100)) / 10 * (jnp.arange(100) < m)[:, None]
    likelihood = jaxinv.Likelihood(operators.Matrix(matrix, (100,)), noise.Gaussian(0.01))
    return x, likelihood, likelihood.operator(x) + 0.01 * jax.random.normal(noises, (100,)) * (jnp.arange(100) < m)


def error(estimate, x):
    return jnp.linalg.norm(estimate - x) / jnp.linalg.norm(x)


@jax.jit
@jax.vmap
def errors(m):
    def both(key):
        x, likelihood, y = problem(key, m)
        sparse = classical.fista(likelihood, y, weight=30.0, max_steps=200).value
        return error(sparse, x), error(classical.tikhonov(likelihood, y, weight=1.0).value, x)

    return jax.vmap(both)(keys)


counts = jnp.arange(10, 100, 10)
sparse, smooth = errors(counts)
x, likelihood, y = problem(keys[0], 60)
value = lambda x: 0.5 * jnp.sum((likelihood.operator(x) - y) ** 2) / 1e-4 + 30 * jnp.abs(x).sum()
steps = (1, 3, 10, 30, 100, 300)
solve = lambda method, n: value(method(likelihood, y, weight=30.0, max_steps=n, rtol=0.0).value)
least = solve(classical.fista, 2000)
gaps = {m.__name__.upper(): [float(solve(m, n) - least) for n in steps] for m in (classical.ista, classical.fista)}

# %%
figure = matplotlib.figure.Figure(figsize=(8, 2.8), layout="constrained")
left, right = figure.subplots(1, 2)
for name, values in {"1-norm": sparse, "2-norm": smooth}.items():
    left.plot(counts, jnp.median(values, 1), label=name)
    left.fill_between(counts, *jnp.quantile(values, jnp.array([0.1, 0.9]), axis=1), alpha=0.2)
left.set(xlabel="measurements of 100 numbers", ylabel="relative error", ylim=(0, 1.1))
left.legend()
for name, values in gaps.items():
    right.loglog(steps, values, marker="o", markersize=3, label=name)
right.set(xlabel="steps", ylabel="objective above its minimum")
right.legend()
plotting.show(figure, "sparse_recovery.png")
