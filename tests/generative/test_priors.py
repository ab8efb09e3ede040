import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv import testing
from jaxinv.generative._autoencoder import AutoencoderPrior, autoencoder_loss
from jaxinv.generative._function import FunctionPrior
from jaxinv.generative._gan import GANPrior
from jaxinv.generative._vae import VAEPrior, vae_loss
from jaxinv.models import VAE, Autoencoder, Bernoulli, Gaussian, Generator

SHAPE = (6, 5, 1)
SIZE = 3


class EquinoxNetwork(eqx.Module):
    """A network of equinox, with functions among its leaves."""

    down: eqx.nn.MLP
    up: eqx.nn.MLP
    latent_size: int = eqx.field(static=True, default=SIZE)

    def encode(self, x):
        moments = jax.vmap(self.down)(x.reshape(x.shape[0], -1))
        return moments[:, :SIZE], moments[:, SIZE:]

    def decode(self, z):
        return jax.vmap(self.up)(z).reshape(-1, *SHAPE)


class LinenNetwork(nn.Module):
    def setup(self):
        self.down, self.up = nn.Dense(2 * SIZE), nn.Dense(30)

    def encode(self, x):
        moments = self.down(x.reshape(x.shape[0], -1))
        return moments[:, :SIZE], moments[:, SIZE:]

    def decode(self, z):
        return self.up(z).reshape(-1, *SHAPE)

    def __call__(self, x):
        return self.decode(self.encode(x)[0])


class PlainNetwork:
    def __init__(self):
        self.matrix = jax.random.normal(jax.random.key(5), (30, SIZE))

    def encode(self, x):
        mean = x.reshape(x.shape[0], -1) @ self.matrix
        return mean, jnp.zeros_like(mean)

    def decode(self, z):
        return (z @ self.matrix.T).reshape(-1, *SHAPE)


def _equinox():
    keys = jax.random.split(jax.random.key(0))
    return EquinoxNetwork(eqx.nn.MLP(30, 2 * SIZE, 8, 1, key=keys[0]), eqx.nn.MLP(SIZE, 30, 8, 1, key=keys[1]))


def _linen():
    network = LinenNetwork()
    return network.bind(jax.jit(network.init)(jax.random.key(0), jnp.ones((1, *SHAPE))))


# Compiled whole: initialisers make some dozens of programs.
@functools.partial(jax.jit, static_argnums=0)
def _made(kind):
    return kind(SHAPE, SIZE, widths=(8,), rngs=nnx.Rngs(0))


def _vae():
    return _made(VAE)


def _autoencoder():
    return _made(Autoencoder)


def _generator():
    return _made(Generator)


IMAGES = jnp.asarray(np.random.default_rng(9).uniform(size=(20, *SHAPE)).astype(np.float32))
BASIS = jnp.asarray(np.random.default_rng(8).normal(size=(*SHAPE, SIZE)).astype(np.float32))
DECODE = jax.tree_util.Partial(lambda basis, z: basis @ z, BASIS)


def half_square(z):
    return 0.5 * jnp.sum(z**2)


# Each: the prior, and the same decoder on a batch.
CASES = {
    "vae": lambda: (VAEPrior(_vae()), _vae().decode),
    "autoencoder": lambda: (AutoencoderPrior(_autoencoder(), _autoencoder().encode(IMAGES)), _autoencoder().decode),
    "function": lambda: (FunctionPrior(DECODE, half_square, (SIZE,)), jax.vmap(DECODE)),
    "bare function": lambda: (FunctionPrior(lambda z: BASIS @ z, half_square, (SIZE,)), jax.vmap(DECODE)),
    "equinox": lambda: (VAEPrior(_equinox()), _equinox().decode),
    "linen": lambda: (VAEPrior(_linen(), latent_shape=(SIZE,)), _linen().decode),
    "plain": lambda: (VAEPrior(PlainNetwork(), latent_shape=(SIZE,)), PlainNetwork().decode),
    "gan": lambda: (GANPrior(_generator()), _generator()),
}


