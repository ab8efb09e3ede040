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
# # Unrolled networks, and back-propagation as an adjoint equation
#
# An iterative method is a network whose layers are its steps: all the same, and with a few numbers that were chosen by
# theory. *Unrolling* (Gregor, LeCun, 2010) keeps the structure, a small number of steps, and learns the numbers. Then
# we look at how a layered network is differentiated: by adjoint states, as any evolution equation.

# %%
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxinv
from jaxinv import classical, data, metrics, models, noise, operators, plotting, training, unrolled

key = jax.random.key(0)
FULL = "--full" in sys.argv  # or True in a notebook: a longer training, wider networks, all test images

# %% [markdown]
# ## ISTA, and what it becomes
#
# A sparse vector of 100 entries, ten of them on average not zero, from 50 measurements without noise. Iterative
# shrinkage-thresholding for $\tfrac12\|Ax-y\|^2 + w\|x\|_1$ is
# $$x_{k+1} = S_\theta\big(x_k + \tfrac1{L}A^T(y - A x_k)\big), \qquad \theta = w / L,\ L = \|A\|^2,$$
# and FISTA adds a momentum.


# %%
def sparse(n, seed):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(n, 100)) * (rng.uniform(size=(n, 100)) < 0.1), jnp.float32)


matrix = np.random.default_rng(0).normal(size=(50, 100))
operator = operators.Matrix((matrix / np.linalg.norm(matrix, axis=0)).astype(np.float32), (100,))
x = sparse(500, 1)
y = jax.vmap(operator)(x)


def decibels(estimate):
    """The squared error, relative to the truth."""
    return float(10 * jnp.log10(jnp.sum((estimate - x) ** 2) / jnp.sum(x**2)))


likelihood = jaxinv.Likelihood(operator, noise.Gaussian(1.0))
for method in (classical.ista, classical.fista):
    for steps in (16, 160):
        solve = lambda y, method=method, steps=steps: (
            method(likelihood, y, weight=0.02, rtol=0.0, max_steps=steps).value
        )
        print(f"{method.__name__:>5}, {steps:>3} steps: {decibels(jax.vmap(solve)(y)):6.2f} dB")

# %% [markdown]
# `models.LISTA` begins as 16 steps of ISTA, to rounding. What is learned: the matrix $W$ in place of $A / L$ (here one
# for all layers), and for each layer the threshold, the slope of the shrinkage beyond it, and a momentum.

# %%
network = models.LISTA(operator, 16, tied=True, weight=0.02)
ista = jax.vmap(lambda y: classical.ista(likelihood, y, weight=0.02, rtol=0.0, max_steps=16).value)(y)
print("untrained, difference to ISTA:", float(jnp.abs(network(y) - ista).max()))
many = sparse(50_000, 2)
network, history = unrolled.train_lista(
    network, many, jax.vmap(operator)(many), key=key, num_steps=1500 if FULL else 750, batch_size=64
)
print(f"trained for {history['seconds']:.0f} s: {decibels(network(y)):.2f} dB")
iterates = network.iterates(y)
print("after each layer:", [round(decibels(z), 1) for z in iterates])
print("thresholds:", np.round(network.thresholds[...], 3))
print("momenta:", np.round(network.momenta[...], 2))

# %% [markdown]
# The thresholds fall from layer to layer: noise of the early iterates is cut off, late ones are nearly left alone.
#
# ## Adjoint states
#
# A network is an evolution in discrete time, $z_{k+1} = f_k(\theta_k, z_k)$, and its last state is compared with the
# data: $J = \tfrac12 \|z_K - x\|^2$. Minimising $J$ under the constraints that the layers are, with multipliers
# $p_{k+1}$, Lagrange's conditions are the adjoint equation and the gradients:
# $$p_K = z_K - x, \qquad p_k = \Big(\frac{\partial f_k}{\partial z_k}\Big)^{\!*} p_{k+1}, \qquad
# \frac{\partial J}{\partial \theta_k} = \Big(\frac{\partial f_k}{\partial \theta_k}\Big)^{\!*} p_{k+1}.$$
# The states run forwards, the adjoint states backwards from the data residual: that is back-propagation.
#
# The layers of LISTA have a state of two vectors, $(x_k, x_{k-1})$, because of the momentum. The parameters of layer
# $k$ are its threshold and the (shared) weights, which here we let each layer have for itself.

# %%
one = slice(2, 3)
measurement, truth = network.factor[...] * y[one], x[one]


def layer(k):
    def f(theta, state):
        changed = jax.tree.map(lambda leaf: leaf, network)
        changed.weights[...] = theta["weights"][None]
        changed.thresholds[...] = changed.thresholds[...].at[k].set(theta["threshold"])
        return changed.layer(k, state, measurement)

    return f


layers = [layer(k) for k in range(16)]
parameters = [{"weights": network.weights[0], "threshold": network.thresholds[k]} for k in range(16)]
start = (jnp.zeros_like(truth), jnp.zeros_like(truth))
# The residual is that of the last image; the one before it plays no part in the loss.
run = unrolled.adjoint_states(layers, parameters, start, lambda z: (z[0] - truth, jnp.zeros_like(truth)))

