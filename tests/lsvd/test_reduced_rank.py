import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import Likelihood, classical, lsvd, noise, operators, oracles
from jaxinv.lsvd import ReducedRankRegression, Truncation, reduced_rank_regression

SHAPE = (4, 3, 1)
ROWS = 9


def pairs(n=60, seed=0, std=0.3):
    """Images of 12 pixels, correlated, and measurements by a random matrix."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 12)) @ rng.normal(size=(12, 12)) + 1
    matrix = rng.normal(size=(ROWS, 12)) / 3
    y = x @ matrix.T + std * rng.normal(size=(n, ROWS))
    dtype = jnp.result_type(float)
    return tuple(jnp.asarray(a.astype(dtype)) for a in (x.reshape(n, *SHAPE), y, matrix))


def by_brute_force(x, y, rank):
    """Least squares of full rank, then the leading directions of what it fits: Izenman's theorem, in plain numpy."""
    x, y = np.asarray(x).reshape(len(x), -1), np.asarray(y)
    centred = y - y.mean(0)
    full = np.linalg.lstsq(centred, x - x.mean(0), rcond=None)[0]
    _, _, directions = np.linalg.svd(centred @ full, full_matrices=False)
    return x.mean(0) + centred @ full @ directions[:rank].T @ directions[:rank]


@pytest.mark.parametrize("rank", [3, ROWS])
def test_equals_truncated_least_squares(rank):
    with jax.enable_x64(True):
        x, y, _ = pairs()
        model = reduced_rank_regression(x, y, rank)
        fitted = model(y)
        np.testing.assert_allclose(fitted.reshape(60, -1), by_brute_force(x, y, rank), atol=1e-10)
        assert model.rank == rank
        # The promises of the docstring: white latents, orthonormal images, a spectrum of standard deviations.
        np.testing.assert_allclose(np.cov(model.encode(y).T), np.eye(rank), atol=1e-10)
        decoder = model.decoder.reshape(rank, -1)
        np.testing.assert_allclose(decoder @ decoder.T, np.eye(rank), atol=1e-12)
        np.testing.assert_allclose(np.std((fitted.reshape(60, -1) - 1) @ decoder.T, axis=0, ddof=1), model.spectrum)


def test_no_affine_map_of_that_rank_is_better():
    with jax.enable_x64(True):
        x, y, _ = pairs()
        model = reduced_rank_regression(x, y, 3)
        error = lambda m: jnp.sum((m(y) - x) ** 2)
        gradient = jax.grad(error)(model)
        # All of it: means, encoder, spectrum, decoder. The error itself is of order 1e3.
        assert error(model) > 100
        assert all(float(jnp.max(jnp.abs(leaf))) < 1e-8 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("correlated", [pytest.param(False, marks=pytest.mark.slow), True])
def test_full_rank_is_the_posterior_mean(correlated):
    with jax.enable_x64(True):
        x, _, matrix = pairs()
        prior = oracles.Gaussian.from_samples(x)
        operator = operators.Matrix(matrix, SHAPE)
        factor = 0.2 * np.eye(ROWS) + 0.1 * np.tri(ROWS)
        kind = noise.CorrelatedGaussian(factor) if correlated else noise.Gaussian(0.3)
        likelihood = Likelihood(operator, kind)
        y = likelihood.simulate(x[0], key=jax.random.key(0))
        expected = classical.gaussian(likelihood, prior, y).value
        exact = ReducedRankRegression.from_prior(likelihood, prior)
        np.testing.assert_allclose(exact(y), expected, atol=1e-10)
        # The covariances of the samples are those of the prior, and that of the noise is added exactly.
        clean = jax.vmap(operator)(x)
        for rank in (None, 3):
            from_data = reduced_rank_regression(x, clean, rank, noise=kind)
            from_prior = ReducedRankRegression.from_prior(likelihood, prior, rank)
            for a, b in zip(jax.tree.leaves(from_data), jax.tree.leaves(from_prior), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-9)


def test_unmeasured_entries_are_not_read():
    x, _, _ = pairs()
    mask = np.ones(SHAPE, np.float32)
    mask[1] = 0
    prior = oracles.Gaussian.from_samples(x.astype(jnp.float32))
    likelihood = Likelihood(operators.Mask(mask), noise.Gaussian(0.1))
    model = ReducedRankRegression.from_prior(likelihood, prior, 5)
    y = likelihood.simulate(x[0].astype(jnp.float32), key=jax.random.key(0))
    np.testing.assert_array_equal(model(y), model(y + 100 * (1 - mask)))
    np.testing.assert_array_equal(np.asarray(model.encoder)[:, 1], 0)


def test_truncation_is_the_regression_of_lower_rank():
    x, y, _ = (leaf.astype(jnp.float32) for leaf in pairs())
    model, small = reduced_rank_regression(x, y, 6), reduced_rank_regression(x, y, 2)
    # float32; values of order 10.
    np.testing.assert_allclose(model(y, Truncation(2)), small(y), atol=1e-4)
    alone = lsvd.reconstruct(model, y[3], filter=Truncation(2))
    np.testing.assert_allclose(alone.check().value, small(y[3]), atol=1e-4)
    np.testing.assert_allclose(alone.aux["latent"], model.encode(y[3]), atol=1e-5)


def test_float32_without_noise():
    # The singular values of the measurements fall to 1e-4 of the first: their squares are beyond float32.
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 8)) * np.logspace(0, -4, 8)
    x = (y / np.logspace(0, -4, 8)) @ rng.normal(size=(8, 12))
    model = reduced_rank_regression(x.reshape(-1, *SHAPE).astype(np.float32), y.astype(np.float32))
    np.testing.assert_allclose(model(y.astype(np.float32)).reshape(200, -1), x, atol=2e-2)


