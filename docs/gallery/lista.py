# %% [markdown]
# # Sixteen steps, learned
#
# LISTA begins as 16 steps of ISTA. After training on sparse vectors its thresholds, slopes and momenta, one of each a
# layer, take it to a fiftieth of the error of as many steps of FISTA.

# %%
import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

import jaxinv
from jaxinv import classical, models, noise, operators, plotting, unrolled

rng = np.random.default_rng(0)
sparse = lambda n: jnp.asarray(rng.normal(size=(n, 60)) * (rng.uniform(size=(n, 60)) < 0.1), jnp.float32)
matrix = rng.normal(size=(30, 60))
operator = operators.Matrix((matrix / np.linalg.norm(matrix, axis=0)).astype(np.float32), (60,))
likelihood = jaxinv.Likelihood(operator, noise.Gaussian(1.0))  # 1/2 |A x - y|^2
x, lessons = sparse(300), sparse(20_000)
y = jax.vmap(operator)(x)
decibels = lambda estimate: float(10 * jnp.log10(jnp.sum((estimate - x) ** 2) / jnp.sum(x**2)))

start = models.LISTA(operator, 16, tied=True, weight=0.02)
learned, history = unrolled.train_lista(
    start, lessons, jax.vmap(operator)(lessons), key=jax.random.key(0), num_steps=500, batch_size=64
)
curves = {
    name: [decibels(z) for z in network.iterates(y)] for name, network in {"ISTA": start, "LISTA": learned}.items()
}


@jax.jit
@jax.vmap
def fista(y):
    return classical.fista(likelihood, y, weight=0.02, rtol=0.0, max_steps=16).value


curves["FISTA, 16 steps"] = [decibels(fista(y))] * len(curves["ISTA"])

# %%
figure = matplotlib.figure.Figure(figsize=(8, 2.8), layout="constrained")
left, right = figure.subplots(1, 2)
for name, values in curves.items():
    left.plot(values, "--" if "FISTA" in name else "o-", markersize=3, label=name)
left.set(xlabel="layer", ylabel="squared error (dB)")
left.legend()
right.plot(learned.thresholds[...], "o-", markersize=3, label="thresholds")
right.plot(learned.momenta[...], "o-", markersize=3, label="momenta")
right.set(xlabel="layer")
right.legend()
plotting.show(figure, "lista.png")
