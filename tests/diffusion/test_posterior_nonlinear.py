"""`LookAhead`, for operators that are not linear and photon noise, against quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import Likelihood, diffusion, noise, operators, oracles
from jaxinv.diffusion._posterior._look_ahead import _log_normal


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("count", [3, 8])
def test_log_normal_of_residuals(count):
    # With fewer draws than measurements, and with more.
    residuals = np.random.default_rng(0).normal(size=(count, 5)) + 1
    covariance, mean = np.cov(residuals.T) + np.eye(5), residuals.mean(0)
    expected = -0.5 * (mean @ np.linalg.solve(covariance, mean) + np.linalg.slogdet(covariance)[1])
    np.testing.assert_allclose(_log_normal(jnp.asarray(residuals)), expected, rtol=1e-10)


MATRIX = np.random.default_rng(0).normal(size=(3, 2))


def phase_retrieval():
    prior = oracles.Gaussian(jnp.array([0.5, -0.2]), jnp.array([[1.0, 0.3], [0.3, 0.8]]))
    return prior, operators.NonlinearFunction(lambda x: (MATRIX @ x) ** 2, (2,)), noise.Gaussian(0.3), [1.0, 0.8, 0.6]


def cubic():
    means = jnp.array([[-1.5, 0.0], [1.2, 0.8]])
    prior = oracles.GaussianMixture(jnp.array([0.4, 0.6]), means, jnp.array([0.2, 0.3]))
    return prior, operators.NonlinearFunction(lambda x: x**3, (2,)), noise.Gaussian(0.5), [0.4, 0.3]


def photons():
    prior = oracles.Gaussian(jnp.array([1.2, 1.0]), jnp.array([[0.2, 0.05], [0.05, 0.1]]))
    return prior, operators.NonlinearFunction(jnp.exp, (2,)), noise.Poisson(1.0), [1.0, 5.0]


def by_quadrature(prior, likelihood, y):
    axis = np.linspace(-5, 5, 251)
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2))
    joint = jax.jit(jax.vmap(lambda x: prior.log_prob(x) - likelihood.negative_log_likelihood(x, y)))(grid)
    weights = np.exp(joint - np.max(joint))
    total, grid = weights.sum(), np.asarray(grid)
    mean = weights @ grid / total
    covariance = (grid - mean).T @ ((grid - mean) * weights[:, None]) / total
    return mean, covariance, np.log(total) + np.max(joint) + 2 * np.log(axis[1] - axis[0])


@pytest.mark.slow
@pytest.mark.parametrize("case", [phase_retrieval, cubic, photons])
def test_small_problems_against_quadrature(case, key):
    prior, operator, noise, y = case()
    likelihood, y, process = Likelihood(operator, noise), jnp.asarray(y), diffusion.VP(beta_max=40.0)
    mean, covariance, log_evidence = by_quadrature(prior, likelihood, y)
    method = diffusion.TDS(diffusion.LookAhead(), particles=1024)
    one = lambda key: diffusion.posterior_sample(
        likelihood, prior.score(process), y, key=key, method=method, num_samples=1024
    )
    solution = jax.jit(jax.vmap(one))(jax.random.split(key, 8)).check()
    samples = np.asarray(solution.value).reshape(-1, 2)
    std = np.sqrt(np.diag(covariance))
    # The means of eight clouds are .02 apart, those of two modes .05, and so are the errors of a mean of all of them.
    np.testing.assert_allclose((samples.mean(0) - mean) / std, 0, atol=0.06)
    np.testing.assert_allclose(np.cov(samples.T) / np.outer(std, std), covariance / np.outer(std, std), atol=0.06)
    errors = np.asarray(solution.stats["log_evidence"]) - log_evidence
    said = np.asarray(solution.stats["log_evidence_error"])
    assert abs(errors.mean()) < 3 * said.mean() / np.sqrt(8) + 0.02
    assert 0.3 < errors.std() / said.mean() < 2
