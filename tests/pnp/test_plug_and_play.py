"""Plug-and-play: fixed points against linear algebra, the minimisers of other solvers, and what denoisers promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinv import Likelihood, classical, diffusion, models, noise, operators, oracles, pnp, regularisers

SHAPE, SIZE, ROWS = (6, 5, 1), 30, 20
RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(ROWS, SIZE)) / SIZE**0.5
BASIS = np.linalg.qr(RNG.normal(size=(SIZE, SIZE)))[0]
SMOOTHER = BASIS * RNG.uniform(0.2, 0.95, SIZE) @ BASIS.T
Y = RNG.normal(size=ROWS)
STD, SIGMA, WEIGHT = 0.2, 0.3, 2.0
HESSIAN, PULL = MATRIX.T @ MATRIX / STD**2, MATRIX.T @ Y / STD**2


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def smooth(matrix, x, sigma):
    del sigma
    return jnp.matmul(matrix, x.ravel(), precision="highest").reshape(x.shape)


def denoiser():
    return pnp.Denoiser(jax.tree_util.Partial(smooth, jnp.asarray(SMOOTHER)))


def likelihood():
    return Likelihood(operators.Matrix(jnp.asarray(MATRIX), SHAPE), noise.Gaussian(STD))


def of_proximal_steps(step):
    # x = W (x - step grad f(x)).
    return np.linalg.solve(np.eye(SIZE) - SMOOTHER + step * SMOOTHER @ HESSIAN, step * SMOOTHER @ PULL)


TIGHT = {"max_steps": 3000, "rtol": 1e-12}
RESIDUAL = np.eye(SIZE) - SMOOTHER
# The bound of the curvature is 1.05 times an estimate of the norm; the fixed point of `PGD` depends on it.
FIXED_POINTS = {
    "PGD": (
        pnp.PGD(SIGMA, **TIGHT),
        lambda problem: of_proximal_steps(1 / float(problem.data.curvature)),
    ),
    "ADMM": (
        pnp.ADMM(SIGMA, weight=WEIGHT, solver_rtol=1e-12, **TIGHT),
        lambda problem: of_proximal_steps(SIGMA**2 / WEIGHT),
    ),
    "RED": (
        pnp.RED(SIGMA, weight=WEIGHT, max_steps=5000, rtol=1e-12),
        lambda problem: np.linalg.solve(HESSIAN + WEIGHT / SIGMA**2 * RESIDUAL, PULL),
    ),
    "GradientStep": (
        pnp.GradientStep(SIGMA, weight=WEIGHT, max_steps=3000, rtol=1e-10, solver_rtol=1e-12),
        lambda problem: np.linalg.solve(HESSIAN + WEIGHT / SIGMA**2 * RESIDUAL @ RESIDUAL, PULL),
    ),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "PGD" else pytest.mark.slow) for n in FIXED_POINTS])
def test_fixed_points_of_a_linear_denoiser(name):
    method, expected = FIXED_POINTS[name]
    problem, _ = method.prepare(likelihood(), denoiser(), jnp.asarray(Y), None)
    solution = pnp.reconstruct(likelihood(), denoiser(), jnp.asarray(Y), method=method).check()
    reference = expected(problem)
    np.testing.assert_allclose(solution.value.ravel(), reference, atol=1e-6 * np.abs(reference).max())
    changes = solution.aux["changes"][: solution.stats["num_steps"]]
    assert changes[-1] == solution.stats["change"] < changes[0]


def test_half_quadratic_splitting_step_by_step():
    weight, sigmas = 0.5, np.geomspace(0.4, 0.1, 3)
    z = np.zeros(SIZE)
    for sigma in sigmas:
        penalty = weight / sigma**2
        z = SMOOTHER @ np.linalg.solve(HESSIAN + penalty * np.eye(SIZE), PULL + penalty * z)
    method = pnp.HQS(3, sigma_max=0.4, sigma_min=0.1, weight=weight, rtol=1e-10)
    solution = pnp.reconstruct(likelihood(), denoiser(), jnp.asarray(Y), method=method).check()
    np.testing.assert_allclose(solution.value.ravel(), z, rtol=1e-7)
    assert solution.stats["denoiser_evaluations"] == 3


@pytest.mark.slow
def test_proximal_denoisers_give_the_variational_solution():
    y, penalty = jnp.asarray(Y), 3 * regularisers.TV()
    expected = classical.tv(likelihood(), y, weight=3.0, rtol=1e-9, max_steps=20_000).check().value
    method = pnp.ADMM(0.1, rtol=1e-9, max_steps=3000)
    solution = pnp.reconstruct(likelihood(), pnp.Proximal(penalty, num_steps=60), y, method=method).check()
    # The proximal map of total variation is that of sixty rounds.
    np.testing.assert_allclose(solution.value, expected, atol=1e-4)


@pytest.mark.slow
def test_regularisation_by_the_score_is_the_posterior_mean_of_a_gaussian():
    covariance = BASIS * RNG.uniform(0.01, 0.1, SIZE) @ BASIS.T
    prior = oracles.Gaussian(jnp.full(SHAPE, 0.5), jnp.asarray(covariance))
    sigma = 0.05
    # The prior of images with noise `sigma`.
    noisy = oracles.Gaussian(jnp.full(SHAPE, 0.5), jnp.asarray(covariance + sigma**2 * np.eye(SIZE)))
    expected = classical.gaussian(likelihood(), noisy, jnp.asarray(Y)).value
    score = pnp.FromScore(prior.score(diffusion.VP()))
    method = pnp.RED(sigma, max_steps=5000, rtol=1e-10)
    solution = pnp.reconstruct(likelihood(), score, jnp.asarray(Y), method=method).check()
    np.testing.assert_allclose(solution.value, expected, atol=1e-6)


@pytest.mark.slow
def test_the_objective_of_gradient_steps_falls():
    # A denoiser that is far from nonexpansive.
    wild = pnp.Denoiser(lambda x, sigma: x - 0.9 * jnp.sin(3 * x))
    objectives = [
        float(
            pnp.reconstruct(
                likelihood(), wild, jnp.asarray(Y), method=pnp.GradientStep(SIGMA, max_steps=n, rtol=0.0)
            ).stats["objective"]
        )
        for n in (1, 4, 12)
    ]
    assert objectives[0] > objectives[1] > objectives[2]


def test_certificate_against_eigenvalues():
    image = jnp.asarray(RNG.normal(size=SHAPE))
    certificate = pnp.certify(denoiser(), image, SIGMA, key=jax.random.key(0))
    values = np.linalg.eigvalsh(SMOOTHER)
    # Fifty steps of a power iteration, which approaches them from below.
    np.testing.assert_allclose(certificate.lipschitz, values[-1], rtol=1e-2)
    np.testing.assert_allclose(certificate.residual_lipschitz, 1 - values[0], rtol=1e-2)
    assert certificate.asymmetry < 1e-12
    assert "lipschitz=" in repr(certificate)
    twice = pnp.certify(pnp.Denoiser(lambda x, sigma: 2 * x), image, SIGMA, key=jax.random.key(0))
    with pytest.raises(RuntimeError, match="leaves"):
        twice.check()


def test_equivariance():
    turn = lambda x, sigma: x + jnp.arange(SIZE, dtype=x.dtype).reshape(SHAPE) * sigma
    averaged = pnp.Equivariant(pnp.Denoiser(turn))
    x = jnp.asarray(RNG.normal(size=SHAPE))
    np.testing.assert_allclose(averaged(x[::-1], 0.1), averaged(x, 0.1)[::-1], rtol=1e-12)
    square = jnp.asarray(RNG.normal(size=(4, 4, 2)))
    asymmetric = pnp.Equivariant(pnp.Denoiser(lambda x, sigma: x + sigma * jnp.cumsum(jnp.cumsum(x, 0) + x**2, 1)))
    np.testing.assert_allclose(asymmetric(jnp.rot90(square), 0.1), jnp.rot90(asymmetric(square, 0.1)), rtol=1e-12)
    # Each draw is one element of the group, and their mean is the call.
    draws = jax.vmap(lambda key: asymmetric.draw(square, 0.1, key=key))(jax.random.split(jax.random.key(0), 64))
    distinct = np.unique(np.round(np.asarray(draws).reshape(64, -1), 9), axis=0)
    assert distinct.shape[0] == 8
    np.testing.assert_allclose(distinct.mean(axis=0).reshape(square.shape), asymmetric(square, 0.1), atol=1e-8)


def test_any_operator_and_photons():
    magnitude = Likelihood(operators.Magnitude(operators.Identity(SHAPE)), noise.Gaussian(0.1))
    start = jnp.full(SHAPE, 0.5)
    solution = pnp.reconstruct(magnitude, denoiser(), jnp.ones(SHAPE), method=pnp.PGD(0.1, max_steps=5), start=start)
    assert jnp.all(jnp.isfinite(solution.value))
    assert solution.stats["num_steps"] == 5
    with pytest.raises(ValueError, match="`HQS` needs a linear operator"):
        pnp.reconstruct(magnitude, denoiser(), jnp.ones(SHAPE))


def test_a_wrong_denoiser_is_named():
    network = models.DRUNet((None, None, 1), widths=(2, 2), num_blocks=1, rngs=nnx.Rngs(0))
    score = oracles.Gaussian(jnp.zeros(SHAPE), jnp.eye(SIZE)).score(diffusion.VP())
    for wrong, advice in (
        (score, "FromScore"),
        (network, "denoiser_from"),
        (regularisers.L1(), "Proximal"),
        (lambda x, s: x, "Denoiser"),
    ):
        with pytest.raises(ValueError, match=advice):
            pnp.reconstruct(likelihood(), wrong, jnp.asarray(Y))


def test_warnings():
    identity = Likelihood(operators.Identity(SHAPE), noise.Gaussian(1.0))
    limited = pnp.Denoiser(lambda x, sigma: 0.5 * x, sigma_range=(0.0, 0.1))
    with pytest.warns(UserWarning, match=r"sigma from 0\.192 to 0\.192; it is made for 0 to 0\.1"):
        pnp.reconstruct(identity, limited, jnp.ones(SHAPE), method=pnp.HQS(1))
    with pytest.warns(UserWarning, match="values up to 200"):
        pnp.reconstruct(identity, denoiser(), jnp.full(SHAPE, 200.0), method=pnp.HQS(1))
    # A sum of many pixels may be large.
    total = Likelihood(operators.Matrix(jnp.ones((2, SIZE)), SHAPE), noise.Gaussian(1.0))
    pnp.reconstruct(total, denoiser(), np.full(2, 25.0), method=pnp.HQS(1))
    with pytest.warns(UserWarning, match="values up to 5000; of an image of ones the operator makes values up to 30"):
        pnp.reconstruct(total, denoiser(), np.full(2, 5000.0), method=pnp.HQS(1))
