"""`mlem`, `osem`, `sirt` and the exact photon likelihood of the primal-dual method, against independent optima."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from verbs import SHAPE, SIZE, codes, rng_of

from jaxinv import Likelihood, classical, noise, operators, regularisers

RNG = rng_of(0)
MATRIX = RNG.uniform(size=(40, SIZE)) * (RNG.uniform(size=(40, SIZE)) < 0.3)
TRUTH = RNG.uniform(0.5, 2, size=SIZE) * (RNG.uniform(size=SIZE) < 0.6)
GAIN, BACKGROUND = 5.0, 2.0
Y = RNG.poisson(GAIN * MATRIX @ TRUTH + BACKGROUND).astype(float)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def likelihood(**options):
    return Likelihood(operators.Matrix(MATRIX, SHAPE), noise.Poisson(GAIN, **options))


def optimum(weight=0.0):
    """The least negative log-likelihood plus `weight * sum(x)`, without its constants, over `x >= 0`."""

    def objective(x):
        mean = GAIN * MATRIX @ x + BACKGROUND
        return np.sum(mean - Y * np.log(mean)) + weight * x.sum(), GAIN * MATRIX.T @ (1 - Y / mean) + weight

    options = {"maxiter": 50_000, "maxfun": 100_000, "ftol": 1e-15, "gtol": 1e-10}
    best = scipy.optimize.minimize(
        objective, np.ones(SIZE), jac=True, method="L-BFGS-B", bounds=[(0, None)] * SIZE, options=options
    )
    return best.fun, best.x


CONSTANT = sum(float(jax.scipy.special.gammaln(count + 1)) for count in Y)


def test_mlem_ascends_to_the_maximum():
    problem = likelihood(background=BACKGROUND)
    after = lambda n: classical.mlem(problem, Y, rtol=0.0, max_steps=n)
    objectives = [float(after(n).stats["objective"]) for n in (1, 5, 100)]
    assert objectives == sorted(objectives, reverse=True)
    best, _ = optimum()
    solution = classical.mlem(problem, Y, rtol=1e-10, max_steps=200_000).check()
    assert np.all(solution.value >= 0)
    np.testing.assert_allclose(solution.stats["objective"] - CONSTANT, best, rtol=1e-6)


def test_mlem_without_background_keeps_the_counts():
    # The expected counts of every step are as many as there are.
    problem = likelihood()
    x = classical.mlem(problem, Y, rtol=0.0, max_steps=3).value
    np.testing.assert_allclose(jnp.sum(problem.noise.expected(problem.operator(x))), Y.sum(), rtol=1e-12)


def test_mlem_refuses():
    signed = Likelihood(operators.Matrix(MATRIX - 0.5, SHAPE), noise.Poisson(GAIN))
    assert str(codes(classical.mlem(signed, Y).result)) == "breakdown"
    assert str(codes(classical.mlem(likelihood(), -Y).result)) == "nonfinite_measurement"
    with pytest.raises(ValueError, match="noise.Poisson"):
        classical.mlem(Likelihood(operators.Matrix(MATRIX, SHAPE), noise.Gaussian(1.0)), Y)


@pytest.mark.slow
def test_osem_with_one_subset_is_mlem_and_with_more_is_faster():
    problem = likelihood(background=BACKGROUND)
    one = classical.osem(problem, Y, subsets=1, max_steps=7)
    np.testing.assert_array_equal(one.value, classical.mlem(problem, Y, rtol=0.0, max_steps=7).value)
    # 40 rows in 6 subsets: the last two have one row less.
    fast = classical.osem(problem, Y, subsets=6, max_steps=30)
    assert str(codes(fast.result)) == "successful"
    # Five passes over the data each; the subsets are small and noisy.
    slow = classical.mlem(problem, Y, rtol=0.0, max_steps=5)
    assert fast.stats["objective"] < slow.stats["objective"]
    with pytest.raises(ValueError, match="at most the length"):
        classical.osem(problem, Y, subsets=41)


@pytest.mark.parametrize("beam", ["parallel", "any"])
def test_rows_of_an_operator(beam):
    angles = jnp.linspace(0.1, 3, 5)
    operator = operators.ParallelBeam(SHAPE, angles) if beam == "parallel" else operators.Matrix(MATRIX, SHAPE)
    indices = jnp.array([3, 0])
    rows, x = operator.rows(indices), jnp.asarray(RNG.normal(size=SHAPE))
    np.testing.assert_allclose(rows(x), operator(x)[indices], rtol=1e-12)
    y = jnp.asarray(RNG.normal(size=rows.codomain.shape))
    np.testing.assert_allclose(jnp.vdot(rows(x), y), jnp.vdot(x, rows.adjoint(y)), rtol=1e-10)


def test_sirt_is_weighted_least_squares():
    operator = operators.Matrix(MATRIX, SHAPE)
    y = MATRIX @ TRUTH + 0.1 * RNG.normal(size=40)
    x = classical.sirt(Likelihood(operator, noise.Gaussian(0.1)), y, rtol=1e-12, max_steps=200_000).check().value
    root = 1 / np.sqrt(MATRIX.sum(1))
    expected = np.linalg.lstsq(root[:, None] * MATRIX, root * y, rcond=None)[0]
    np.testing.assert_allclose(x.ravel(), expected, atol=1e-4)
    box = regularisers.Box(0.0, 1.0)
    x = classical.sirt(
        Likelihood(operator, noise.Gaussian(0.1)), y, constraint=box, rtol=1e-12, max_steps=200_000
    ).value.ravel()
    bounded = scipy.optimize.lsq_linear(root[:, None] * MATRIX, root * y, (0, 1), tol=1e-12).x
    # The projection is orthogonal, and the steps are those of another norm: a fixed point is a minimiser all the same.
    np.testing.assert_allclose(x, bounded, atol=1e-3)


def test_the_exact_likelihood_with_a_penalty():
    weight = 3.0
    solution = classical.primal_dual(
        likelihood(background=BACKGROUND),
        regularisers.L1(),
        Y,
        weight=weight,
        constraint=regularisers.NonNegative(),
        rtol=1e-10,
        max_steps=100_000,
    ).check()
    best, x = optimum(weight)
    assert np.all(solution.value >= 0)
    np.testing.assert_allclose(solution.stats["objective"] - CONSTANT, best, rtol=1e-7)
    np.testing.assert_allclose(solution.value.ravel(), x, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["emission", "transmission"])
def test_exact_total_variation_has_no_descent_direction(kind):
    # At the solution: compared with the objective itself nearby, for both photon models.
    operator = operators.Matrix(MATRIX / 4, SHAPE)
    model = noise.Poisson(GAIN, background=BACKGROUND) if kind == "emission" else noise.TransmissionPoisson(30.0)
    problem = Likelihood(operator, model)
    y = problem.simulate(TRUTH.reshape(SHAPE), key=jax.random.key(0))
    smoothed, bound = regularisers.Smoothed(0.05), regularisers.NonNegative()
    x = classical.tv(problem, y, weight=2.0, kind=smoothed, constraint=bound, exact=True, rtol=1e-10, max_steps=50_000)
    image = x.check().value
    slope = jax.grad(lambda x: problem.negative_log_likelihood(x, y) + 2.0 * regularisers.TV(smoothed)(x))(image)
    # The gradient vanishes inside, and points inwards at the bound.
    inside = np.asarray(image) > 1e-6
    assert np.max(np.abs(slope[inside])) < 1e-4
    assert np.min(slope[~inside], initial=0.0) > -1e-4
