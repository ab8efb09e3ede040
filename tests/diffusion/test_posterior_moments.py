"""The moments that guided methods use, and other kinds of measurements."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_law
from noising import gaussian
from posteriors import (
    DRAWS,
    MATRIX,
    METHODS,
    STDS,
    STEPS,
    VP,
    Y,
    conditional,
    linear_gaussian,
    names,
    none,
    problem,
    solve,
)

from jaxinv import Likelihood, diffusion, noise, operators, oracles
from jaxinv.diffusion._posterior._moments import Moments, gain_product, innovation_at, moments, root_product
from jaxinv.diffusion._posterior._problem import dense_problem, linear_problem


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def dense_moments(t, x):
    """Denoised image and covariance at a state, and the whitened matrix and residual."""
    image, _, covariance = conditional(VP, t, x[:, None])
    return image[:, 0], covariance, MATRIX / STDS[:, None], (Y - MATRIX @ image[:, 0]) / STDS


def test_moments_against_linear_algebra(key):
    process, t, x = diffusion.VP(), 0.3, np.array([0.5, -1.0, 2.0])
    score = gaussian().score(process)
    image, covariance, rows, residual = dense_moments(t, x)
    likelihood, y = linear_gaussian()
    linear, _ = linear_problem(likelihood, score, y, "this")
    dense, _ = dense_problem(likelihood, score, y, "this")

    @jax.jit
    def everything(t, x, z):
        at = moments(score, t, x)
        residual = linear.residual(at.image)
        # Where the derivative of a network is negative nothing is told: here nowhere else.
        negative = eqx.tree_at(lambda a: a.factor, at, -100 * at.factor)
        innovation = innovation_at(dense, at)
        return {
            "image": at.image,
            "covariance": jax.vmap(at.covariance_product)(jnp.eye(3)),
            "tabulated": jax.vmap(at.tabulated().covariance_product)(jnp.eye(3)),
            "root": root_product(at, z, 3)[0],
            "residual": residual,
            "shift and steps": gain_product(linear, at, residual, 1e-12, 10)[:2],
            "negative": gain_product(linear, negative, residual, 1e-12, 10)[0],
            "log density": innovation.log_density() - dense.constant,
            "dense shift": innovation.gain_product(innovation.residual),
        }

    z = jax.random.normal(key, (3,))
    found = everything(jnp.asarray(t), jnp.asarray(x), z)
    np.testing.assert_allclose(found["image"], image, rtol=1e-10)
    np.testing.assert_allclose(found["covariance"], covariance, atol=1e-12)
    np.testing.assert_allclose(found["tabulated"], covariance, atol=1e-12)
    values, vectors = np.linalg.eigh(covariance)
    np.testing.assert_allclose(found["root"], vectors @ (np.sqrt(values) * (vectors.T @ z)), rtol=1e-8)
    gram = rows @ covariance @ rows.T + np.eye(2)
    np.testing.assert_allclose(found["residual"], residual, rtol=1e-10)
    expected = covariance @ rows.T @ np.linalg.solve(gram, residual)
    shift, steps = found["shift and steps"]
    np.testing.assert_allclose(shift, expected, rtol=1e-10)
    assert steps == 2
    np.testing.assert_array_equal(found["negative"], np.zeros(3))
    normal = -0.5 * (residual @ np.linalg.solve(gram, residual) + np.linalg.slogdet(2 * np.pi * gram)[1])
    # The density of the data, not of the whitened data.
    np.testing.assert_allclose(found["log density"], normal - np.sum(np.log(STDS)), rtol=1e-10)
    np.testing.assert_allclose(found["dense shift"], expected, rtol=1e-10)


@functools.partial(jax.jit, static_argnums=2)
def root_of(matrix, z, steps):
    at = Moments(jnp.zeros(5), jnp.zeros(5), jnp.ones(()), lambda v: (jnp.matmul(matrix, v),))
    return root_product(at, z, steps)[0]


def test_root_product_of_few_eigenvalues():
    # Exact with a step for each different one. Those below zero count as zero.
    rng = np.random.default_rng(0)
    z, basis = rng.normal(size=5), np.linalg.qr(rng.normal(size=(5, 5)))[0]
    for values in ((2.0, 2.0, 0.5, 0.5, 0.5), (1.0, 1e-6, 3.0, 0.0, 0.0), (1.0, -0.5, 2.0, 3.0, 1.0)):
        matrix = jnp.asarray(basis * values @ basis.T)
        expected = basis @ (np.sqrt(np.maximum(values, 0)) * (basis.T @ z))
        for steps in {len(set(values)), 6}:
            np.testing.assert_allclose(root_of(matrix, jnp.asarray(z), steps), expected, atol=1e-7)
        np.testing.assert_array_equal(root_of(matrix, jnp.zeros(5), 6), 0)


def as_matrix(operator):
    """The matrix of the real parts and the imaginary parts of the measurements, with their levels of noise."""
    parts = lambda leaf: (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,)
    rows = lambda y: jnp.concatenate([part.ravel() for leaf in jax.tree.leaves(y) for part in parts(leaf)])
    size = int(np.prod(operator.domain.shape))
    columns = [rows(operator(column.reshape(operator.domain.shape))) for column in np.eye(size)]
    return operators.Matrix(jnp.stack(columns, axis=1), operator.domain.shape), rows


def complex_problem():
    mask = jnp.asarray(np.array([[1.0, 0.0], [1.0, 1.0]])[..., None])
    return operators.MaskedFourier(mask) @ operators.Real((2, 2, 1)), 0.6, 0.6


def stacked_problem():
    first, second = METHODS["TMPD"].operator(0, float), operators.Downsample((2, 2, 1), 2)
    return operators.stack([first, second]), (0.5, 0.8), jnp.asarray([0.5, 0.5, 0.5, 0.8])


EQUIVALENT = {"complex": complex_problem, "stack": stacked_problem}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("TMPD", "stack"),
        ("PiGDM", "complex"),
        ("DPS", "stack"),
        # The cloud moves by these methods; its own weights are of moments, or of the likelihood.
        ("TDS-MomentMatching", "complex"),
        ("TDS-DPS", "complex"),
    ],
)
def test_other_measurements_are_those_of_a_real_matrix(name, kind):
    # These methods draw no noise of the shape of the data, so both forms of the problem get the same numbers.
    row, (operator, std, levels) = METHODS[name], EQUIVALENT[kind]()
    p = problem(row, 0, jnp.float64)
    likelihood = Likelihood(operator, noise.Gaussian(std))
    y = likelihood.simulate(p["score"].function.args[0].mean, key=jax.random.key(7))
    matrix, rows = as_matrix(operator)
    real = {"likelihood": Likelihood(matrix, noise.Gaussian(levels)), "y": rows(y)}
    got, expected = (solve(row)(p | q) for q in ({"likelihood": likelihood, "y": y}, real))
    np.testing.assert_allclose(got.value, expected.value, atol=1e-8)
    np.testing.assert_array_equal(got.stats["vjps"], expected.stats["vjps"])
    if row.particles:
        # Unmeasured entries are rows of zeros, which the matrix takes for measured.
        missing = 2 if kind == "complex" else 0
        constant = missing * (np.log(0.6) + 0.5 * np.log(2 * np.pi))
        np.testing.assert_allclose(got.stats["log_evidence"], expected.stats["log_evidence"] + constant, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EQUIVALENT)
def test_law_of_other_measurements(kind, key):
    # Moment matching draws noise of the shape of the data.
    row, (operator, std, _) = METHODS["MomentMatching"], EQUIVALENT[kind]()
    factor = np.random.default_rng(0).normal(size=(4, 9)) / 3
    prior = oracles.Gaussian(jnp.ones((2, 2, 1)), jnp.asarray(factor @ factor.T))
    likelihood, process = Likelihood(operator, noise.Gaussian(std)), diffusion.VP()
    y = likelihood.simulate(jnp.zeros((2, 2, 1)), key=key)
    solution = diffusion.posterior_sample(
        likelihood, prior.score(process), y, key=key, method=row.make(STEPS), num_samples=DRAWS
    )
    posterior = prior.posterior(likelihood, y)
    assert_law(np.asarray(solution.check().value).reshape(DRAWS, 4), posterior.mean.ravel(), posterior.covariance)


@pytest.mark.slow
@names(lambda row: row.step is not None and (not row.twin or row.within is none))
def test_photons_are_taken_by_their_approximation(name):
    row = METHODS[name]
    p = problem(row, 0, jnp.float64)
    operator = operators.Matrix(abs(p["likelihood"].operator.matrix), (2, 2, 1))
    y = jnp.array([30.0, 0.0, 45.0])
    photons = noise.Poisson(20.0)
    data, std = photons.linearise(y)
    poisson = p | {"likelihood": Likelihood(operator, photons), "y": y}
    normal = p | {"likelihood": Likelihood(operator, noise.Gaussian(std)), "y": data}
    got, expected = solve(row)(poisson), solve(row)(normal)
    assert np.all(np.isfinite(got.value))
    if name != "TDS-DPS":
        np.testing.assert_allclose(got.value, expected.value, rtol=1e-9)
        return
    # Its twist is the likelihood of the counts.
    assert np.isfinite(got.stats["log_evidence"])
