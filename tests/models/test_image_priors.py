"""The networks of the deep image prior, `network(z0)`: a table of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv.models import Bilinear, ConvDecoder, DeepDecoder, Nearest, SkipUNet
from jaxinv.models._convolutional import growing_sizes

# The network, small sizes of it, and how many weights it has by default at 28 x 28.
TABLE = {
    "skip": (SkipUNet, {"scales": 2, "channels": (2, 4), "skip_channels": (0, 2)}, 143_081),
    "convolutions": (ConvDecoder, {"layers": 3, "channels": 3}, 259_457),
    "deep decoder": (DeepDecoder, {"layers": 2, "channels": 4}, 16_961),
}
networks = pytest.mark.parametrize(("kind", "options", "size"), TABLE.values(), ids=TABLE)


def _make(kind, shape, seed=0, **options):
    """A network of drawn weights, without the time that its initialisers take."""
    network = jax.eval_shape(lambda: kind(shape, rngs=nnx.Rngs(0), **options))
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(lambda leaf: jnp.asarray(draw(scale=0.5, size=leaf.shape).astype(leaf.dtype)), network)


@jax.jit
def _call(network, z0):
    return network(z0)


@networks
def test_any_size(kind, options, size):
    default = jax.eval_shape(lambda: kind((28, 28, 1), rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(default)) == size
    network = _make(kind, (7, 5, 2), **options)
    z0 = jnp.asarray(np.random.default_rng(1).normal(size=(3, *network.input_shape)).astype(np.float32))
    x = _call(network, z0)
    assert x.shape == (3, 7, 5, 2)
    # No statistic over the batch: each image stands alone. float32, entries of order 1.
    np.testing.assert_allclose(_call(network, z0.at[0].set(2.0))[1:], x[1:], atol=1e-5)
    assert float(jnp.std(x)) > 1e-2
    tiny = jax.eval_shape(lambda: kind((1, 3, 1), rngs=nnx.Rngs(0), **options))
    assert jax.eval_shape(_call, tiny, jnp.ones((1, *tiny.input_shape))).shape == (1, 1, 3, 1)


@pytest.mark.parametrize(
    ("kind", "options", "size"),
    # The skip network has nothing that the two others do not have, and takes three times as long to compile.
    [pytest.param(*TABLE[name], marks=[pytest.mark.slow] if name == "skip" else []) for name in TABLE],
    ids=TABLE,
)
def test_vmap_over_weights_is_a_loop(kind, options, size):
    del size
    shape = (6, 5, 1)
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)
        each = [wide(_make(kind, shape, seed, **options)) for seed in range(2)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
        z0 = jax.random.normal(jax.random.key(0), (1, *each[0].input_shape))

        @jax.jit
        def gradient(network):
            return jax.grad(lambda network: jnp.sum(network(z0) ** 2))(network)

        mapped = jax.jit(jax.vmap(gradient))(stacked)
        for i, network in enumerate(each):
            jax.tree.map(
                lambda m, a, i=i: np.testing.assert_allclose(m[i], a, rtol=1e-9, atol=1e-9), mapped, gradient(network)
            )
        # Its derivative along a direction, by central differences: error of order step^2.
        value = jax.jit(lambda network: jnp.sum(network(z0) ** 2))
        moved = lambda step: jax.tree.map(lambda w, d: w + step * d, *each)
        difference = (value(moved(1e-6)) - value(moved(-1e-6))) / 2e-6
        slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradient(each[0]), each[1])))
        np.testing.assert_allclose(slope, difference, rtol=1e-6)


def test_upsampling():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(Nearest()(x, (3, 3))[0, :, :, 0], np.array(x[0, [0, 0, 1], :, 0]))
    for size in ((4, 6), (5, 7)):
        # jax.image has the same convention, of half a pixel.
        expected = jax.image.resize(x, (1, *size, 1), "bilinear")
        np.testing.assert_allclose(Bilinear()(x, size), expected, atol=1e-6)
    assert growing_sizes((4, 4), (64, 100), 6)[-1] == (64, 100)
    assert [a for a, _ in growing_sizes((4, 4), (64, 100), 6)] == [7, 11, 16, 26, 41, 64]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: SkipUNet((8, 8), rngs=nnx.Rngs(0)), "channels"),
        (lambda: SkipUNet((8, 8, 1), scales=0, rngs=nnx.Rngs(0)), "scales"),
        (lambda: SkipUNet((8, 8, 1), channels=(4, 4), rngs=nnx.Rngs(0)), "5 scales"),
        (lambda: SkipUNet((8, 8, 1), skip_channels=-1, rngs=nnx.Rngs(0)), "skip_channels"),
        (lambda: SkipUNet((8, 8, 1), input_shape=(4, 4, 1), rngs=nnx.Rngs(0)), r"\(8, 8\).*\(4, 4, 1\)"),
        (lambda: SkipUNet((8, 8, 1), upsampling="nearest", rngs=nnx.Rngs(0)), r"Nearest\(\)"),
        (lambda: ConvDecoder((8, 8, 1), layers=1, rngs=nnx.Rngs(0)), "at least 2"),
        (lambda: ConvDecoder((8, 8, 1), input_shape=(9, 4, 2), rngs=nnx.Rngs(0)), "enlarges"),
        (lambda: DeepDecoder((8, 8, 1), channels=0, rngs=nnx.Rngs(0)), "channels"),
        (lambda: DeepDecoder((8, 8, 1), rngs=0), "nnx.Rngs"),
        (lambda: DeepDecoder((8, 8, 1), channels=2, rngs=nnx.Rngs(0))(jnp.ones((4, 4, 2))), "batch axis"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
