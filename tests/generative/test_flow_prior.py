import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxinv
from jaxinv import Likelihood, classical, noise, operators, oracles
from jaxinv.generative import FlowPrior, FromEncoder, flow_loss, reconstruct
from jaxinv.metrics import bits_per_dim
from jaxinv.models import Dense, Flow

SHAPE = (4, 3, 1)
SIZE = 12
IMAGES = jax.random.randint(jax.random.key(9), (20, *SHAPE), 0, 256) / 255


class _Uniform:
    """The uniform density on the unit cube."""

    def forward(self, x):
        z = jax.scipy.special.ndtri(x).reshape(x.shape[0], -1)
        return z, -jnp.sum(jax.scipy.stats.norm.logpdf(z), axis=1)

    def inverse(self, z):
        return jax.scipy.special.ndtr(z).reshape(-1, *SHAPE)


class _Scaled(eqx.Module):
    """A flow of equinox, with a function among its leaves."""

    log_scale: jax.Array
    image_shape: tuple = eqx.field(static=True, default=SHAPE)
    function: object = jnp.exp

    def forward(self, x):
        z = (x * self.function(self.log_scale)).reshape(x.shape[0], -1)
        return z, jnp.full(len(x), SIZE * self.log_scale)

    def inverse(self, z):
        return z.reshape(-1, *SHAPE) / self.function(self.log_scale)


class _Linen(nn.Module):
    def setup(self):
        self.shift = self.param("shift", nn.initializers.ones, (SIZE,))

    def forward(self, x):
        return x.reshape(x.shape[0], -1) + self.shift[None], jnp.zeros(len(x))

    def inverse(self, z):
        return (z - self.shift[None]).reshape(-1, *SHAPE)


def _linear(seed=0, dtype=jnp.float32, **options):
    """A flow that is affine, because only the biases of its last layers are not zero."""
    flow = Flow(SHAPE, trunk=Dense((5,)), num_couplings=2, alpha=None, rngs=nnx.Rngs(seed), **options)
    for i, coupling in enumerate(flow.couplings):
        bias = coupling.network.last.bias
        bias[...] = 0.5 * jax.random.normal(jax.random.key(i), bias.shape, bias.dtype)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), flow)


def _flow(seed=0):
    flow = jax.eval_shape(lambda: Flow(SHAPE, trunk=Dense((5,)), num_couplings=2, rngs=nnx.Rngs(0)))
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(lambda leaf: jnp.asarray(draw(scale=0.3, size=leaf.shape), leaf.dtype), flow)


