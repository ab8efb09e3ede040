import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import generative, oracles, subspace

SHAPE = (4, 3, 1)


def images(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray((rng.normal(size=(n, 12)) * 0.8 ** np.arange(12) + 3).reshape(n, *SHAPE))


@pytest.mark.slow
def test_it_is_the_gaussian_fit():
    with jax.enable_x64(True):
        data = images()
        prior = generative.PCAPrior(subspace.pca(data))
        assert prior.latent_shape == (12,)
        assert prior.image_shape == SHAPE
        gaussian = oracles.Gaussian.from_samples(data)
        factor = jax.jacobian(prior.decode)(jnp.zeros(12)).reshape(12, 12)
        np.testing.assert_allclose(factor @ factor.T, gaussian.covariance, atol=1e-12)
        # Whitened: the latents of the data have mean 0 and covariance I.
        z = jax.vmap(prior.encode)(data)
        np.testing.assert_allclose(np.cov(z.T), np.eye(12), atol=1e-10)
        np.testing.assert_allclose(jax.vmap(prior.decode)(z), data, atol=1e-10)
        np.testing.assert_allclose(prior.energy(z[0]), 0.5 * np.sum(z[0] ** 2))
        assert prior.sample_latent(key=jax.random.key(0)).shape == (12,)


@pytest.mark.slow
def test_stacked_priors_and_degenerate_directions():
    batch = jnp.stack([images(seed=s) for s in range(2)])
    priors = jax.jit(jax.vmap(lambda data: generative.PCAPrior(subspace.pca(data, rank=3))))(batch)
    z = jax.vmap(lambda prior, x: prior.encode(x))(priors, batch[:, 0])
    alone = generative.PCAPrior(subspace.pca(batch[1], rank=3))
    np.testing.assert_allclose(z[1], alone.encode(batch[1, 0]), atol=1e-4)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(alone))
    flat = subspace.PCA(
        jnp.zeros(SHAPE), jnp.eye(12)[:2].reshape(2, *SHAPE), jnp.array([1.0, 0.0]), jnp.array([1.0, 0])
    )
    np.testing.assert_array_equal(generative.PCAPrior(flat).encode(jnp.ones(SHAPE)), [1, 0])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda p: generative.PCAPrior(3), "takes a `PCA`"),
        (lambda p: generative.PCAPrior(subspace.PCA(p.mean, p.components, jnp.ones(2))), "standard_deviations"),
        (lambda p: p.decode(jnp.ones((4, 2))), "map with `jax.vmap`"),
        (lambda p: p.encode(jnp.ones((4, 3))), "channel axis"),
        (lambda p: p.sample_latent(key=jax.random.PRNGKey(0)), "typed key"),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call(generative.PCAPrior(subspace.pca(images(), rank=2)))
