"""Generators, critics, and the trunks of all encoders and decoders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv.models import VAE, Autoencoder, Convolutional, Critic, Dense, Generator

SHAPE = (6, 5, 1)
TRUNKS = {"dense": Dense((8, 7)), "convolutional": Convolutional((3, 4))}
trunks = pytest.mark.parametrize("trunk", TRUNKS.values(), ids=TRUNKS)


def _drawn(make, seed=0):
    """A network of drawn weights, without the time that its initialisers take."""
    draw = np.random.default_rng(seed).normal
    size = lambda leaf: leaf.shape[-1] ** 0.5 if leaf.ndim > 1 else 3.0
    return jax.tree.map(
        lambda leaf: jnp.asarray(draw(scale=1 / size(leaf), size=leaf.shape).astype(leaf.dtype)), jax.eval_shape(make)
    )


def _generator(seed=0, **options):
    return _drawn(lambda: Generator(SHAPE, 3, rngs=nnx.Rngs(0), **options), seed)


def _critic(seed=0, **options):
    return _drawn(lambda: Critic(SHAPE, rngs=nnx.Rngs(0), **options), seed)


@jax.jit
def _call(network, x):
    return network(x)


def _size(make):
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(make)))


@trunks
def test_shapes_and_range(trunk):
    z = (1e3 * np.random.default_rng(1).normal(size=(4, 3))).astype(np.float32)
    x = _call(_generator(trunk=trunk), z)
    assert x.shape == (4, *SHAPE)
    assert bool(jnp.all((x >= 0) & (x <= 1)))
    critic = _critic(trunk=trunk)
    logits = _call(critic, x)
    assert logits.shape == (4,)
    # No statistic over the batch: each image stands alone. float32, entries of order 1.
    np.testing.assert_allclose(_call(critic, x.at[0].set(2.0))[1:], logits[1:], atol=1e-5)
    assert jax.eval_shape(_call, critic, x[:0]).shape == (0,)


@pytest.mark.parametrize(("kind", "shape"), [(Autoencoder, (7, 1, 2)), (VAE, SHAPE)])
def test_convolutional_autoencoders(kind, shape):
    """Any size of image: halved rounding up, doubled and cut."""
    model = _drawn(lambda: kind(shape, 3, trunk=Convolutional((2, 3, 4)), rngs=nnx.Rngs(0)))

    @jax.jit
    def both(model, x):
        z = model.encode(x)
        return z, model.decode(z if kind is Autoencoder else z[0])

    z, decoded = both(model, np.random.default_rng(0).uniform(size=(2, *shape)).astype(np.float32))
    assert jax.tree.map(jnp.shape, z) == ((2, 3) if kind is Autoencoder else ((2, 3), (2, 3)))
    assert decoded.shape == (2, *shape)
    assert np.all(np.isfinite(decoded))


def test_sizes():
    """The numbers of weights that the docstrings state, and `widths` as a short form."""
    shape, thin, rngs = (28, 28, 1), Convolutional(), lambda: nnx.Rngs(0)
    assert 0.53e6 < _size(lambda: Generator(shape, 8, rngs=rngs())) < 0.55e6
    assert 0.52e6 < _size(lambda: Critic(shape, rngs=rngs())) < 0.54e6
    for kind, options, thousands in (
        (Generator, {"latent_size": 8}, 33),
        (Critic, {}, 10),
        (Autoencoder, {"latent_size": 8}, 54),
        (VAE, {"latent_size": 8}, 67),
    ):
        make = lambda kind=kind, options=options: kind(shape, trunk=thin, rngs=rngs(), **options)
        assert round(_size(make) / 1000) == thousands, kind.__name__
    short, long = _generator(widths=(8, 7)), _generator(trunk=Dense((8, 7)))
    jax.tree.map(np.testing.assert_array_equal, short, long)


def test_vmap_over_weights_is_a_loop():
    trunk = TRUNKS["convolutional"]
    each = [_generator(seed, trunk=trunk) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    z = np.random.default_rng(2).normal(size=(2, 4, 3)).astype(np.float32)
    mapped = jax.jit(jax.vmap(_call))(stacked, z)
    for i in range(2):
        alone = _call(each[i], z[i])
        # float32, sums of at most 64 terms of order 1.
        np.testing.assert_allclose(mapped[i], alone, atol=1e-5)


@pytest.mark.slow
def test_float64_gradient_of_a_gradient():
    """What gradient penalties need: the derivative in the weights of the critic's gradient in the image."""
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)
        critic, direction = (
            wide(_critic(seed, trunk=Convolutional((2, 3)), activation=jax.nn.silu)) for seed in range(2)
        )
        x = jax.random.uniform(jax.random.key(0), (2, *SHAPE))

        @jax.jit
        def penalty(critic):
            return jnp.sum(jax.grad(lambda x: jnp.sum(critic(x)))(x) ** 2)

        assert penalty(critic).dtype == jnp.float64
        moved = lambda step: jax.tree.map(lambda w, d: w + step * d, critic, direction)
        difference = (penalty(moved(1e-5)) - penalty(moved(-1e-5))) / 2e-5
        slope = jax.tree.map(lambda g, d: jnp.sum(g * d), jax.jit(jax.grad(penalty))(critic), direction)
        # Central differences: error of order step^2.
        np.testing.assert_allclose(sum(jax.tree.leaves(slope)), difference, rtol=1e-7)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: _generator()(jnp.ones(3)), r"add the batch axis"),
        (lambda: _generator()(jnp.ones((2, 4))), r"\(n, 3\); got \(2, 4\)"),
        (lambda: _critic()(jnp.ones(SHAPE)), r"add the batch axis"),
        (lambda: _critic()(np.ones((4, *SHAPE), np.uint8)), "uint8"),
        (lambda: Generator((28, 28), 8, rngs=nnx.Rngs(0)), "channels"),
        (lambda: Generator(SHAPE, 0, rngs=nnx.Rngs(0)), "latent_size"),
        (lambda: Critic(SHAPE, rngs=0), "nnx.Rngs"),
        (lambda: _critic(widths=(0,)), "widths"),
        (lambda: _critic(trunk=Dense(), widths=(3,)), "with one, give it its sizes"),
        (lambda: _critic(trunk="convolutional"), "`trunk` must be"),
        (lambda: Convolutional((4, 0)), "channels"),
        (lambda: Autoencoder(SHAPE, 3, trunk=Dense, rngs=nnx.Rngs(0)), "`trunk` must be"),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
