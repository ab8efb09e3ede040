import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv.models import Mixer
from jaxinv.models._mixer import cut, join

SMALL = {"patch_size": 2, "width": 6, "num_blocks": 2, "token_width": 5, "channel_width": 7, "embedding_size": 4}


def _make(shape, seed=0, **options):
    """A small network of drawn weights: with those that it starts from, the last layer and the use of time are zero."""
    network = jax.eval_shape(lambda: Mixer(shape, rngs=nnx.Rngs(0), **{**SMALL, **options}))
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(lambda leaf: jnp.asarray(draw(scale=0.3, size=leaf.shape).astype(leaf.dtype)), network)


def _inputs(shape, n=2):
    random = np.random.default_rng(2)
    x, t = random.normal(size=(n, *shape)), random.uniform(size=n)
    return jnp.asarray(x.astype(np.float32)), jnp.asarray(t.astype(np.float32))


_call = jax.jit(lambda network, x, t: network(x, t))


def test_size_and_start():
    network = jax.eval_shape(lambda: Mixer((28, 28, 1), rngs=nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(network))
    # By hand: four blocks of two dense networks, two normalisations and a modulation; time, ends.
    block = (49 * 128 + 128 + 128 * 49 + 49) + (128 * 256 + 256 + 256 * 128 + 128) + 4 * 128 + (64 * 512 + 512)
    assert count == 4 * block + (64 * 64 + 64) + (16 * 128 + 128) + 2 * 128 + (128 * 16 + 16)
    shape = jax.eval_shape(_call, network, *_inputs((28, 28, 1)))
    assert (shape.shape, shape.dtype) == ((2, 28, 28, 1), jnp.float32)
    small = jax.jit(lambda: Mixer((5, 4, 2), rngs=nnx.Rngs(0), **{**SMALL, "num_blocks": 1}))()
    np.testing.assert_array_equal(_call(small, *_inputs((5, 4, 2))), 0.0)


@pytest.mark.parametrize(("shape", "patch_size"), [((1, 4, 3), 3), ((5, 3, 1), 2)])
def test_any_size(shape, patch_size):
    network = _make(shape, patch_size=patch_size)
    x, t = _inputs(shape)
    y = _call(network, x, t)
    assert y.shape == x.shape
    # Each image and its time stand alone. float32, entries of order 1.
    np.testing.assert_allclose(_call(network, x.at[0].set(2.0), t.at[0].set(0.9))[1:], y[1:], rtol=1e-4, atol=1e-4)
    assert float(jnp.abs(_call(network, x, t[::-1]) - y).max()) > 1e-3


def test_every_pixel_sees_every_other_one():
    network = _make((3, 3, 1), num_blocks=1)
    x, t = _inputs((3, 3, 1), n=1)
    assert bool(jnp.all(jax.jit(jax.jacobian(lambda network, x: network(x, t), argnums=1))(network, x) != 0))


@pytest.mark.parametrize(("shape", "size"), [((6, 4, 2), 2), ((5, 7, 1), 3), ((2, 2, 1), 4), ((3, 4, 2), 1)])
def test_patches(shape, size):
    x, _ = _inputs(shape, n=3)
    patches = cut(x, size)
    assert patches.shape == (3, -(-shape[0] // size), -(-shape[1] // size), size**2 * shape[2])
    np.testing.assert_array_equal(join(patches, shape), x)
    h, w = min(size, shape[0]), min(size, shape[1])
    first = np.zeros((3, size, size, shape[2]), np.float32)
    first[:, :h, :w] = x[:, :h, :w]
    np.testing.assert_array_equal(patches[:, 0, 0], first.reshape(3, -1))


@pytest.mark.slow
@pytest.mark.parametrize("over", ["weights", "inputs"])
def test_vmap_is_a_loop(over):
    shape = (5, 4, 1)
    networks = [_make(shape, seed, num_blocks=1) for seed in range(2)]
    x, t = _inputs(shape, n=4)

    def gradient(network, x, t):
        return jax.grad(lambda network: jnp.mean((network(x, t) - x) ** 2))(network)

    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)
        networks, x, t = [wide(network) for network in networks], wide(x), wide(t)
        gradient = jax.jit(gradient)
        if over == "weights":
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)
            mapped = jax.jit(jax.vmap(gradient, (0, None, None)))(stacked, x, t)
            alone = [gradient(network, x, t) for network in networks]
        else:
            halves = x.reshape(2, 2, *shape), t.reshape(2, 2)
            mapped = jax.jit(jax.vmap(gradient, (None, 0, 0)))(networks[0], *halves)
            alone = [gradient(networks[0], halves[0][i], halves[1][i]) for i in range(2)]
        for i, one in enumerate(alone):
            assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(one))
            # float64, sums of some dozens of terms of order 1.
            jax.tree.map(lambda m, a, i=i: np.testing.assert_allclose(m[i], a, rtol=1e-9, atol=1e-11), mapped, one)


def test_bad_input():
    for name in SMALL:
        with pytest.raises(ValueError, match=f"`{name}`.*at least 1; got 0"):
            Mixer((4, 4, 1), rngs=nnx.Rngs(0), **{**SMALL, name: 0})
    network = _make((4, 4, 1))
    x, t = _inputs((4, 4, 1))
    with pytest.raises(ValueError, match=r"x\[None\]"):
        network(x[0], t)
    with pytest.raises(ValueError, match="Mixer expects a time for each image"):
        network(x, t[0])
