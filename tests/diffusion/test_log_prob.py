"""Encoding, decoding and likelihoods by the probability-flow ODE."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from noising import BASIS, CENTRE, COVARIANCE, MEAN, PROCESSES, VARIANCES, flow_exact, gaussian

from jaxinv import RESULTS, diffusion, oracles

TIGHT = diffusion.ProbabilityFlow(rtol=1e-9, atol=1e-9)
# The rate of `DiscreteVP` jumps at each of its thousand steps. A solver that resolves them takes thousands of steps;
# one that does not meets the mean of the rates, up to some thousandths.
SOLVERS = {name: (TIGHT, 1e-6) for name in PROCESSES} | {"DiscreteVP": (diffusion.ProbabilityFlow(), 5e-3)}
X = np.array([0.4, -1.3, 0.8])


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def terminal(process, row):
    """The exact log-density at `t_max`, of the Gaussian."""
    scale, std, *_ = row.formula(np.float64(row.interval[1]))
    variances = scale**2 * VARIANCES + std**2

    def log_prob(x):
        z = jnp.matmul(BASIS.T, x, precision="highest") - scale * CENTRE
        return -0.5 * jnp.sum(z**2 / variances + np.log(2 * np.pi * variances))

    return log_prob


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSES)
def test_encode_and_decode_of_a_gaussian(name):
    row = PROCESSES[name]
    process, (low, high) = row.make(), row.interval
    score = gaussian().score(process)
    solver, tolerance = SOLVERS[name]
    latent = diffusion.encode(score, X, method=solver).check().value
    expected = BASIS @ flow_exact(row.formula, low, high, (BASIS.T @ X)[:, None])[:, 0]
    # Tolerances of the ODE: 1e-9 a step, of a few hundred, times the growth of the state.
    np.testing.assert_allclose(latent, expected, rtol=tolerance, atol=tolerance)
    image = diffusion.decode(score, latent, method=solver).check().value
    np.testing.assert_allclose(image, X, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [diffusion.UniformTime(), diffusion.Karras()], ids=lambda s: type(s).__name__)
def test_fixed_steps_from_another_time(schedule):
    row, process = PROCESSES["VP"], diffusion.VP()
    method = diffusion.ProbabilityFlow(num_steps=64, schedule=schedule)
    latent = diffusion.encode(gaussian().score(process), X, method=method, t_min=0.5).check().value
    expected = BASIS @ flow_exact(row.formula, 0.5, 1.0, (BASIS.T @ X)[:, None])[:, 0]
    # Steps of fifth order, of about 1e-2.
    np.testing.assert_allclose(latent, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["VP", *(pytest.param(n, marks=pytest.mark.slow) for n in list(PROCESSES)[1:])])
def test_log_prob_of_a_gaussian(name):
    row = PROCESSES[name]
    process, low = row.make(), row.interval[0]
    exact = jax.tree_util.Partial(terminal(process, row))
    solver, tolerance = SOLVERS[name]
    value = diffusion.log_prob(gaussian().score(process), X, method=solver, t_min=low, prior_log_prob=exact)
    scale, std, *_ = row.formula(np.float64(low))
    noised = scipy.stats.multivariate_normal(scale * MEAN, scale**2 * COVARIANCE + std**2 * np.eye(3))
    np.testing.assert_allclose(value, noised.logpdf(X), rtol=0, atol=tolerance)


@pytest.mark.slow
def test_log_prob_under_transforms():
    process = diffusion.VP()
    prior = gaussian()
    exact = jax.tree_util.Partial(terminal(process, PROCESSES["VP"]))

    @jax.jit
    def value_and_grad(x):
        value = lambda x: diffusion.log_prob(prior.score(process), x, method=TIGHT, t_min=1e-6, prior_log_prob=exact)
        return jax.value_and_grad(value)(x)

    rng = np.random.default_rng(0)
    points = MEAN + rng.normal(size=(3, 3)) @ np.linalg.cholesky(COVARIANCE).T
    values, gradients = jax.vmap(value_and_grad)(points)
    # The law of an image itself, from which that at t_min = 1e-6 differs by 1e-7 of its variance.
    expected = jax.vmap(prior.log_prob)(points)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(gradients, -np.linalg.solve(COVARIANCE, (points - MEAN).T).T, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_default_prior_is_the_noise_that_sampling_starts_from():
    # The formula of the docs: change of variables from N(0, I) through a map that is affine for a Gaussian.
    process, row = diffusion.VP(), PROCESSES["VP"]
    value = diffusion.log_prob(gaussian().score(process), X, t_min=1e-5)
    latent = flow_exact(row.formula, 1e-5, 1.0, (BASIS.T @ X)[:, None])[:, 0]
    (a, s, *_), (b, v, *_) = row.formula(np.float64(1e-5)), row.formula(np.float64(1.0))
    slopes = np.sqrt((b**2 * VARIANCES + v**2) / (a**2 * VARIANCES + s**2))
    expected = np.sum(scipy.stats.norm.logpdf(latent) + np.log(slopes))
    # The default tolerance, 1e-5 of each step.
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_hutchinson_is_unbiased(key):
    process = diffusion.VP()
    score = gaussian().score(process)
    method = diffusion.ProbabilityFlow(num_steps=16)
    estimate = lambda probes: jax.jit(
        jax.vmap(lambda key: diffusion.log_prob(score, X, key=key, num_probes=probes, method=method, t_min=1e-2))
    )
    one = estimate(1)(jax.random.split(key, 400))
    exact = diffusion.log_prob(score, X, method=method, t_min=1e-2)
    error = np.std(one) / 20
    assert abs(np.mean(one) - exact) < 4 * error
    # The covariance is not diagonal, so the estimates do differ.
    assert 1e-3 < error < 0.1


@pytest.mark.slow
def test_more_probes_vary_less(key):
    process = diffusion.VP()
    score = gaussian().score(process)
    method = diffusion.ProbabilityFlow(num_steps=16)
    spread = []
    for probes in (1, 8):
        draw = lambda key, n=probes: diffusion.log_prob(score, X, key=key, num_probes=n, method=method, t_min=1e-2)
        spread.append(np.var(jax.vmap(draw)(jax.random.split(key, 400))))
    # The variance of a mean of 8; an F test of 400 against 400 draws.
    ratio = scipy.stats.f(399, 399).ppf([1e-4, 1 - 1e-4])
    assert ratio[0] < spread[0] / (8 * spread[1]) < ratio[1]


def mixture():
    """A mixture of 25 modes in 8 dimensions, the first of `benchmarks/posterior_mixture.py`."""
    grid = 8.0 * np.array(list(itertools.product(range(-2, 3), repeat=2)))
    weights = np.random.default_rng(0).normal(size=25) ** 2
    return oracles.GaussianMixture(weights / weights.sum(), np.tile(grid, (1, 4)), 1.0)


@pytest.mark.slow
def test_log_prob_of_a_mixture(key):
    prior, process = mixture(), diffusion.VP(beta_max=40.0)
    score = prior.score(process)
    points = prior.sample(256, key=key)
    values = jax.jit(jax.vmap(lambda x: diffusion.log_prob(score, x)))(points)
    # The bar of the issue, at the default tolerances and with the default prior.
    assert np.max(abs(values - jax.vmap(prior.log_prob)(points))) < 1e-3


@pytest.mark.slow
def test_hutchinson_on_a_mixture(key):
    # Between modes, where the divergence of the score differs most from that of one Gaussian.
    prior, process = mixture(), diffusion.VP(beta_max=40.0)
    x = jnp.full((8,), 3.5)
    draw = lambda key: diffusion.log_prob(prior.score(process), x, key=key)
    values = jax.jit(jax.vmap(draw))(jax.random.split(key, 256))
    assert abs(np.mean(values) - prior.log_prob(x)) < 4 * np.std(values) / 16 + 1e-3


@pytest.mark.slow
def test_an_ode_that_cannot_be_solved_is_flagged():
    process = diffusion.VP()
    nan = diffusion.Score(lambda t, x: jnp.where(t > 0.5, jnp.nan, -x), process)
    few = diffusion.ProbabilityFlow(max_steps=2)
    bad = diffusion.encode(nan, X)
    assert bad.result == RESULTS.nonfinite
    assert np.all(np.isfinite(bad.value))
    short = diffusion.encode(gaussian().score(process), X, method=few)
    assert short.result == RESULTS.max_steps_reached
    assert np.all(np.isfinite(short.value))
    assert np.isnan(diffusion.log_prob(gaussian().score(process), X, method=few))


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSES)
def test_single_precision_stays_single(name, key):
    process = PROCESSES[name].make()
    score = gaussian().score(process)
    out = jax.eval_shape(
        lambda x: (
            diffusion.encode(score, x).value,
            diffusion.decode(score, x, method=diffusion.ProbabilityFlow(num_steps=3)).value,
            diffusion.log_prob(score, x),
            diffusion.log_prob(score, x, key=key, num_probes=2, t_min=0.1),
        ),
        jax.ShapeDtypeStruct((3,), jnp.float32),
    )
    assert {leaf.dtype for leaf in out} == {jnp.dtype("float32")}