CASES = {
    "flow": lambda: FlowPrior(_flow()),
    "linear": lambda: FlowPrior(_linear()),
    "plain": lambda: FlowPrior(_Uniform(), image_shape=SHAPE),
    "equinox": lambda: FlowPrior(_Scaled(jnp.array(0.3))),
    "linen": lambda: FlowPrior(
        _Linen().bind(_Linen().init(jax.random.key(0), IMAGES, method="forward")), image_shape=SHAPE
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_contract(name):
    prior = CASES[name]()
    assert (prior.latent_shape, prior.image_shape) == ((SIZE,), SHAPE)
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(prior))
    x = 0.05 + 0.9 * IMAGES[:3]

    @jax.jit
    def run(prior, x):
        encode = lambda x: (prior.encode(x), prior.log_prob(x))
        z, log_prob = jax.vmap(encode)(x)
        # The density by its definition, with the whole derivative.
        jacobians = jax.vmap(jax.jacfwd(prior.encode))(x).reshape(-1, SIZE, SIZE)
        energies = jax.vmap(prior.energy)(z)
        expected = jnp.linalg.slogdet(jacobians)[1] - energies - SIZE / 2 * np.log(2 * np.pi)
        return jax.vmap(prior.decode)(z), log_prob, expected, energies, z

    decoded, log_prob, expected, energies, z = run(prior, x)
    # float32, sums of 12 terms of order 1.
    np.testing.assert_allclose(decoded, x, atol=1e-5)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(energies, 0.5 * jnp.sum(z**2, axis=1), rtol=1e-6)
    draws = jax.vmap(lambda key: prior.sample_latent(key=key))(jax.random.split(jax.random.key(1), 2000))
    assert (draws.shape, draws.dtype) == ((2000, SIZE), jnp.float32)
    # The mean of the energy of a standard normal is d / 2; five standard errors, sqrt(d / 2 / 2000) each.
    np.testing.assert_allclose(jnp.mean(jax.vmap(prior.energy)(draws)), SIZE / 2, atol=5 * np.sqrt(SIZE / 4000))


def test_bits_per_dimension():
    # The uniform density has 8 bits, as an image has that says nothing.
    loss = flow_loss(_Uniform(), IMAGES, key=jax.random.key(0))
    np.testing.assert_allclose(bits_per_dim(loss, SHAPE), 8, atol=1e-4)
    # In [-1, 1] it is 2^-d.
    np.testing.assert_allclose(bits_per_dim(SIZE * np.log(2), SIZE, data_range=2), 8, rtol=1e-6)
    np.testing.assert_allclose(bits_per_dim(0.0, SIZE, levels=17), np.log2(17), rtol=1e-6)
    for call in (
        lambda: bits_per_dim(1.0, 0),
        lambda: bits_per_dim(1.0, 2.0),
        lambda: bits_per_dim(1.0, SHAPE, data_range=0),
        lambda: bits_per_dim(1.0, SHAPE, levels=0),
    ):
        with pytest.raises(ValueError, match="got"):
            call()


def test_flow_loss():
    key, flow = jax.random.key(3), _flow()
    prior = FlowPrior(flow)
    grey = np.round(255 * np.asarray(IMAGES))
    x = (grey + np.asarray(jax.random.uniform(key, IMAGES.shape))) / 256
    expected = -np.mean(jax.jit(jax.vmap(prior.log_prob))(x))
    np.testing.assert_allclose(flow_loss(flow, IMAGES, key=key), expected, rtol=1e-5)


@pytest.mark.slow
def test_training_learns_a_density():
    # Images of one grey value each, from 40 to 215: independent pixels have log2(176) = 7.46 bits, these hardly any.
    images = jnp.broadcast_to(jax.random.randint(jax.random.key(0), (256, 1, 1, 1), 40, 216) / 255, (256, *SHAPE))
    flow = Flow(SHAPE, trunk=Dense((16,)), num_couplings=2, rngs=nnx.Rngs(0))
    flow, history = jaxinv.training.fit(
        flow, flow_loss, images, key=jax.random.key(1), learning_rate=1e-2, num_steps=150, batch_size=64
    )
    bits = bits_per_dim(history["loss"], SHAPE)
    assert bits[0] > 7.4
    assert np.log2(176) / SIZE < np.mean(bits[-20:]) < 6.5


@pytest.mark.slow
def test_reconstruct_with_an_affine_flow_is_the_gaussian_posterior():
    with jax.enable_x64(True):
        prior = FlowPrior(_linear(dtype=jnp.float64))
        operator = operators.Matrix(np.random.default_rng(0).normal(size=(5, SIZE)), SHAPE)
        likelihood = Likelihood(operator, noise.Gaussian(0.5))
        ys = np.random.default_rng(1).normal(size=(2, 5))

        @jax.jit
        def expected(prior, y):
            mean = prior.decode(jnp.zeros(SIZE))
            factor = jax.jacfwd(prior.decode)(jnp.zeros(SIZE)).reshape(SIZE, SIZE)
            gaussian = oracles.Gaussian.from_factor(mean, factor)
            return classical.gaussian(likelihood, gaussian, y).value

        @jax.jit
        def images(prior, ys):
            solve = lambda y: (
                reconstruct(
                    likelihood, prior, y, key=jax.random.key(0), start=FromEncoder(), rtol=1e-9, max_steps=3000
                ).value
            )
            return jax.vmap(solve)(ys)

        for y, image in zip(ys, images(prior, ys), strict=True):
            # Adam at a fixed rate stops within its tolerance of the minimiser.
            np.testing.assert_allclose(image, expected(prior, y), atol=1e-5)


@pytest.mark.slow
def test_reconstruct_stays_in_the_unit_interval():
    prior = FlowPrior(_flow())
    likelihood = Likelihood(operators.Mask(jnp.ones(SHAPE).at[0].set(0)), noise.Gaussian(0.05))
    y = likelihood.simulate(IMAGES[0], key=jax.random.key(0))
    image = reconstruct(likelihood, prior, y, key=jax.random.key(1), max_steps=300).value
    # float32, and the alpha of the logit.
    assert -1e-5 <= float(jnp.min(image)) <= float(jnp.max(image)) <= 1 + 1e-5
    fit, start = (likelihood.negative_log_likelihood(x, y) for x in (image, prior.decode(jnp.zeros(SIZE))))
    assert fit < start - 10


class _Wrong(_Uniform):
    def __init__(self, forward=None, inverse=None):
        self.forward, self.inverse = forward or super().forward, inverse or super().inverse


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FlowPrior(_Uniform()), "does not say its `image_shape`"),
        (lambda: FlowPrior(_Wrong(forward=lambda x: x), image_shape=SHAPE), "must map images"),
        (lambda: FlowPrior(_Wrong(forward=lambda x: (x[:, :2], x[:, 0, 0, 0])), image_shape=SHAPE), "one to one"),
        (lambda: FlowPrior(_Wrong(inverse=lambda z: z), image_shape=SHAPE), "`inverse` must map"),
        (lambda: CASES["flow"]().decode(jnp.ones((4, SIZE))), "map with `jax.vmap`"),
        (lambda: CASES["flow"]().encode(IMAGES), "map with `jax.vmap`"),
        (lambda: CASES["flow"]().log_prob(IMAGES[0, ..., 0]), "channel axis"),
        (lambda: CASES["flow"]().energy(jnp.ones(SIZE, int)), "floating"),
        (lambda: CASES["flow"]().sample_latent(key=jax.random.PRNGKey(0)), "typed key"),
    ],
)
def test_bad_input(make, match):
    with pytest.raises(ValueError, match=match):
        make()
