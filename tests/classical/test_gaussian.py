"""`classical.gaussian`; the posterior itself is tested in `tests/oracles`."""

import jax
import numpy as np
import pytest
from verbs import SHAPE, SIZE, codes, rng_of

from jaxinv import Implicit, Likelihood, Unrolled, noise, operators, oracles
from jaxinv.classical import gaussian

RNG = rng_of(0)
FACTOR = RNG.normal(size=(SIZE, 40)) / 40**0.5
COVARIANCE = FACTOR @ FACTOR.T
MEAN = RNG.normal(size=SHAPE)
MATRIX = RNG.normal(size=(20, SIZE))
Y = RNG.normal(size=20)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def dense(matrix, b, precision):
    """Mean and covariance of the posterior, in the information form."""
    posterior = np.linalg.inv(np.linalg.inv(COVARIANCE) + matrix.T @ precision @ matrix)
    return MEAN.ravel() + posterior @ matrix.T @ precision @ (b - matrix @ MEAN.ravel()), posterior


def test_value_and_posterior():
    prior = oracles.Gaussian(MEAN, COVARIANCE)
    solution = gaussian(Likelihood(operators.Matrix(MATRIX, SHAPE), noise.Gaussian(0.3)), prior, Y).check()
    mean, covariance = dense(MATRIX, Y, np.eye(20) / 0.3**2)
    # The inverse of the prior covariance in the reference has a condition number of 1e3.
    np.testing.assert_allclose(solution.value.ravel(), mean, atol=1e-9)
    np.testing.assert_array_equal(solution.aux.mean, solution.value)
    np.testing.assert_allclose(solution.aux.covariance, covariance, atol=1e-10)
    np.testing.assert_allclose(solution.aux.variance.ravel(), np.diag(covariance), atol=1e-10)


def test_photons():
    model = noise.TransmissionPoisson(300.0)
    matrix = np.abs(MATRIX) / SIZE
    likelihood = Likelihood(operators.Matrix(matrix, SHAPE), model)
    counts = likelihood.simulate(np.abs(MEAN), key=jax.random.key(0))
    line, std = (np.asarray(v) for v in model.linearise(counts))
    solution = gaussian(likelihood, oracles.Gaussian(MEAN, COVARIANCE), counts).check()
    np.testing.assert_allclose(solution.value.ravel(), dense(matrix, line, np.diag(std**-2.0))[0], atol=1e-9)


@pytest.mark.parametrize("differentiate", [None, Unrolled(), Implicit()], ids=["none", "unrolled", "implicit"])
def test_gradient(differentiate):
    prior = oracles.Gaussian(MEAN, COVARIANCE)
    c = RNG.normal(size=SHAPE)

    def loss(std, differentiate):
        likelihood = Likelihood(operators.Matrix(MATRIX, SHAPE), noise.Gaussian(std))
        return (c * gaussian(likelihood, prior, Y, differentiate=differentiate).value).sum()

    exact = lambda s: c.ravel() @ dense(MATRIX, Y, np.eye(20) / s**2)[0]
    expected = (exact(0.3 + 1e-5) - exact(0.3 - 1e-5)) / 2e-5
    # Central differences with rounding of 1e-12 over 1e-5.
    np.testing.assert_allclose(jax.grad(loss)(0.3, differentiate), expected, rtol=1e-5)


def test_breakdown():
    matrix = np.full((20, SIZE), np.nan)
    likelihood = Likelihood(operators.Matrix(matrix, SHAPE), noise.Gaussian(0.3))
    solution = gaussian(likelihood, oracles.Gaussian(MEAN, COVARIANCE), Y)
    assert str(codes(solution.result)) == "breakdown"
    np.testing.assert_array_equal(solution.value, 0)