@pytest.mark.slow
def test_transforms():
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[pairs(seed=s) for s in range(3)])
    x, y = (leaf.astype(jnp.float32) for leaf in batch[:2])
    fit = lambda x, y: reduced_rank_regression(x, y, 3)
    models = jax.jit(jax.vmap(fit))(x, y)
    images = jax.vmap(lambda m, y: lsvd.reconstruct(m, y).value)(models, y[:, 0])
    for i in range(3):
        np.testing.assert_allclose(images[i], fit(x[i], y[i])(y[i, 0]), atol=1e-4)
    broken = jax.jit(fit)(x[0].at[3, 1].set(jnp.nan), y[0])
    assert all(bool(jnp.all(jnp.isnan(leaf))) for leaf in jax.tree.leaves(broken))
    with jax.enable_x64(True):
        assert fit(x[0], y[0]).spectrum.dtype == jnp.float32


X, Y, MATRIX = (np.asarray(leaf, np.float32) for leaf in pairs())
LIKELIHOOD = Likelihood(operators.Matrix(MATRIX, SHAPE), noise.Gaussian(0.1))
PRIOR = jax.jit(oracles.Gaussian.from_samples)(X)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: reduced_rank_regression(X, Y, 10), r"`rank` is 10, more than the data allow, 9"),
        (lambda: reduced_rank_regression(X[:4], Y[:4], 4), r"more than the data allow, 3: there are 4 pairs"),
        (lambda: reduced_rank_regression(X, Y[:, :3] @ np.ones((3, 9), np.float32), 2), "determine 1 direction"),
        (lambda: reduced_rank_regression(X, 0 * Y, 1), "determine 0 directions"),
        (lambda: reduced_rank_regression(X, Y, 0), "`rank` must be a static integer"),
        (lambda: reduced_rank_regression(X, Y[:5], 2), "there are 60 and 5"),
        (lambda: reduced_rank_regression(X[:1], Y[:1], 1), "One pair"),
        (lambda: reduced_rank_regression(X[:0], Y[:0], 1), "empty"),
        (lambda: reduced_rank_regression(X, np.where(np.arange(60)[:, None] == 7, np.nan, Y), 2), "example 7"),
        (lambda: reduced_rank_regression(X.astype(np.uint8), Y, 2), "uint8"),
        (lambda: reduced_rank_regression(X, Y + 1j, 2), "complex"),
        (lambda: reduced_rank_regression(X, Y, 2, noise=0.1), "`noise` must be a Gaussian noise"),
        (lambda: reduced_rank_regression(X, Y, 2, noise=noise.Gaussian(0.0)), "`noise` must be positive"),
        (lambda: ReducedRankRegression.from_prior(LIKELIHOOD, X, 2), "`prior` must be"),
        (lambda: ReducedRankRegression.from_prior(LIKELIHOOD, PRIOR, 20), "more than the data allow, 9"),
        (
            lambda: ReducedRankRegression.from_prior(Likelihood(LIKELIHOOD.operator, noise.Poisson()), PRIOR, 2),
            "Gaussian noise; got Poisson",
        ),
        (
            lambda: ReducedRankRegression.from_prior(
                Likelihood(operators.MaskedFourier(np.ones((4, 3, 1))) @ operators.Real(SHAPE), noise.Gaussian(0.1)),
                PRIOR,
                2,
            ),
            "real measurements",
        ),
        (lambda: reduced_rank_regression(X, Y, 2)(Y[:, :4]), r"of shape \(9,\), or a batch of them; got \(60, 4\)"),
        (lambda: lsvd.reconstruct(reduced_rank_regression(X, Y, 2), Y), "map with `jax.vmap`"),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
