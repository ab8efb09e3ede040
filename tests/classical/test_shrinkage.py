import jax
import numpy as np
import pytest
from verbs import SHAPE, SIZE, codes, rng_of

from jaxinv import Likelihood, noise, operators, oracles, regularisers
from jaxinv.classical import fista, ista

RNG = rng_of(0)
MATRIX = RNG.normal(size=(12, 20)) / 12**0.5
SPARSE = np.where(RNG.uniform(size=20) < 0.2, RNG.normal(size=20), 0)
STD = 0.1
Y = MATRIX @ SPARSE + STD * RNG.normal(size=12)
BOTH = pytest.mark.parametrize("verb", [ista, fista], ids=["ista", "fista"])
TIGHT = {"rtol": 1e-13, "max_steps": 100_000}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def likelihood(matrix=MATRIX):
    return Likelihood(operators.Matrix(matrix, (matrix.shape[1],)), noise.Gaussian(STD))


def soft(x, step):
    modulus = np.abs(x)
    return x * np.maximum(modulus - step, 0) / np.maximum(modulus, 1e-300)


@BOTH
def test_an_orthonormal_operator_is_soft_thresholding(verb):
    matrix = np.linalg.qr(RNG.normal(size=(20, 20)))[0]
    y = matrix @ SPARSE + STD * RNG.normal(size=20)
    x = verb(likelihood(matrix), y, weight=20.0, **TIGHT).check().value
    np.testing.assert_allclose(x, soft(matrix.T @ y, 20.0 * STD**2), atol=1e-9)


def test_a_complex_image():
    operator = operators.MaskedFourier(np.ones(SHAPE))
    y = RNG.normal(size=SHAPE) + 1j * RNG.normal(size=SHAPE)
    x = fista(Likelihood(operator, noise.Gaussian(1.0)), y, weight=0.8, **TIGHT).check().value
    np.testing.assert_allclose(x, soft(operator.adjoint(y), 0.8), atol=1e-9)


@BOTH
def test_equals_the_lasso_of_scikit_learn(verb):
    linear_model = pytest.importorskip("sklearn.linear_model")
    weight = 10.0
    x = verb(likelihood(), Y, weight=weight, **TIGHT).check().value
    lasso = linear_model.Lasso(alpha=weight * STD**2 / 12, fit_intercept=False, tol=1e-12, max_iter=100_000)
    expected = lasso.fit(MATRIX, Y).coef_
    np.testing.assert_allclose(x, expected, atol=1e-7)
    assert 0 < np.count_nonzero(expected) < 20
    # Zeros are exact zeros.
    np.testing.assert_array_equal(np.asarray(x) == 0, expected == 0)


@pytest.mark.slow
def test_ista_decreases_the_objective_and_fista_is_faster():
    after = lambda verb, n: float(verb(likelihood(), Y, weight=10.0, rtol=0.0, max_steps=n).stats["objective"])
    objectives = [after(ista, n) for n in (1, 2, 5, 20)]
    assert objectives == sorted(objectives, reverse=True)
    best = float(ista(likelihood(), Y, weight=10.0, **TIGHT).stats["objective"])
    assert after(fista, 20) - best < 0.5 * (objectives[-1] - best)


def test_a_prior_with_a_prox_gives_its_posterior_mean():
    factor = RNG.normal(size=(SIZE, 40)) / 40**0.5
    prior = oracles.Gaussian(np.ones(SHAPE), factor @ factor.T)
    problem = Likelihood(operators.Mask(RNG.uniform(size=SHAPE) < 0.6), noise.Gaussian(0.5))
    y = RNG.normal(size=SHAPE)
    x = fista(problem, y, weight=1.0, regulariser=regularisers.Gaussian(prior), **TIGHT).check().value
    np.testing.assert_allclose(x, prior.posterior(problem, y).mean, atol=1e-8)


@BOTH
def test_the_step_size_of_a_wrong_norm(verb):
    # A norm a thousand times too small: the objective grows beyond all bounds, and the last finite iterate is returned.
    small = verb(likelihood(), Y, weight=10.0, norm=1e-3, max_steps=200)
    assert str(codes(small.result)) == "diverged"
    assert np.isfinite(small.value).all()
    true = np.linalg.norm(MATRIX, 2)
    known = verb(likelihood(), Y, weight=10.0, norm=true, **TIGHT).check().value
    np.testing.assert_allclose(known, verb(likelihood(), Y, weight=10.0, **TIGHT).value, atol=1e-9)


@BOTH
def test_a_weight_above_the_critical_one_gives_zero(verb):
    critical = np.max(np.abs(MATRIX.T @ Y)) / STD**2
    np.testing.assert_array_equal(verb(likelihood(), Y, weight=1.01 * critical).check().value, 0)
    assert np.any(verb(likelihood(), Y, weight=0.99 * critical, **TIGHT).value != 0)
