import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv.models import UNet


def _make(shape, seed=0, **options):
    """A small network of drawn weights: with those that it starts from, the last layer and the use of time are zero."""
    options = {"widths": (4, 6), "embedding_size": 5, **options}
    network = jax.eval_shape(lambda: UNet(shape, rngs=nnx.Rngs(0), **options))
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(lambda leaf: jnp.asarray(draw(scale=0.3, size=leaf.shape).astype(leaf.dtype)), network)


def _inputs(shape, n=2):
    random = np.random.default_rng(2)
    x, t = random.normal(size=(n, *shape)), random.uniform(size=n)
    return jnp.asarray(x.astype(np.float32)), jnp.asarray(t.astype(np.float32))


_call = jax.jit(lambda network, x, t: network(x, t))


def test_size_and_start():
    network = jax.eval_shape(lambda: UNet((28, 28, 1), rngs=nnx.Rngs(0)))
    assert 0.2e6 < sum(leaf.size for leaf in jax.tree.leaves(network)) < 0.4e6
    shape = jax.eval_shape(_call, network, *_inputs((28, 28, 1)))
    assert (shape.shape, shape.dtype) == ((2, 28, 28, 1), jnp.float32)
    small = jax.jit(lambda: UNet((5, 4, 2), widths=(2,), embedding_size=3, rngs=nnx.Rngs(0)))()
    np.testing.assert_array_equal(_call(small, *_inputs((5, 4, 2))), 0.0)


@pytest.mark.parametrize("shape", [(7, 7, 1), (1, 4, 2)])
def test_any_size(shape):
    network = _make(shape)
    x, t = _inputs(shape)
    y = _call(network, x, t)
    assert y.shape == x.shape
    # Each image and its time stand alone. float32, entries of order 1.
    np.testing.assert_allclose(_call(network, x.at[0].set(2.0), t.at[0].set(0.9))[1:], y[1:], atol=1e-5)
    assert float(jnp.abs(_call(network, x, t[::-1]) - y).max()) > 1e-3


@pytest.mark.slow
def test_vmap_over_weights_is_a_loop():
    shape = (5, 4, 1)
    networks = [_make(shape, seed, widths=(3,), num_blocks=2) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
    x, t = _inputs(shape)

    def gradient(network, x, t):
        return jax.grad(lambda network: jnp.mean((network(x, t) - x) ** 2))(network)

    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)
        gradient = jax.jit(gradient)
        mapped = jax.jit(jax.vmap(gradient, (0, None, None)))(wide(stacked), wide(x), wide(t))
        for i, network in enumerate(networks):
            alone = gradient(wide(network), wide(x), wide(t))
            jax.tree.map(lambda m, a, i=i: np.testing.assert_allclose(m[i], a, rtol=1e-9, atol=1e-11), mapped, alone)


def test_bad_input():
    with pytest.raises(ValueError, match="num_blocks"):
        UNet((4, 4, 1), num_blocks=0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="embedding_size"):
        UNet((4, 4, 1), embedding_size=1.5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="widths"):
        UNet((4, 4, 1), widths=(4, 0), rngs=nnx.Rngs(0))
    network = _make((4, 4, 1), widths=(2,))
    x, t = _inputs((4, 4, 1))
    with pytest.raises(ValueError, match=r"x\[None\]"):
        network(x[0], t)
    with pytest.raises(ValueError, match="a time for each image"):
        network(x, t[0])
