"""The prior of a generator, the losses of the game in closed form, and the coverage of modes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv import Likelihood, noise, operators
from jaxinv.generative import (
    FromEncoder,
    GANPrior,
    ModeCoverage,
    minimax_loss,
    nonsaturating_loss,
    reconstruct,
    wasserstein_loss,
)
from jaxinv.models import Generator
from jaxinv.subspace import KMeans

SHAPE = (3, 4, 2)
KEY = jax.random.key(3)
LATENTS = jnp.zeros((4, 1))
IMAGES = jax.random.uniform(jax.random.key(0), (5, *SHAPE))


def _generator(seed=0):
    return Generator((6, 5, 1), 3, widths=(8,), rngs=nnx.Rngs(seed))


class Table(eqx.Module):
    """A critic of images that are points of a finite set, or a generator of them: a value for each."""

    values: jax.Array

    def __call__(self, x):
        return self.values[x[..., 0].astype(int)]


class Linear(eqx.Module):
    weights: jax.Array

    def __call__(self, x):
        return jnp.einsum("nhwc,hwc->n", x, self.weights)


class Batched(eqx.Module):
    """A network of equinox, with functions among its leaves."""

    network: eqx.nn.MLP

    def __call__(self, z):
        return jax.vmap(self.network)(z)


class Coder:
    """What has a decoder is no generator."""

    def decode(self, z):
        return z


def test_losses_of_the_best_critic():
    """On a finite set the best critic is the log of the ratio, and the value of the game a divergence."""
    with jax.enable_x64(True):
        # The frequencies p and q of three points among 8 images each; the generator never makes the third one.
        p, q = np.array([3, 4, 1]) / 8, np.array([6, 2, 0]) / 8
        images = jnp.asarray(np.repeat(np.arange(3.0), [3, 4, 1]))[:, None]
        points = jnp.asarray(np.repeat(np.arange(3.0), [6, 2, 0]))[:, None]
        best = Table(jnp.asarray([np.log(1 / 2), np.log(2), 700.0]))
        generator, latents = Table(points), jnp.arange(8.0)[:, None]
        middle = (p + q) / 2
        divergence = 0.5 * (np.sum(p * np.log(p / middle)) + np.sum(q[:2] * np.log(q[:2] / middle[:2])))
        half = np.sum(q[:2] * np.log(q[:2] / (2 * middle[:2])))
        ours, theirs = minimax_loss()(generator, best, images, latents, key=KEY)
        np.testing.assert_allclose(theirs, 2 * np.log(2) - 2 * divergence, rtol=1e-12)
        np.testing.assert_allclose(ours, half, rtol=1e-12)
        saturated, same = nonsaturating_loss()(generator, best, images, latents, key=KEY)
        assert same == theirs
        np.testing.assert_allclose(saturated, -np.sum(q[:2] * np.log(p[:2] / (2 * middle[:2]))), rtol=1e-12)
        # No other critic does better.
        cost = lambda critic: minimax_loss()(generator, critic, images, latents, key=KEY)[1]
        slope = jax.grad(cost)(best).values
        np.testing.assert_allclose(slope, 0, atol=1e-12)
        value, other = wasserstein_loss(0.0)(generator, best, images, latents, key=KEY)
        np.testing.assert_allclose(value, -np.sum(q * np.asarray(best.values)), rtol=1e-12)
        np.testing.assert_allclose(other, np.sum((q - p) * np.asarray(best.values)), rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_penalties_of_a_linear_critic(scale):
    """Its gradient is its weights everywhere, and the norm goes over rows, columns and channels."""
    with jax.enable_x64(True):
        critic = Linear(scale * jax.random.normal(KEY, SHAPE))
        generator = lambda z: jnp.zeros((z.shape[0], *SHAPE))
        images, latents = IMAGES.astype(float), jnp.zeros((5, 1))
        norm = np.linalg.norm(critic.weights)
        for make, term in (
            (nonsaturating_loss, 0.5 * norm**2),
            (wasserstein_loss, (norm - 1) ** 2),
        ):
            game = jax.jit(lambda p, make=make: make(p)(generator, critic, images, latents, key=KEY))
            values = [game(p) for p in (0.0, 3.0)]
            assert values[0][0] == values[1][0]
            np.testing.assert_allclose(values[1][1] - values[0][1], 3 * term, rtol=1e-10)


def test_the_penalty_is_taken_between_data_and_samples():
    """A critic whose slope is the distance from zero shows where it was looked at."""
    critic = lambda x: 0.5 * jnp.sum(x**2, axis=(1, 2, 3))
    generator = lambda z: jnp.full((z.shape[0], 1, 1, 1), 3.0)
    images, latents = jnp.full((4000, 1, 1, 1), 1.0), jnp.zeros((4000, 1))
    both = lambda key: wasserstein_loss(1.0)(generator, critic, images, latents, key=key)[1] - (4.5 - 0.5)
    values = jax.jit(jax.vmap(both))(jax.random.split(KEY, 2))
    # E (u - 1)^2 with u uniform in [1, 3] is 4/3; the standard error of 4000 draws is .02, and five of them .1.
    np.testing.assert_allclose(values, 4 / 3, atol=0.1)
    assert values[0] != values[1]


def test_a_flat_critic_has_a_finite_gradient():
    critic, images = Linear(jnp.zeros(SHAPE)), IMAGES[:4]
    generator = lambda z: jnp.zeros((z.shape[0], *SHAPE))
    cost = lambda critic: wasserstein_loss()(generator, critic, images, LATENTS, key=KEY)[1]
    assert bool(jnp.all(jnp.isfinite(jax.jit(jax.grad(cost))(critic).weights)))
    # And a sure one: logits of thousands.
    critic = Linear(jnp.full(SHAPE, 1e4))
    cost = lambda critic: nonsaturating_loss(1.0)(generator, critic, images, LATENTS, key=KEY)
    assert all(bool(jnp.isfinite(value)) for value in jax.jit(cost)(critic))


@pytest.mark.parametrize("make", [nonsaturating_loss, wasserstein_loss])
@pytest.mark.parametrize("penalty", [-1.0, np.nan, np.ones(2)])
def test_wrong_penalty(make, penalty):
    with pytest.raises(ValueError, match="`penalty`"):
        make(penalty)


def test_a_critic_that_gives_another_shape():
    generator = lambda z: jnp.zeros((z.shape[0], *SHAPE))
    for loss in (minimax_loss(), nonsaturating_loss(), wasserstein_loss()):
        with pytest.raises(ValueError, match=r"one logit for each image, shape \(4,\); this one gives \(4, 1\)"):
            loss(generator, lambda x: x[:, 0, 0, :1], IMAGES[:4], LATENTS, key=KEY)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (GANPrior(_generator()), _generator()),
        lambda: (GANPrior(_generator().__call__, (3,)), _generator()),
        lambda: (GANPrior(lambda z: jnp.tanh(z)[:, None, None, :], (3,)), lambda z: jnp.tanh(z)[:, None, None, :]),
        lambda: (GANPrior(Batched(eqx.nn.MLP(3, 7, 8, 1, key=KEY)), (3,)), Batched(eqx.nn.MLP(3, 7, 8, 1, key=KEY))),
    ],
    ids=["ours", "method", "function", "equinox"],
)
def test_prior(make):
    prior, generator = make()
    assert prior.latent_shape == (3,)
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(prior))
    keys = jax.random.split(KEY, 4)
    z = jax.jit(jax.vmap(lambda prior, key: prior.sample_latent(key=key), (None, 0)))(prior, keys)
    mapped = jax.jit(jax.vmap(lambda prior, z: prior.decode(z), (None, 0)))(prior, z)
    assert mapped.shape == (4, *prior.image_shape)
    # float32, sums of at most 8 terms of order 1.
    np.testing.assert_allclose(mapped, generator(z), atol=1e-5)
    np.testing.assert_allclose(jax.vmap(prior.energy)(z), 0.5 * np.sum(np.square(z), axis=1), rtol=1e-6)


def test_stacked_priors_are_a_loop():
    networks = jax.tree.map(lambda *leaves: jnp.stack(leaves), _generator(0), _generator(1))
    z = jax.random.normal(jax.random.key(1), (2, 3))
    mapped = jax.vmap(lambda prior, z: prior.decode(z))(jax.vmap(GANPrior)(networks), z)
    for i in range(2):
        alone = GANPrior(jax.tree.map(lambda leaf, i=i: leaf[i], networks)).decode(z[i])
        np.testing.assert_allclose(mapped[i], alone, atol=1e-6)


@pytest.mark.slow
def test_reconstruction_finds_an_image_of_the_range():
    prior = GANPrior(_generator())
    image = prior.decode(jnp.array([1.0, -0.5, 0.3]))
    likelihood = Likelihood(operators.Identity((6, 5, 1)), noise.Gaussian(0.01))
    solution = reconstruct(likelihood, prior, image, key=KEY, weight=0.0, restarts=2, max_steps=300)
    # Noise-free and in the range: what remains is the tolerance of the solver.
    np.testing.assert_allclose(solution.value, image, atol=1e-2)
    with pytest.raises(ValueError, match="GANPrior has no encoder. The priors that have one are"):
        reconstruct(likelihood, prior, image, key=KEY, start=FromEncoder())


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: GANPrior(_generator().network), r"MLP does not say its `latent_size`; give `GANPrior\(generator, lat"),
        (lambda: GANPrior(Coder()), r"GANPrior\(model.decode, latent_shape"),
        (lambda: GANPrior(lambda z: z[0], (3,)), "batch of images"),
        (lambda: GANPrior(_generator(), 3), "`latent_shape`"),
        (lambda: GANPrior(_generator(), (4,)), r"\(n, 3\); got \(1, 4\)"),
        (lambda: GANPrior(_generator()).decode(jnp.ones((2, 3))), "map with `jax.vmap`"),
        (lambda: GANPrior(_generator()).energy(jnp.ones(4)), "a latent of shape"),
        (lambda: GANPrior(_generator()).encode(jnp.ones((6, 5, 1))), "VAEPrior"),
        (lambda: GANPrior(_generator()).sample_latent(key=jax.random.PRNGKey(0)), "typed key"),
        (lambda: ModeCoverage(IMAGES), "subspace.kmeans"),
        (lambda: ModeCoverage(KMeans(IMAGES[:1], jnp.zeros(5, int), jnp.zeros(()))), "at least two"),
        (lambda: ModeCoverage(KMeans(IMAGES, jnp.zeros(5, int), jnp.zeros(())), num_samples=0), "num_samples"),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_mode_coverage_of_a_known_generator():
    """Four clusters of equal size; a generator that makes two of them, one three times as often as the other."""
    corners = jnp.array([[0.0, 0.0], [0.0, 8.0], [8.0, 0.0], [8.0, 8.0]]).reshape(4, 1, 2, 1)
    clusters = KMeans(corners, jnp.arange(100) % 4, jnp.zeros(()))
    monitor = ModeCoverage(clusters, num_samples=4000, latent_shape=(1,))
    np.testing.assert_allclose(monitor.reference_entropy, 1, rtol=1e-6)
    # The upper quarter of a standard normal lies above .6745.
    generator = lambda z: jnp.where(z[:, :, None, None] > 0.6745, corners[3][None], corners[0][None])
    seen = jax.jit(lambda key: monitor(generator, key=key))(jax.random.key(1))
    assert seen["coverage"] == 0.5
    share = np.array([0.25, 0.75])
    # The share of 4000 draws has a standard error of .007, the entropy one of .0055; five of them.
    np.testing.assert_allclose(seen["entropy"], -np.sum(share * np.log(share)) / np.log(4), atol=0.03)
    # One sample of 4000 does not reach a cluster.
    stray = lambda z: jnp.where(jnp.arange(4000).reshape(-1, 1, 1, 1) == 0, corners[3][None], corners[0][None])
    assert monitor(stray, key=KEY)["coverage"] == 0.25