@pytest.mark.parametrize("name", CASES)
def test_contract(name, key):
    prior, decode = CASES[name]()
    assert prior.latent_shape == (SIZE,)
    assert prior.image_shape == SHAPE
    testing.check_generative_prior(prior, key=key, num_draws=1000)
    # The one image is that of the network, which takes batches.
    z = np.random.default_rng(0).normal(size=(4, SIZE)).astype(np.float32)
    mapped = jax.jit(jax.vmap(lambda prior, z: prior.decode(z), (None, 0)))(prior, z)
    # float32, sums of at most 30 terms of order 1.
    np.testing.assert_allclose(mapped, decode(z), atol=1e-5)
    if not isinstance(prior, FunctionPrior | GANPrior):
        codes = jax.eval_shape(jax.vmap(prior.encode), IMAGES[:4])
        assert codes.shape == (4, SIZE)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda p: p.decode(jnp.ones((4, SIZE))), "map with `jax.vmap`"),
        (lambda p: p.energy(jnp.ones(SIZE + 1)), "a latent of shape"),
        (lambda p: p.decode(jnp.ones(SIZE, int)), "floating dtype"),
        (lambda p: p.encode(IMAGES), "map with `jax.vmap`|no encoder"),
        (lambda p: p.encode(IMAGES[0, ..., 0]), "channel axis|no encoder"),
        (lambda p: p.sample_latent(key=jax.random.PRNGKey(0)), "typed key"),
    ],
)
def test_wrong_input(name, call, match):
    with pytest.raises(ValueError, match=match):
        call(CASES[name]()[0])


def test_vae_values():
    prior, model = VAEPrior(_vae()), _vae()
    z = jnp.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(prior.energy(z), 0.5 * 5.25, rtol=1e-6)
    np.testing.assert_allclose(prior.encode(IMAGES[1]), model.encode(IMAGES)[0][1], atol=1e-6)


def test_stacked_priors_are_a_loop():
    make = lambda key: VAE(SHAPE, SIZE, widths=(8,), rngs=nnx.Rngs(key))
    models = jax.jit(jax.vmap(make))(jax.random.split(jax.random.key(0), 3))
    random = np.random.default_rng(1)
    z, latents = (random.normal(size=shape).astype(np.float32) for shape in ((3, SIZE), (3, 30, SIZE)))
    decode = jax.jit(lambda prior, z: prior.decode(z))
    mapped = jax.jit(jax.vmap(decode))(jax.jit(jax.vmap(VAEPrior))(models), z)
    for i in range(3):
        alone = decode(VAEPrior(jax.tree.map(lambda leaf, i=i: leaf[i], models)), z[i])
        np.testing.assert_allclose(mapped[i], alone, atol=1e-6)
    energy = jax.jit(lambda model, latents, z: AutoencoderPrior(model, latents).energy(z))
    energies = jax.jit(jax.vmap(energy, (None, 0, 0)))(_autoencoder(), latents, z)
    for i in range(3):
        np.testing.assert_allclose(energies[i], energy(_autoencoder(), latents[i], z[i]), rtol=1e-5)


def test_autoencoder_energy_is_the_gaussian_fit():
    with jax.enable_x64(True):
        # Axes of very different length: the QR form keeps digits that the covariance itself would lose.
        latents = np.random.default_rng(0).normal(size=(500, SIZE)) * np.array([1e3, 1.0, 1e-3]) + 7.0
        prior = AutoencoderPrior(_autoencoder(), latents)
        z = latents[3]
        mean, covariance = np.mean(latents, axis=0), np.cov(latents.T)
        expected = 0.5 * (z - mean) @ np.linalg.solve(covariance, z - mean)
        # The comparison solves with a covariance of condition 1e12.
        np.testing.assert_allclose(prior.energy(z), expected, rtol=1e-4)
        draw = lambda key: prior.sample_latent(key=key)
        keys = jax.random.split(jax.random.key(1), 20000)
        draws, energies = jax.jit(jax.vmap(lambda key: (draw(key), prior.energy(draw(key)))))(keys)
        # Standard error of a variance from 20 000 draws: sqrt(2 / 20 000) = 1 %; five of them.
        np.testing.assert_allclose(np.diag(np.cov(draws.T)), np.diag(covariance), rtol=0.05)
        # The mean energy of draws is k / 2, with standard error sqrt(k / 2 / 20 000) = .9 %.
        np.testing.assert_allclose(np.mean(energies), SIZE / 2, rtol=0.045)


@pytest.mark.parametrize(
    ("latents", "match"),
    [
        (jnp.ones((3, 3)), "at least 4 are needed"),
        (jnp.ones(3), r"shape \(n, k\)"),
        (jnp.ones((10, 3), int), "floating"),
        (jnp.full((10, 3), jnp.nan), "finite"),
        (jnp.ones((10, 3)), "fewer than 3 dimensions"),
        (jnp.arange(10.0)[:, None] * jnp.ones((1, 3)), "fewer than 3 dimensions"),
    ],
)
def test_latents_that_determine_no_gaussian(latents, match):
    with pytest.raises(ValueError, match=match):
        AutoencoderPrior(_autoencoder(), latents)


