import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from programs import equations
from verbs import SHAPE, SIZE, rng_of

from jaxinv import Likelihood, classical, diffusion, noise, operators, oracles
from jaxinv._prior import AbstractGenerativePrior

RNG = rng_of(0)
MEAN = RNG.normal(size=SHAPE)
FULL = RNG.normal(size=(SIZE, 40)) / 40**0.5
LOW = RNG.normal(size=(SIZE, 8)) / 8**0.5
MASK = RNG.uniform(size=SHAPE) < 0.6
DIAGONAL = RNG.uniform(0.1, 1, size=SIZE)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


PRIORS = {
    "full": (lambda: oracles.Gaussian(MEAN, FULL @ FULL.T), FULL @ FULL.T),
    "singular": (lambda: oracles.Gaussian(MEAN, LOW @ LOW.T), LOW @ LOW.T),
    "factor": (lambda: oracles.Gaussian.from_factor(MEAN, LOW), LOW @ LOW.T),
    "factor and scalar": (lambda: oracles.Gaussian.from_factor(MEAN, LOW, 0.3), LOW @ LOW.T + 0.3 * np.eye(SIZE)),
    "factor and diagonal": (
        lambda: oracles.Gaussian.from_factor(MEAN, LOW, DIAGONAL.reshape(SHAPE)),
        LOW @ LOW.T + np.diag(DIAGONAL),
    ),
}
MATRICES = {"few rows": RNG.normal(size=(5, SIZE)), "many rows": RNG.normal(size=(50, SIZE))}


def dense(covariance, matrix, b, noise_covariance):
    """Mean, covariance and log-evidence by the textbook formulas of the gain form, which take singular covariances."""
    total = matrix @ covariance @ matrix.T + noise_covariance
    gain = np.linalg.solve(total, matrix @ covariance).T
    residual = b - matrix @ MEAN.ravel()
    evidence = scipy.stats.multivariate_normal(matrix @ MEAN.ravel(), total).logpdf(b)
    return MEAN.ravel() + gain @ residual, covariance - gain @ matrix @ covariance, evidence


# Compiled whole: operation by operation they take seconds to compile.
log_prob = jax.jit(lambda prior, x: prior.log_prob(x))
posterior_of = jax.jit(lambda prior, likelihood, y: prior.posterior(likelihood, y))
evidence_of = jax.jit(lambda prior, likelihood, y: prior.evidence(likelihood, y))
decode = jax.jit(lambda latent, z: latent.decode(z))
encode = jax.jit(lambda latent, x: latent.encode(x))
derivative = jax.jit(lambda latent, z: jax.jacobian(latent.decode)(z))


@jax.jit
def conditioned(prior, likelihood, y):
    posterior = prior.posterior(likelihood, y)
    return posterior.mean, posterior.covariance, prior.evidence(likelihood, y)


def assert_posterior(prior, likelihood, y, expected):
    mean, covariance, evidence = conditioned(prior, likelihood, y)
    # The references square the condition number, to 1e4.
    np.testing.assert_allclose(mean.ravel(), expected[0], atol=1e-8)
    np.testing.assert_allclose(covariance, expected[1], atol=1e-8)
    np.testing.assert_allclose(evidence, expected[2], rtol=1e-8)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
@pytest.mark.parametrize("name", PRIORS)
def test_posterior_and_evidence(name, matrix):
    make, covariance = PRIORS[name]
    prior = make()
    np.testing.assert_allclose(prior.covariance, covariance, atol=1e-12)
    np.testing.assert_allclose(prior.variance.ravel(), np.diag(covariance), atol=1e-12)
    y = RNG.normal(size=matrix.shape[0])
    likelihood = Likelihood(operators.Matrix(matrix, SHAPE), noise.Gaussian(0.3))
    assert_posterior(prior, likelihood, y, dense(covariance, matrix, y, 0.09 * np.eye(len(y))))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["full", "singular"])