# %% [markdown]
# The same numbers as those of `jax.grad` of the loss: the gradient in the shared weights is the sum over the layers.


# %%
def loss(network):
    return 0.5 * jnp.sum((network(y[one]) - truth) ** 2)


gradient = jax.jit(jax.grad(loss))(network)
ours = sum(g["weights"] for g in run.gradients)
print("weights:   ", float(jnp.abs(ours - gradient.weights[0]).max() / jnp.abs(ours).max()))
ours = jnp.stack([g["threshold"] for g in run.gradients])
print("thresholds:", float(jnp.abs(ours - gradient.thresholds[...]).max() / jnp.abs(ours).max()))
states, adjoints = ([z[0][0] for z in part] for part in (run.states, run.adjoints))
plotting.show(
    plotting.adjoint_states(states, adjoints, gradients=run.gradients, heading="LISTA, one measurement"),
    "adjoint_states_lista.png",
)

# %% [markdown]
# ## Imaging: learned gradient and learned primal-dual
#
# For images the proximal map is not known, so it is learned too: a small convolutional network in each step. The
# *learned gradient* method (Adler, Oktem, 2017) sees image and gradient of the misfit, and hands a memory on to the
# next layer; the *learned primal-dual* method (2018) also works on the measurements. Handwritten digits from ten noisy
# X-ray projections, as in the notebook on the learned SVD. Both see new noise in every step of their training. TV has
# the best of four weights.

# %%
images = jax.random.permutation(key, jnp.asarray(data.digits(size=16)[0]))
train, test = images[:1500], images[1500:] if FULL else images[1500:1600]
scanner = operators.materialise(
    operators.ParallelBeam((16, 16, 1), jnp.linspace(0, jnp.pi, 10, endpoint=False), num_detectors=23)
)
scanner = operators.materialise(scanner / operators.norm(scanner, key=key))
likelihood = jaxinv.Likelihood(scanner, noise.Gaussian(0.1))
keys = jax.random.split(jax.random.key(1), len(test))
sinograms = jax.jit(jax.vmap(lambda x, k: likelihood.simulate(x, key=k)))(test, keys)


def quality(reconstructions):
    """The mean PSNR on the test images, clipped to [0, 1]."""
    return float(jax.vmap(metrics.psnr)(jnp.clip(reconstructions, 0, 1), test).mean())


tv = lambda y, weight: classical.tv(likelihood, y, weight=weight, max_steps=300).value
by_weight = jax.vmap(jax.vmap(tv, (0, None)), (None, 0))(sinograms, jnp.array([1.0, 3.0, 10.0, 30.0]))
columns = {"TV": max(by_weight, key=quality)}
apply = jax.jit(lambda network, y: network(y))
trained = {}
for kind, rate in ((models.LearnedGradient, 1e-2), (models.LearnedPrimalDual, 5e-3)):
    network = kind(scanner, num_layers=4, width=16 if FULL else 8, rngs=nnx.Rngs(0))
    trained[kind.__name__], history = training.fit(
        network,
        unrolled.SimulatedLoss(likelihood),
        train,
        key=key,
        num_steps=200,
        batch_size=32,
        learning_rate=rate,
        ema=0.98,
    )
    columns[kind.__name__] = apply(trained[kind.__name__], sinograms)
    print(f"{kind.__name__}: trained for {history['seconds']:.0f} s")
for name, reconstructions in columns.items():
    print(f"{name:>18}: {quality(reconstructions):.2f} dB")
shown = {name: reconstructions[:3] for name, reconstructions in columns.items()}
plotting.show(plotting.compare(shown, reference=test[:3]), "unrolled_networks.png")

# %% [markdown]
# The adjoint states of the learned gradient network are images: which change of each iterate would have served the
# result. The parameters of a layer are the weights of its network.

# %%
network = trained["LearnedGradient"]
measurement = network.operator.get_value().factor * sinograms[:1]
graphs, parameters = zip(*(nnx.split(block) for block in network.blocks), strict=True)


def step(k):
    def f(theta, state):
        changed = jax.tree.map(lambda leaf: leaf, network)
        changed.blocks[k] = nnx.merge(graphs[k], theta)
        return changed.layer(k, state, measurement)

    return f


start = (jnp.zeros_like(test[:1]), jnp.zeros((1, 16, 16, network.memory)))
run = unrolled.adjoint_states(
    [step(k) for k in range(4)], list(parameters), start, lambda z: (z[0] - test[:1], jnp.zeros_like(z[1]))
)
states, adjoints = ([z[0][0] for z in part] for part in (run.states, run.adjoints))
plotting.show(
    plotting.adjoint_states(states, adjoints, gradients=run.gradients, heading="Learned gradient, one measurement"),
    "adjoint_states_learned_gradient.png",
)