def test_function_prior_keeps_arrays_as_leaves():
    methods = FunctionPrior(_Linear(BASIS).image, half_square, (SIZE,))
    for prior in (FunctionPrior(DECODE, half_square, (SIZE,)), methods):
        assert sum(leaf.size for leaf in jax.tree.leaves(prior)) == BASIS.size
    with pytest.raises(ValueError, match="FunctionPrior has no encoder"):
        methods.encode(IMAGES[0])
    stacked = jax.vmap(lambda basis: FunctionPrior(_Linear(basis).image, half_square, (SIZE,)))(
        jnp.stack([BASIS, -BASIS])
    )
    images = jax.vmap(lambda prior: prior.decode(jnp.ones(SIZE)))(stacked)
    np.testing.assert_allclose(images[0], -images[1])


class _Linear(eqx.Module):
    basis: jax.Array

    def image(self, z):
        return self.basis @ z


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FunctionPrior(3, half_square, (SIZE,)), "`decode` must be a function"),
        (lambda: FunctionPrior(DECODE, lambda z: z, (SIZE,)), "`energy` must return a scalar"),
        (lambda: FunctionPrior(lambda z: (z, z), half_square, (SIZE,)), "`decode` must return one image"),
        (lambda: FunctionPrior(DECODE, half_square, 3), "latent_shape"),
        (lambda: VAEPrior(PlainNetwork()), "does not say its `latent_size`"),
        (lambda: VAEPrior(LinenNetwork(), latent_shape=(SIZE,)), "bind"),
        (lambda: VAEPrior(_autoencoder()).encode(IMAGES[0]), "AutoencoderPrior"),
    ],
)
def test_wrong_parts(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_autoencoder_loss():
    model = _autoencoder()
    expected = np.mean([np.sum((model.decode(model.encode(x[None]))[0] - x) ** 2) for x in IMAGES])
    np.testing.assert_allclose(autoencoder_loss(model, IMAGES, key=jax.random.key(0)), expected, rtol=1e-5)


@pytest.mark.parametrize("likelihood", [Gaussian(0.2), Bernoulli()])
def test_vae_loss_is_the_negative_elbo(likelihood):
    with jax.enable_x64(True):
        model = VAE(SHAPE, SIZE, widths=(8,), likelihood=likelihood, rngs=nnx.Rngs(0))
        model = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), model)
        x, key = IMAGES.astype(jnp.float64), jax.random.key(3)
        mean, log_std = model.encode(x)
        std = jnp.exp(log_std)
        z = mean + std * jax.random.normal(key, mean.shape, mean.dtype)
        # The KL of two Gaussians, by quadrature.
        nodes, weights = np.polynomial.hermite_e.hermegauss(20)
        at = mean[..., None] + std[..., None] * nodes[None, None, :]
        log_ratio = -0.5 * nodes[None, None, :] ** 2 - log_std[..., None] + 0.5 * at**2
        divergence = jnp.sum(log_ratio * weights[None, None, :], axis=-1) / np.sqrt(2 * np.pi)
        p = model.decode(z)
        if isinstance(likelihood, Gaussian):
            explained = jax.scipy.stats.norm.logpdf(x, p, 0.2)
        else:
            explained = x * jnp.log(p) + (1 - x) * jnp.log(1 - p)
        nll = -jnp.mean(jnp.sum(explained, axis=(1, 2, 3)))
        loss = lambda **options: vae_loss(**options)(model, x, key=key)
        np.testing.assert_allclose(loss(), nll + jnp.mean(jnp.sum(divergence, axis=1)), rtol=1e-10)
        np.testing.assert_allclose(loss(beta=0.0), nll, rtol=1e-10)
        free = jnp.sum(jnp.maximum(jnp.mean(divergence, axis=0), 0.2))
        assert free > jnp.sum(jnp.mean(divergence, axis=0))
        np.testing.assert_allclose(loss(beta=2.0, free_bits=0.2), nll + 2 * free, rtol=1e-10)


def test_vae_loss_of_a_network_of_ones_own():
    loss = vae_loss()(_equinox(), IMAGES, key=jax.random.key(0))
    assert loss.shape == ()
    assert bool(jnp.isfinite(loss))
    with pytest.raises(ValueError, match="autoencoder"):
        vae_loss()(_autoencoder(), IMAGES, key=jax.random.key(0))


@pytest.mark.parametrize("options", [{"beta": -1.0}, {"free_bits": np.nan}, {"beta": np.ones(2)}])
def test_wrong_loss(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        vae_loss(**options)