def test_a_mask_is_the_matrix_of_the_kept_rows(name):
    prior = PRIORS[name][0]()
    y = np.where(MASK, RNG.normal(size=SHAPE), np.nan)
    masked = Likelihood(operators.Mask(MASK), noise.Gaussian(np.full(SHAPE, 0.3)))
    kept = Likelihood(operators.Matrix(np.eye(SIZE)[MASK.ravel()], SHAPE), noise.Gaussian(0.3))
    few = y[MASK]
    a, b = conditioned(prior, masked, y), conditioned(prior, kept, few)
    np.testing.assert_allclose(a[2], b[2], rtol=1e-11)
    np.testing.assert_allclose(a[0], b[0], atol=1e-11)
    np.testing.assert_allclose(a[1], b[1], atol=1e-11)
    x = PRIORS[name][0]().mean
    nll = [model.negative_log_likelihood(x, data) for model, data in ((masked, y), (kept, few))]
    np.testing.assert_allclose(*nll, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_complex_measurement_of_a_real_image():
    prior, covariance = PRIORS["full"][0](), PRIORS["full"][1]
    operator = operators.MaskedFourier(MASK) @ operators.Real(SHAPE)
    y = RNG.normal(size=SHAPE) + 1j * RNG.normal(size=SHAPE)
    matrix = np.stack([np.asarray(operator(e.reshape(SHAPE))).ravel() for e in np.eye(SIZE)], axis=1)[MASK.ravel()]
    rows, b = np.concatenate([matrix.real, matrix.imag]), np.concatenate([y[MASK].real, y[MASK].imag])
    # The deviation is that of real and imaginary part each.
    expected = dense(covariance, rows, b, 0.09 * np.eye(len(b)))
    assert_posterior(prior, Likelihood(operator, noise.Gaussian(0.3)), y, expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("masked", [False, True])
def test_correlated_noise(masked):
    prior, covariance = PRIORS["singular"][0](), PRIORS["singular"][1]
    factor = np.tril(RNG.normal(size=(SIZE, SIZE))) / 10 + np.eye(SIZE)
    mask = MASK if masked else np.ones(SHAPE, bool)
    y = RNG.normal(size=SHAPE)
    kept = np.eye(SIZE)[mask.ravel()]
    expected = dense(covariance, kept, y[mask], kept @ factor @ factor.T @ kept.T)
    assert_posterior(prior, Likelihood(operators.Mask(mask), noise.CorrelatedGaussian(factor)), y, expected)


@pytest.mark.usefixtures("x64")
def test_a_stack_of_two_measurements():
    prior, covariance = PRIORS["full"][0](), PRIORS["full"][1]
    first, second = MATRICES.values()
    operator = operators.stack([operators.Matrix(first, SHAPE), operators.Matrix(second, SHAPE)])
    y = (RNG.normal(size=5), RNG.normal(size=50))
    rows, b = np.concatenate([first, second]), np.concatenate(y)
    expected = dense(covariance, rows, b, np.diag(np.repeat([0.04, 0.25], [5, 50])))
    assert_posterior(prior, Likelihood(operator, noise.Gaussian((0.2, 0.5))), y, expected)


@pytest.mark.parametrize("name", ["few rows", "many rows"])
def test_float32_at_high_signal_to_noise(name):
    matrix = MATRICES[name]
    y = matrix @ (MEAN.ravel() + FULL @ RNG.normal(size=40)) + 1e-3 * RNG.normal(size=len(matrix))

    def mean(dtype):
        prior = oracles.Gaussian(MEAN.astype(dtype), (FULL @ FULL.T).astype(dtype))
        likelihood = Likelihood(operators.Matrix(matrix.astype(dtype), SHAPE), noise.Gaussian(1e-3))
        return np.asarray(prior.posterior(likelihood, y.astype(dtype)).mean)

    with jax.enable_x64(True):
        exact = mean(np.float64)
    got = mean(np.float32)
    assert got.dtype == np.float32
    # The bar; forming the normal equations would give 1e-1.
    assert np.linalg.norm(got - exact) < 1e-3 * np.linalg.norm(exact)


@pytest.mark.parametrize("name", ["full", "singular", "factor and diagonal"])
def test_samples(name, key):
    prior, covariance = PRIORS[name][0](), PRIORS[name][1]
    n = 20_000
    draws = np.asarray(prior.sample(n, key=key)).reshape(n, -1) - MEAN.ravel()
    # 30 means and 900 covariances, each within 5 standard errors.
    assert np.all(np.abs(draws.mean(0)) < 5 * np.sqrt(np.diag(covariance) / n))
    variances = np.diag(covariance)
    errors = np.sqrt((covariance**2 + np.outer(variances, variances)) / n)
    assert np.all(np.abs(draws.T @ draws / n - covariance) < 5 * errors)


def test_a_sample_depends_on_the_key_and_its_number_only(key):
    prior = PRIORS["full"][0]()
    np.testing.assert_array_equal(prior.sample(3, key=key), prior.sample(7, key=key)[:3])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", PRIORS)
def test_log_prob(name):
    prior, covariance = PRIORS[name][0](), PRIORS[name][1]
    law = scipy.stats.multivariate_normal(MEAN.ravel(), covariance, allow_singular=True)
    for x in np.asarray(prior.sample(3, key=jax.random.key(1))):
        np.testing.assert_allclose(log_prob(prior, x), law.logpdf(np.asarray(x).ravel()), rtol=1e-8)
    outside = MEAN + RNG.normal(size=SHAPE)
    rank = np.linalg.matrix_rank(covariance)
    assert np.isfinite(log_prob(prior, outside)) == (rank == SIZE)


def test_log_prob_of_draws_is_finite_in_float32(key):
    prior = PRIORS["singular"][0]()
    assert np.isfinite(jax.vmap(prior.log_prob)(prior.sample(50, key=key))).all()


@pytest.mark.usefixtures("x64")
def test_the_posterior_is_an_oracle():
    # Two measurements one after the other are both at once.
    prior = PRIORS["singular"][0]()
    parts = [Likelihood(operators.Matrix(m, SHAPE), noise.Gaussian(0.3)) for m in MATRICES.values()]
    y = [RNG.normal(size=5), RNG.normal(size=50)]
    first = posterior_of(prior, parts[0], y[0])
    in_turn = posterior_of(first, parts[1], y[1])
    both = Likelihood(operators.stack([part.operator for part in parts]), noise.Gaussian(0.3))
    at_once = posterior_of(prior, both, tuple(y))
    np.testing.assert_allclose(in_turn.mean, at_once.mean, atol=1e-9)
    np.testing.assert_allclose(in_turn.covariance, at_once.covariance, atol=1e-9)
    chain = evidence_of(prior, parts[0], y[0]) + evidence_of(first, parts[1], y[1])
    np.testing.assert_allclose(chain, evidence_of(prior, both, tuple(y)), rtol=1e-9)


class Cosine(eqx.Module):
    """`x_t = cos(t) x_0 + sin(t) n`."""

    def marginal(self, t):
        return jnp.cos(t), jnp.sin(t)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", PRIORS)
def test_score_and_denoiser(name):
    prior, covariance = PRIORS[name][0](), PRIORS[name][1]
    t = 0.6
    scale, std = np.cos(t), np.sin(t)
    x = RNG.normal(size=SHAPE)
    law = scipy.stats.multivariate_normal(scale * MEAN.ravel(), scale**2 * covariance + std**2 * np.eye(SIZE))
    h = 1e-5
    differences = [(law.logpdf(x.ravel() + h * e) - law.logpdf(x.ravel() - h * e)) / (2 * h) for e in np.eye(SIZE)]

    @jax.jit
    def computed(prior, t, x):
        noised = prior.noised(Cosine(), t).log_prob(x)
        return prior.score(Cosine())(t, x), noised, prior.denoiser(Cosine())(t, x)

    score, noised, denoised = computed(prior, t, x)
    # The log-density is quadratic: only rounding, 1e-13 over 1e-5.
    np.testing.assert_allclose(score.ravel(), differences, atol=1e-7)
    np.testing.assert_allclose(noised, law.logpdf(x.ravel()), rtol=1e-10)
    # Tweedie: the denoiser is (x + std^2 score) / scale.
    np.testing.assert_allclose(denoised, (x + std**2 * score) / scale, atol=1e-10)


@pytest.mark.parametrize("name", ["singular", "full"])
def test_without_noise_the_denoiser_is_the_projection(name):
    prior = PRIORS[name][0]()
    denoised = prior.denoiser(Cosine())(jnp.zeros(()), jnp.asarray(MEAN, jnp.float32))
    np.testing.assert_allclose(denoised, MEAN, atol=1e-5)
    assert denoised.dtype == jnp.float32


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", PRIORS)
def test_as_latent(name):
    prior = PRIORS[name][0]()
    latent = prior.as_latent()
    assert isinstance(latent, AbstractGenerativePrior)
    assert latent.image_shape == SHAPE
    z = latent.sample_latent(key=jax.random.key(0))
    assert z.shape == latent.latent_shape
    x = decode(latent, z)
    again = encode(latent, x)
    np.testing.assert_allclose(decode(latent, again), x, atol=1e-9)
    assert latent.energy(again) <= latent.energy(z) + 1e-9
    np.testing.assert_allclose(latent.energy(z), 0.5 * np.sum(np.asarray(z) ** 2))
    # The image has the prior's covariance.
    jacobian = np.asarray(derivative(latent, z)).reshape(SIZE, -1)
    np.testing.assert_allclose(jacobian @ jacobian.T, PRIORS[name][1], atol=1e-12)


def test_a_batch_of_priors():
    scales = jnp.array([0.5, 2.0])
    make = lambda s: oracles.Gaussian(MEAN.astype(np.float32), s * jnp.eye(SIZE))
    likelihood = Likelihood(operators.Identity(SHAPE), noise.Gaussian(1.0))
    means = jax.vmap(lambda prior: prior.posterior(likelihood, np.zeros(SHAPE, np.float32)).mean)(
        jax.vmap(make)(scales)
    )
    expected = MEAN * (1 / (1 + np.asarray(scales)))[:, None, None, None]
    np.testing.assert_allclose(means, expected, rtol=1e-5)


def test_from_samples_is_numpys_mean_and_covariance(key):
    samples = jax.random.normal(key, (40, 3, 2, 1)) * jnp.arange(1.0, 7).reshape(1, 3, 2, 1)
    prior = oracles.Gaussian.from_samples(samples)
    flat = np.asarray(samples, float).reshape(40, 6)
    np.testing.assert_allclose(prior.mean.ravel(), flat.mean(0), atol=1e-5)
    np.testing.assert_allclose(prior.covariance, np.cov(flat.T), atol=1e-4)
    with pytest.raises(ValueError, match="at least two"):
        oracles.Gaussian.from_samples(samples[:1])


def test_from_few_samples_is_the_same_gaussian_without_a_large_matrix(key):
    with jax.enable_x64(True):
        samples = jax.random.normal(key, (7, 5, 4, 1), jnp.float64) + 3
        few = oracles.Gaussian.from_samples(samples)
        flat = np.asarray(samples).reshape(7, 20)
        assert few.factor.shape == (20, 6)
        np.testing.assert_allclose(few.covariance, np.cov(flat.T), atol=1e-12)
        np.testing.assert_allclose(few.mean.ravel(), flat.mean(0), atol=1e-12)
        # The columns are those of the covariance, up to their signs.
        whole = oracles.Gaussian(few.mean, np.cov(flat.T))
        np.testing.assert_allclose(np.abs(few.factor), np.abs(whole.factor), atol=1e-10)


@pytest.mark.parametrize("wide", [False, True])
def test_the_diagonal_is_no_matrix(wide, monkeypatch, key):
    # As large images do it, by matrices of the size of the factor.
    monkeypatch.setattr(oracles._gaussian, "_DENSE", 1)
    with jax.enable_x64(True):
        rank = 9 if wide else 2
        factor = jax.random.normal(key, (6, rank), jnp.float64)
        prior = oracles.Gaussian.from_factor(jnp.arange(6.0).reshape(3, 2, 1), factor, jnp.linspace(0.1, 1, 6))
        covariance = factor @ factor.T + jnp.diag(jnp.linspace(0.1, 1, 6))
        np.testing.assert_allclose(prior.covariance, covariance, rtol=1e-12)
        np.testing.assert_allclose(prior.variance.ravel(), jnp.diagonal(covariance), rtol=1e-12)
        x = np.linspace(-1, 2, 6)
        expected = scipy.stats.multivariate_normal(np.arange(6.0), covariance).logpdf(x)
        np.testing.assert_allclose(prior.log_prob(x.reshape(3, 2, 1)), expected, rtol=1e-10)
        # A draw is of the factor and the diagonal side by side.
        z = jax.random.normal(jax.random.fold_in(key, 0), (rank + 6,), jnp.float64)
        expected = prior.mean.ravel() + prior.full_factor() @ z
        np.testing.assert_allclose(prior.sample(1, key=key)[0].ravel(), expected, rtol=1e-12)


LARGE = jax.ShapeDtypeStruct((20, 256, 256, 1), jnp.float32)


@pytest.mark.parametrize("name", ["from_samples", "posterior", "log_prob", "noised", "score", "sample", "variance"])
def test_nothing_of_twenty_large_images_has_the_size_of_a_covariance(name):
    def use(samples):
        prior = oracles.Gaussian.from_samples(samples)
        x = samples[0]
        operator = operators.Convolution(jnp.ones((3, 3)), x.shape)
        process = diffusion.VP()
        uses = {
            "from_samples": lambda: prior.factor,
            "posterior": lambda: (
                classical.gaussian(Likelihood(operator, noise.Gaussian(0.1)), prior, operator(x)).value
            ),
            "log_prob": lambda: prior.log_prob(x),
            "noised": lambda: prior.noised(process, 0.5).log_prob(x),
            "score": lambda: prior.score(process)(0.5, x),
            "sample": lambda: prior.noised(process, 0.5).sample(2, key=jax.random.key(0)),
            "variance": lambda: prior.noised(process, 0.5).variance,
        }
        return uses[name]()

    largest = max(
        math.prod(variable.aval.shape)
        for equation in equations(jax.make_jaxpr(use)(LARGE).jaxpr)
        for variable in equation.outvars
        if hasattr(variable.aval, "shape")
    )
    assert largest <= 2 * math.prod(LARGE.shape)
