"""The laws of posterior samples, against closed forms and exact evidences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_law
from noising import PROCESSES, gaussian
from posteriors import (
    CLOUDS,
    DRAWS,
    METHODS,
    STEPS,
    VP,
    assert_clouds,
    assert_mean,
    clouds,
    draw,
    exact,
    law,
    linear_gaussian,
    mixture,
    names,
    referenced,
    stepped,
)

from jaxinv import diffusion


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def test_every_method_has_a_row():
    classes = [getattr(diffusion, name) for name in dir(diffusion)]
    methods = {c for c in classes if isinstance(c, type) and issubclass(c, diffusion.AbstractPosteriorMethod)}
    assert methods - {diffusion.AbstractPosteriorMethod} == {type(row.make(2)) for row in METHODS.values()}
    guidances = {type(row.make(2).proposal) for row in METHODS.values() if row.particles}
    assert guidances == {diffusion.MomentMatching, diffusion.TMPD, diffusion.PiGDM, diffusion.DPS, diffusion.LookAhead}


def test_the_oracle_says_what_the_textbook_says():
    prior, (mean, covariance, evidence) = gaussian(), exact()
    posterior = prior.posterior(*linear_gaussian())
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(posterior.covariance, covariance, rtol=1e-10)
    np.testing.assert_allclose(prior.evidence(*linear_gaussian()), evidence, rtol=1e-10)


@names(lambda row: referenced(row) and not row.particles)
def test_law_of_the_samples(name, key):
    row = METHODS[name]
    mean, covariance, _ = law(row, VP, row.times(STEPS))
    solution = draw(row.make(STEPS), key, DRAWS).check()
    assert_law(np.asarray(solution.value), mean, covariance)
    # So few steps that a method without the right law is told from the posterior.
    far = np.max(abs(covariance - exact()[1]) / np.diag(exact()[1]))
    assert far < 1e-3 if row.exact else far > 4 * np.sqrt(2 / DRAWS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("MomentMatching", "SubVP"),
        ("MomentMatching", "VE"),
        ("MomentMatching", "FlowMatching"),
        ("TMPD", "SubVP"),
        ("TMPD", "VE"),
        ("TMPD-0.5", "FlowMatching"),
        ("PiGDM", "VE"),
    ],
)
def test_law_of_the_samples_of_other_processes(name, kind, key):
    row, process = METHODS[name], PROCESSES[kind]
    times = np.linspace(*process.interval[::-1], STEPS + 1)
    mean, covariance, _ = law(row, process.formula, times, process.prior_std)
    solution = draw(row.make(STEPS), key, DRAWS, process=process.make()).check()
    assert_law(np.asarray(solution.value), mean, covariance)
    if row.exact:
        np.testing.assert_allclose(covariance, exact()[1], atol=2e-3)


@names(stepped, fast=("DPS",))
def test_step_by_step(name, key):
    # Its steps divide by a norm: compared on a path.
    row, process = METHODS[name], diffusion.VP()
    method, times = row.make(STEPS), row.times(STEPS)
    likelihood, y = linear_gaussian()
    problem, _ = method.prepare(likelihood, gaussian().score(process), y)
    start = jnp.int32(0)
    step = jax.jit(lambda t, s, x, key: method.step(problem, diffusion.extend.Guided(x, start), t, s, key=key)[0].x)
    x = expected = np.array([0.5, -1.0, 2.0])
    for i, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
        moving = jax.random.fold_in(key, i)
        z = np.asarray(jax.random.normal(moving, (3,)))
        x = step(t, s, x, moving)
        expected = row.step(VP, t, s, expected[:, None], z[:, None])[:, 0]
        np.testing.assert_allclose(x, expected, atol=1e-8)


@pytest.mark.slow
@names(stepped)
def test_law_by_a_reference_that_is_drawn_from(name, key):
    row, rng = METHODS[name], np.random.default_rng(0)
    x, times = rng.normal(size=(3, 10 * DRAWS)), row.times(STEPS)
    for t, s in zip(times[:-2], times[1:-1], strict=True):
        x = row.step(VP, t, s, x, rng.normal(size=x.shape))
    x = row.finish(VP, times[-2], x, None)
    solution = draw(row.make(STEPS), key, DRAWS).check()
    # A tenth more for the error of the reference.
    assert_law(np.asarray(solution.value)[: DRAWS - DRAWS // 10], x.mean(1), np.cov(x))


@names(lambda row: referenced(row) and row.particles and not row.exact)
def test_law_of_a_cloud(name, key):
    row = METHODS[name]
    steps = 100 if name == "TDS-DPS" else 32
    expected = law(row, VP, row.times(steps))
    assert_clouds(clouds(row.make(steps, 1024), key, 1024), *expected)
    # Told from the posterior: where the steps of the prior are too long.
    assert np.max(abs(expected[1] - exact()[1])) > 0.01


@pytest.mark.parametrize("name", ["TDS-TMPD", "TDS-PiGDM", "TDS-DPS"])
def test_a_cloud_of_many_steps_is_of_the_posterior(name):
    # This looks at the references, to which `test_law_of_a_cloud` holds the clouds. The length
    # of the steps is worth .08 of the evidence with 32 of them.
    row = METHODS[name]
    for got, known in zip(law(row, VP, row.times(400)), exact(), strict=True):
        np.testing.assert_allclose(got, known, atol=0.01)


@pytest.mark.slow
def test_no_weight_is_lost_where_every_step_is_exact(key):
    particles = 2048
    solution = draw(METHODS["TDS-MomentMatching"].make(STEPS, particles), key, particles).check()
    mean, covariance, log_evidence = exact()
    assert solution.stats["effective_particles"] > (1 - 1e-3) * particles
    np.testing.assert_allclose(solution.stats["log_evidence"], log_evidence, atol=1e-3)
    # All weights are one, so that the members of the cloud are independent draws.
    assert_law(np.asarray(solution.value), mean, covariance)
    expected = law(METHODS["TDS-MomentMatching"], VP, METHODS["TDS-MomentMatching"].times(STEPS))
    for got, known in zip(expected, (mean, covariance, log_evidence), strict=True):
        np.testing.assert_allclose(got, known, atol=1e-3)


# Evidence, of a mixture.


def evidences(method, keys):
    prior, likelihood, y = mixture()
    process = diffusion.VP()
    one = lambda key: diffusion.posterior_sample(likelihood, prior.score(process), y, key=key, method=method)
    return np.asarray(jax.jit(jax.vmap(one))(keys).check().stats["log_evidence"]) - prior.evidence(likelihood, y)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["TDS-MomentMatching", "TDS-TMPD"])
def test_evidence_of_a_mixture(name, key):
    errors = evidences(METHODS[name].make(100, 512), jax.random.split(key, CLOUDS))
    assert_mean(np.exp(errors), 1.0, 3.0)
    assert np.std(errors) < 0.3


@pytest.mark.slow
def test_evidence_of_a_tempered_cloud(key):
    # The cloud is not of the posterior; its estimate of the evidence is right, and so is what it says of the error.
    prior, likelihood, y = mixture()
    method = diffusion.TDS(diffusion.MomentMatching(50), particles=512, temper_below=0.9)
    one = lambda key: diffusion.posterior_sample(likelihood, prior.score(diffusion.VP()), y, key=key, method=method)
    stats = jax.jit(jax.vmap(one))(jax.random.split(key, CLOUDS)).check().stats
    errors = np.asarray(stats["log_evidence"]) - prior.evidence(likelihood, y)
    assert np.all(stats["tempered"] >= 1)
    assert_mean(np.exp(errors), 1.0, 3.0)
    # The spread of 16 estimates has an error of a fifth, and the ancestors overestimate it.
    assert 0.3 < np.std(errors) / np.mean(stats["log_evidence_error"]) < 1.6


@pytest.mark.slow
def test_error_of_the_evidence_falls_with_the_root_of_the_particles(key):
    few, many = (np.std(evidences(METHODS["TDS-TMPD"].make(32, n), jax.random.split(key, 64))) for n in (64, 1024))
    rate = np.log(few / many) / np.log(16)
    # The logarithm of the spread of 64 estimates has an error of about a tenth.
    assert abs(rate - 0.5) < 0.15, (few, many)


@pytest.mark.slow
def test_modes_of_a_mixture(key):
    prior, likelihood, y = mixture()
    process, posterior = diffusion.VP(), prior.posterior(likelihood, y)
    method = METHODS["TDS-MomentMatching"].make(50, 512)
    one = lambda key: diffusion.posterior_sample(
        likelihood, prior.score(process), y, key=key, method=method, num_samples=512
    )
    values = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, CLOUDS)).check().value)
    assert_mean(values.mean(1), np.asarray(posterior.mean))
    nearest = lambda x: np.argmin(np.sum((x[..., None, :] - np.asarray(prior.means)) ** 2, axis=-1), axis=-1)
    shares = lambda x: np.stack([(nearest(x) == i).mean(-1) for i in range(3)], axis=-1)
    drawn = np.asarray(posterior.sample(20_000, key=key))
    assert_mean(shares(values), shares(drawn), 5.0)
