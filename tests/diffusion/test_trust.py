"""The checks of priors and of samples: exact ones pass at their rate, and wrong ones fail, in words."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import Likelihood, diffusion, metrics, noise, operators, oracles
from jaxinv._solution import RESULTS

SHAPE = (2, 2, 1)
VP = diffusion.VP()
HALVES = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]).reshape(2, *SHAPE)
MIXTURE = jax.jit(lambda: oracles.GaussianMixture(np.array([0.5, 0.5]), HALVES, 0.15))()
GAUSSIAN = jax.jit(lambda: oracles.Gaussian(jnp.ones(SHAPE), 0.2 * jnp.eye(4) + 0.1))()
LIKELIHOOD = Likelihood(operators.Downsample(SHAPE, 2), noise.Gaussian(0.2))
# Of how many problems a check is made at once.
PROBLEMS = 100


def simulated(prior, key):
    image_key, noise_key = jax.random.split(key)
    return LIKELIHOOD.simulate(prior.sample(1, key=image_key)[0], key=noise_key)


@pytest.mark.slow
def test_posterior_samples():
    prior, score = MIXTURE, MIXTURE.score(VP)

    def problem(key):
        y = simulated(prior, key)
        exact = prior.posterior(LIKELIHOOD, y)
        draw_key, check_key = jax.random.split(jax.random.fold_in(key, 1))
        samples = exact.sample(100, key=draw_key)
        mean = samples.mean(0, keepdims=True)
        wrong = jnp.stack([samples, mean + 0.6**0.5 * (samples - mean), samples + 0.3, samples.at[9:].set(samples[0])])
        check = lambda x: diffusion.check_posterior(LIKELIHOOD, score, x, y, key=check_key, num_draws=300)
        found = jax.vmap(check)(wrong)
        return found.passed, jnp.stack(list(found.p_values.values()))

    passed, p_values = jax.jit(jax.vmap(problem))(jax.random.split(jax.random.key(0), PROBLEMS))
    exact, narrow, shifted, copies = np.mean(passed, axis=0)
    # One in a hundred fails by chance; seven have probability 1e-4.
    assert exact >= 0.93
    assert narrow < 0.1
    assert shifted < 0.1
    assert copies == 0
    # The first two p-values of exact samples are uniform, and that of the misfit is seldom small.
    for values in np.asarray(p_values)[:, :2, 0].T:
        assert abs(np.mean(values) - 0.5) < 4 * (1 / 12 / PROBLEMS) ** 0.5
    assert np.mean(p_values[:, 2, 0] < 0.1) < 0.25


@pytest.mark.slow
def test_posterior_samples_of_a_curved_operator():
    # Pixels are independent: the posterior of each is known on a grid.
    std, bend = 0.1, lambda x: x + 0.5 * x**3
    operator = operators.NonlinearFunction(bend, (4,))
    likelihood, score = Likelihood(operator, noise.Gaussian(std)), oracles.Gaussian(jnp.zeros(4), jnp.eye(4)).score(VP)
    grid = np.linspace(-4, 4, 40_001)

    def exact(y, rng):
        log = -(grid**2) / 2 - (bend(grid) - y) ** 2 / (2 * std**2)
        mass = np.cumsum(np.exp(log - log.max()))
        return np.interp(rng.uniform(size=300), mass / mass[-1], grid)

    check = jax.jit(lambda x, y, key: diffusion.check_posterior(likelihood, score, x, y, key=key, num_draws=300))
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        y = bend(rng.normal(size=4)) + std * rng.normal(size=4)
        x = np.stack([exact(value, rng) for value in y], axis=1).astype(np.float32)
        y = jnp.asarray(y, jnp.float32)
        found.append([check(v, y, jax.random.key(seed)).spread for v in (x, x.mean(0) + 0.77 * (x - x.mean(0)))])
    # Twenty spreads of 300 samples with four entries.
    right, narrow = np.mean(found, axis=0)
    assert abs(right - 1) < 4 * (2 / 4 / 300 / 20) ** 0.5
    assert narrow < 0.7


@pytest.mark.slow
def test_priors():
    wide = oracles.GaussianMixture(MIXTURE.weights, MIXTURE.means, 0.25)

    def problem(key):
        images, generated = (MIXTURE.sample(100, key=jax.random.fold_in(key, i)) for i in range(2))
        check = lambda prior, more: diffusion.check_prior(
            prior.score(VP), images, samples=more, key=key, noise=(0.1, 1.0), num_draws=500
        )
        return [
            check(prior, more).passed for prior, more in ((MIXTURE, generated), (wide, None), (MIXTURE, 2 * images))
        ]

    passed = jax.jit(jax.vmap(problem))(jax.random.split(jax.random.key(1), PROBLEMS))
    exact, other, doubled = (np.mean(value) for value in passed)
    assert exact >= 0.93
    assert other < 0.05
    assert doubled < 0.05


class Conjugate(diffusion.AbstractPosteriorMethod):
    """Draws of the exact posterior of a Gaussian prior, with its deviation times a factor."""

    prior: oracles.Gaussian
    factor: jax.Array
    num_steps: int = eqx.field(default=1, static=True)

    def prepare(self, likelihood, score, y):
        return self.prior.posterior(likelihood, y), RESULTS.successful

    def init(self, problem, *, key):
        draw = problem.sample(1, key=key)[0]
        return problem.mean + self.factor * (draw - problem.mean)

    def step(self, problem, state, index, *, key) -> Any:
        return diffusion.extend.advance(state, state)


def calibration(factor, key, **options):
    return diffusion.check_calibration(
        LIKELIHOOD,
        GAUSSIAN.score(VP),
        key=key,
        method=Conjugate(GAUSSIAN, jnp.asarray(factor)),
        num_problems=PROBLEMS,
        num_samples=19,
        sampler=diffusion.DPMSolver(25),
        **options,
    )


@pytest.mark.slow
def test_calibration_of_exact_and_of_wrong_posteriors():
    many = jax.jit(jax.vmap(lambda factor, key: calibration(factor, key, batch_size=PROBLEMS)))
    keys = jax.random.split(jax.random.key(2), 60)
    exact = many(jnp.ones(60), keys)
    # One in a hundred fails by chance; five of sixty have probability 5e-4.
    assert np.sum(exact.passed) >= 56
    scores = np.stack([*exact.bias_scores.values(), *exact.spread_scores.values()])
    # Twice ten standard scores of sixty checks, not all independent.
    assert 0.85 < scores.std() < 1.15
    assert np.mean(many(jnp.full(60, 0.6**0.5), keys).passed) < 0.1
    assert np.mean(many(jnp.full(60, 1.5), keys).passed) < 0.1


@pytest.mark.slow
def test_calibration_finds_dps_and_a_wrong_prior():
    options = {"num_problems": 60, "num_samples": 19, "key": jax.random.key(3)}
    check = diffusion.check_calibration(LIKELIHOOD, GAUSSIAN.score(VP), method=diffusion.DPS(30), **options)
    assert not check.passed
    assert "not calibrated: of the samples" in str(check)
    # Images of another prior than the posterior's.
    images = 2 * GAUSSIAN.sample(60, key=jax.random.key(4))
    method = Conjugate(GAUSSIAN, jnp.asarray(1.0))
    check = diffusion.check_calibration(LIKELIHOOD, GAUSSIAN.score(VP), method=method, images=images, **options)
    assert not check.passed
    assert "mean is too small" in check.verdict


def ranks(kind, n=19, problems=400):
    rng = np.random.default_rng(0)
    level = {"exact": 1.0, "narrow": 0.7, "wide": 1.4, "biased": 1.0}[kind]
    shift = 0.4 if kind == "biased" else 0.0
    truths, samples = rng.normal(size=(problems, 1, 3)), shift + level * rng.normal(size=(problems, n, 3))
    covered = jax.vmap(metrics.coverage)(samples, truths[:, 0])
    return metrics.Calibration({"first": jnp.asarray(np.sum(samples < truths, axis=1)[:, 0])}, covered, n)


def test_what_a_calibration_says():
    verdicts = {kind: ranks(kind) for kind in ("exact", "narrow", "wide", "biased")}
    assert verdicts["exact"].passed
    assert "calibrated, as far as 400 problems" in repr(verdicts["exact"])
    for kind, words in {"narrow": "spreads too little, intervals are too narrow", "wide": "spreads too much"}.items():
        assert not verdicts[kind].passed
        assert words in repr(verdicts[kind])
    assert "first is too large" in verdicts["biased"].verdict
    failed = metrics.Calibration({"first": jnp.full(5, -1)}, jnp.full(5, jnp.nan), 19)
    assert not failed.passed
    assert failed.num_failed == 5
    assert "every problem failed" in failed.verdict
    with pytest.raises(ValueError, match="`level`"):
        metrics.Calibration({}, jnp.ones(3), 19, level=1.5)


def test_bad_input(key):
    score, x, y = GAUSSIAN.score(VP), jnp.ones((9, *SHAPE)), jnp.ones((1, 1, 1))
    check = lambda x, **options: diffusion.check_posterior(LIKELIHOOD, score, x, y, key=key, **options)
    with pytest.raises(ValueError, match=r"`samples` of shape \(n, \*\(2, 2, 1\)\)"):
        check(x[0])
    with pytest.raises(ValueError, match="at least 8"):
        check(x[:7])
    with pytest.raises(ValueError, match="floating"):
        check(x.astype(int))
    with pytest.raises(ValueError, match="`num_draws`"):
        check(x, num_draws=0)
    with pytest.raises(ValueError, match="at least 300"):
        check(x, num_draws=100)
    with pytest.raises(ValueError, match="at least 8"):
        diffusion.check_prior(score, x[:3], key=key)
    with pytest.raises(ValueError, match="carries its process"):
        diffusion.check_prior(score, VP, x, key=key)
    with pytest.raises(ValueError, match="fewer than `num_problems=10`"):
        diffusion.check_calibration(LIKELIHOOD, score, key=key, num_problems=10, images=x)
    with pytest.raises(ValueError, match="`likelihood`"):
        diffusion.check_calibration(score, score, key=key)


@pytest.mark.slow
def test_what_is_not_finite_is_not_trusted(key):
    score, x, y = GAUSSIAN.score(VP), GAUSSIAN.sample(9, key=key), jnp.ones((1, 1, 1))
    check = lambda x, y: diffusion.check_posterior(LIKELIHOOD, score, x, y, key=key, num_draws=300)
    for found in (check(x.at[0].set(jnp.nan), y), check(x, y.at[0].set(jnp.nan))):
        assert not found.passed
        assert "not finite" in str(found)
