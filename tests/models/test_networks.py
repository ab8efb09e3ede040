import functools
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv import noise
from jaxinv.models import VAE, Autoencoder, Bernoulli, Gaussian

SHAPE = (6, 5, 1)
KINDS = [Autoencoder, VAE]


@functools.cache
def _make(kind, seed=0):
    """A network of drawn weights, without the time that its initialisers take."""
    draw = np.random.default_rng(seed).normal
    size = lambda leaf: leaf.shape[0] ** 0.5 if leaf.ndim > 1 else 3.0
    return jax.tree.map(
        lambda leaf: jnp.asarray(draw(scale=1 / size(leaf), size=leaf.shape).astype(leaf.dtype)),
        jax.eval_shape(lambda: kind(SHAPE, 3, widths=(8, 7), rngs=nnx.Rngs(0))),
    )


@jax.jit
def _both(model, x, z):
    return model.encode(x), model.decode(z)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_range(kind):
    model = _make(kind)
    random = np.random.default_rng(0)
    x, far = random.uniform(size=(4, *SHAPE)), 1e3 * random.normal(size=(4, 3))
    z, decoded = _both(model, x.astype(np.float32), far.astype(np.float32))
    assert jax.tree.map(jnp.shape, z) == ((4, 3) if kind is Autoencoder else ((4, 3), (4, 3)))
    assert decoded.shape == x.shape
    assert np.all((decoded >= 0) & (decoded <= 1))


def test_size():
    model = jax.eval_shape(lambda: Autoencoder((28, 28, 1), 8, rngs=nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(model))
    assert 1.06e6 < count < 1.08e6


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_over_weights_is_a_loop(kind):
    each, random = [_make(kind, seed) for seed in range(3)], np.random.default_rng(1)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    x, z = (a.astype(np.float32) for a in (random.uniform(size=(3, 4, *SHAPE)), random.normal(size=(3, 4, 3))))
    mapped = jax.jit(jax.vmap(_both))(stacked, x, z)
    for i in range(3):
        alone = _both(each[i], x[i], z[i])
        # float32, sums of at most 30 terms of order 1.
        jax.tree.map(lambda m, a, i=i: np.testing.assert_allclose(m[i], a, atol=1e-5), mapped, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_float64_gradient(kind):
    with jax.enable_x64(True):
        model = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), _make(kind))
        z, v = np.random.default_rng(0).normal(size=(2, 1, 3))
        value = jax.jit(jax.value_and_grad(lambda z: jnp.sum(model.decode(z) ** 2)))
        assert value(z)[0].dtype == jnp.float64
        step = 1e-5
        difference = (value(z + step * v)[0] - value(z - step * v)[0]) / (2 * step)
        # Central differences: error of order step^2.
        np.testing.assert_allclose(np.sum(value(z)[1] * v), difference, rtol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda model: model.encode(jnp.ones(SHAPE)), r"add the batch axis: `x\[None\]`"),
        (lambda model: model.encode(jnp.ones((4, 6, 5))), r"add the channel axis"),
        (lambda model: model.encode(jnp.ones((4, 5, 6, 1))), r"\(n, 6, 5, 1\); got \(4, 5, 6, 1\)"),
        (lambda model: model.encode(np.ones((4, *SHAPE), np.uint8)), "uint8"),
        (lambda model: model.decode(jnp.ones(3)), r"add the batch axis"),
        (lambda model: model.decode(jnp.ones((2, 4))), r"\(n, 3\); got \(2, 4\)"),
    ],
)
def test_wrong_input(kind, call, match):
    with pytest.raises(ValueError, match=match):
        call(_make(kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("args", "options", "match"),
    [
        (((28, 28), 8), {}, "channels"),
        (((28, 0, 1), 8), {}, "positive"),
        (((28, 28, 1), 0), {}, "latent_size"),
        (((28, 28, 1), 8.0), {}, "latent_size"),
        (((28, 28, 1), 8), {"widths": (0,)}, "widths"),
        (((28, 28, 1), 8), {"rngs": jax.random.key(0)}, "nnx.Rngs"),
    ],
)
def test_wrong_sizes(kind, args, options, match):
    with pytest.raises(ValueError, match=match):
        kind(*args, **{"rngs": nnx.Rngs(0), **options})


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf, "one"])
def test_wrong_std(std):
    with pytest.raises(ValueError, match="`std`"):
        Gaussian(std)


def test_likelihoods_are_normalised():
    # One pixel: the Gaussian integrates to 1 over the line, the Bernoulli sums to 1 over {0, 1}.
    logits = jnp.array([0.7])
    x = jnp.linspace(-3, 4, 2001)[:, None]
    density = jnp.exp(-jax.vmap(Gaussian(0.3).negative_log_likelihood, (0, None))(x, logits))
    np.testing.assert_allclose(jnp.trapezoid(density, x[:, 0]), 1, rtol=1e-5)
    bernoulli = Bernoulli()
    total = sum(jnp.exp(-bernoulli.negative_log_likelihood(jnp.array([v]), logits)) for v in (0.0, 1.0))
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    extreme = bernoulli.negative_log_likelihood(jnp.array([0.0, 1.0]), jnp.array([1e4, -1e4]))
    np.testing.assert_allclose(extreme, 2e4)


@pytest.mark.slow
def test_without_the_graph_mode_of_nnx():
    code = """
import jax, jax.numpy as jnp
from flax import nnx
from jaxinv.models import VAE
model = jax.vmap(lambda key: VAE((4, 4, 1), 2, widths=(3,), rngs=nnx.Rngs(key)))(jax.random.split(jax.random.key(0), 2))
x = jnp.ones((2, 5, 4, 4, 1))
loss = lambda model: jnp.sum(jax.vmap(lambda model, x: model.decode(model.encode(x)[0]))(model, x))
gradient = jax.jit(jax.grad(loss))(model)
_, sums = jax.lax.scan(lambda m, _: (jax.tree.map(lambda w: 0.9 * w, m), loss(m)), model, None, length=2)
assert isinstance(gradient, VAE) and sums.shape == (2,)
"""
    environment = {**os.environ, "NNX_GRAPH_MODE": "false"}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=environment, timeout=120)


@pytest.mark.parametrize("likelihood", ["gaussian", noise.Gaussian(0.1)])
def test_wrong_likelihood(likelihood):
    with pytest.raises(ValueError, match=r"`models.Gaussian\(std\)`"):
        VAE((4, 4, 1), 2, likelihood=likelihood, rngs=nnx.Rngs(0))
