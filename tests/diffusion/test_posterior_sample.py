"""Posterior sampling, method by method: laws, evidences, promises, failures."""

import functools
import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noising import PROCESSES, gaussian
from posteriors import MATRIX, METHODS, STDS, Y, conditional, exact, law, linear_gaussian, mixture, none, problem, solve
from test_promises import assert_same, compilations, equations
from test_samplers import assert_law
from verbs import codes

from jaxinv import Likelihood, diffusion, noise, operators, oracles
from jaxinv.diffusion._posterior._default import default_method
from jaxinv.diffusion._posterior._measured import measure
from jaxinv.diffusion._posterior._moments import Moments, gain_product, moments, root_product
from jaxinv.diffusion._posterior._problem import enter_dense, enter_linear
from jaxinv.diffusion._posterior._tds import effective, tempered

VP = PROCESSES["VP"].formula
STEPS = 8
DRAWS = 4000
CLOUDS = 16


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def names(belongs=lambda row: True, fast=()):
    """The names of rows, all but a few marked slow: a program of each costs seconds to compile."""
    chosen = [name for name, row in METHODS.items() if belongs(row)]
    marked = [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in chosen]
    return pytest.mark.parametrize("name", marked)


def promised(belongs=lambda row: True, fast=()):
    """Those of them that differ from each other by more than a number."""
    return names(lambda row: belongs(row) and not row.twin, fast)


def draw(method, key, num_samples, process=None, prior=None):
    """Of the linear-Gaussian problem."""
    process, prior = process or diffusion.VP(), prior or gaussian()
    likelihood, y = linear_gaussian()
    return diffusion.posterior_sample(
        likelihood, prior.score(process), y, key=key, method=method, num_samples=num_samples
    )


def referenced(row):
    return row.step is not None and row.affine


# Laws.


def test_every_method_has_a_row():
    classes = [getattr(diffusion, name) for name in dir(diffusion)]
    methods = {c for c in classes if isinstance(c, type) and issubclass(c, diffusion.AbstractPosteriorMethod)}
    assert methods - {diffusion.AbstractPosteriorMethod} == {type(row.make(2)) for row in METHODS.values()}
    guidances = {type(row.make(2).guidance) for row in METHODS.values() if row.particles}
    assert guidances == {diffusion.MomentMatching, diffusion.TMPD, diffusion.PiGDM, diffusion.DPS}


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


@names(lambda row: not row.affine and not row.particles, fast=("DPS",))
def test_step_by_step(name, key):
    # Its steps divide by a norm: compared on a path.
    row, process = METHODS[name], diffusion.VP()
    method, times = row.make(STEPS), row.times(STEPS)
    problem, _ = method.enter(gaussian().score(process), *linear_gaussian())
    step = jax.jit(lambda t, s, x, key: method.move(problem, t, s, x, method.look(problem, t, s, x, key), key)[0])
    x = expected = np.array([0.5, -1.0, 2.0])
    for i, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
        moving = jax.random.fold_in(key, i)
        z = np.asarray(jax.random.normal(moving, (3,)))
        x = step(t, s, x, moving)
        expected = row.step(VP, t, s, expected[:, None], z[:, None])[:, 0]
        np.testing.assert_allclose(x, expected, atol=1e-8)


@pytest.mark.slow
@names(lambda row: not row.affine and not row.particles)
def test_law_by_a_reference_that_is_drawn_from(name, key):
    row, rng = METHODS[name], np.random.default_rng(0)
    x, times = rng.normal(size=(3, 10 * DRAWS)), row.times(STEPS)
    for t, s in zip(times[:-2], times[1:-1], strict=True):
        x = row.step(VP, t, s, x, rng.normal(size=x.shape))
    x = row.finish(VP, times[-2], x, None)
    solution = draw(row.make(STEPS), key, DRAWS).check()
    # A tenth more for the error of the reference.
    assert_law(np.asarray(solution.value)[: DRAWS - DRAWS // 10], x.mean(1), np.cov(x))


def clouds(method, key, particles):
    """Whole clouds, one for each of a few keys."""
    prior, process = gaussian(), diffusion.VP()
    one = lambda key: draw(method, key, particles, process, prior)
    return jax.jit(jax.vmap(one))(jax.random.split(key, CLOUDS)).check()


def assert_mean(values, expected, errors=4.0):
    """The mean over clouds, which are independent; their members are not."""
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    assert np.all(abs(values.mean(0) - expected) < errors * error), (values.mean(0) - expected) / error


def assert_clouds(solution, mean, covariance, log_evidence):
    values = np.asarray(solution.value)
    assert_mean(values.mean(1), mean)
    assert_mean(np.array([np.cov(cloud.T) for cloud in values]), covariance)
    # The estimate of the evidence itself has no bias, its logarithm has.
    assert_mean(np.exp(np.asarray(solution.stats["log_evidence"]) - log_evidence), 1.0, 3.0)


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
    # Of the references, which `test_law_of_a_cloud` holds the clouds to. The length of the steps is worth .08 of the
    # evidence with 32 of them.
    row = METHODS[name]
    for got, known in zip(law(row, VP, row.times(400)), exact(), strict=True):
        np.testing.assert_allclose(got, known, atol=0.01)


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
@pytest.mark.parametrize("name", ["TDS-MomentMatching", "TDS-TMPD", "TDS-PiGDM"])
def test_evidence_of_a_mixture(name, key):
    errors = evidences(METHODS[name].make(200, 512), jax.random.split(key, CLOUDS))
    assert_mean(np.exp(errors), 1.0, 3.0)
    assert np.std(errors) < 0.3


@pytest.mark.slow
def test_error_of_the_evidence_falls_with_the_root_of_the_particles(key):
    few, many = (np.std(evidences(METHODS["TDS-TMPD"].make(32, n), jax.random.split(key, 64))) for n in (64, 1024))
    rate = np.log(few / many) / np.log(16)
    # Of 64 estimates each: a tenth, in the logarithm of a spread.
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


# Promises.


@functools.cache
def batched(name):
    return jax.jit(jax.vmap(solve(METHODS[name])))


@functools.cache
def outcome(name, dtype):
    """Four problems in a batch, with what comes of them, and of each alone; and what was compiled after the first."""
    row = METHODS[name]
    with jax.enable_x64(dtype == "float64"):
        problems = [problem(row, i, jnp.dtype(dtype)) for i in range(4)]
        batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
        together = jax.device_get(batched(name)(batch))
        apart = [solve(row)(problems[0])]
        with compilations() as compiled:
            apart += [solve(row)(p) for p in problems[1:]]
        return batch, together, apart, compiled


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
@promised(fast=("DPS",))
def test_vmap_equals_loop(name, dtype):
    if dtype == "float32" and (METHODS[name].particles or METHODS[name].optimises):
        pytest.skip("Rounding decides which particles are copied, and is amplified: compared in double precision.")
    _, together, apart, compiled = outcome(name, dtype)
    for i, solution in enumerate(apart):
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], together), solution, 1e-10 if dtype == "float64" else 1e-5)
        assert solution.value.shape == (2, 2, 2, 1)
        assert set(codes(solution.result).ravel()) == {"successful"}
    # The problems differ, and so do the samples.
    assert np.max(abs(apart[0].value - apart[1].value)) > 1e-2
    assert np.max(abs(apart[0].value[0] - apart[0].value[1])) > 1e-2
    # One trace: data, operators, noise levels, keys, all new.
    assert compiled == []


@promised(fast=("DPS",))
def test_a_sample_does_not_depend_on_their_number(name):
    # Batches of different sizes are different programs, whose products round differently.
    _, _, apart, _ = outcome(name, "float64")
    three = solve(METHODS[name], num_samples=3)(problem(METHODS[name], 0, jnp.dtype("float64")))
    np.testing.assert_allclose(three.value[:2], apart[0].value, rtol=1e-9, atol=1e-12)
    # Two members of a cloud may be copies of one particle.
    assert METHODS[name].particles or np.max(abs(three.value[2] - three.value[1])) > 1e-3


@promised(fast=("DPS",))
def test_bad_lanes_are_flagged_and_alone(name):
    row = METHODS[name]
    batch, clean, _, _ = outcome(name, "float64")
    batch = dict(batch)
    batch["y"] = batch["y"].at[1].set(jnp.nan)
    if not row.noiseless:
        batch["likelihood"] = eqx.tree_at(lambda a: a.noise.std, batch["likelihood"], jnp.array([0.5, 0.6, 0.0, 0.8]))
    # Halfway: of four steps two are taken.
    below = jax.tree.leaves(batch["score"])
    spoiled = [i for i, leaf in enumerate(below) if leaf.shape == (4,) and np.all(np.asarray(leaf) == -1)]
    assert len(spoiled) == 1
    below[spoiled[0]] = below[spoiled[0]].at[3].set(0.6)
    batch["score"] = jax.tree.unflatten(jax.tree.structure(batch["score"]), below)
    bad = batched(name)(batch)
    expected = ["successful", "nonfinite_measurement", "invalid_parameter", "nonfinite"]
    if row.noiseless:
        expected[2] = "successful"
    assert list(codes(bad.result)) == expected
    # The same compiled program: bit for bit.
    pick = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
    assert_same(pick(bad), pick(clean), 0)
    np.testing.assert_array_equal(bad.value[1], 0)
    if not row.noiseless:
        np.testing.assert_array_equal(bad.value[2], 0)
    assert np.all(np.isfinite(bad.value))
    assert np.all(bad.stats["num_steps"][3] <= clean.stats["num_steps"][3])
    if row.paced:
        # The third step is the one that failed.
        assert np.all(np.isin(bad.stats["num_steps"][3], [3, 4]))
        assert np.all(clean.stats["num_steps"] == 4)
    with pytest.raises(RuntimeError, match=r"(?s)problem\(s\) 1 of \(4,\).*problem\(s\) 3 of \(4,\): nonfinite"):
        bad.check()


def nan_between(score, low, high, t, x):
    return jnp.where((t > low) & (t < high), jnp.nan, score(t, x))


@pytest.mark.slow
@promised(lambda row: row.paced and not row.particles)
def test_a_failed_sample_is_its_last_finite_state(name):
    # Also where the score is fine again at the end. (Which members of a failed cloud are returned is up to weights that
    # are none.)
    row = METHODS[name]
    p = problem(row, 0, jnp.dtype("float64"))
    score = p["score"].args[0]
    window = lambda low: jax.tree_util.Partial(nan_between, score, jnp.asarray(low), jnp.asarray(0.6))
    kept, back = (solve(row)(p | {"score": window(low)}) for low in (-1.0, 0.4))
    assert set(codes(kept.aux["results"]).ravel()) == set(codes(back.aux["results"]).ravel()) == {"nonfinite"}
    assert np.all(np.isfinite(kept.value))
    np.testing.assert_allclose(back.value, kept.value, rtol=1e-10)


def nan_beyond(score, below, t, x):
    return jnp.where((t < below) & (x[0, 0, 0] > 0.5), jnp.nan, score(t, x))


@pytest.mark.slow
@promised(lambda row: not (row.particles or row.optimises))
def test_samples_fail_one_by_one(name):
    row = METHODS[name]
    p = problem(row, 0, jnp.dtype("float64"))
    beyond = lambda below: jax.tree_util.Partial(nan_beyond, p["score"].args[0], jnp.asarray(below))
    # One compiled program for both.
    clean, bad = (solve(row, num_samples=32)(p | {"score": beyond(below)}) for below in (-1.0, 0.6))
    results = codes(bad.aux["results"])
    assert set(results) == {"successful", "nonfinite"}
    assert codes(bad.result) == "nonfinite"
    good = results == "successful"
    np.testing.assert_allclose(bad.value[good], clean.value[good], rtol=1e-9, atol=1e-12)
    assert np.all(np.isfinite(bad.value))


@promised(fast=("TDS-MomentMatching",))
def test_precision_is_explicit(name):
    highest = jax.lax.Precision.HIGHEST
    with jax.enable_x64(False):
        jaxpr = jax.make_jaxpr(solve(METHODS[name]))(jax.eval_shape(lambda: problem(METHODS[name], 0, jnp.float32)))
    for equation in equations(jaxpr.jaxpr):
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            assert equation.params["precision"] in (highest, (highest, highest)), equation


@promised(fast=("DPS",))
def test_single_precision_stays_single(name):
    # The image is in single precision, all else in double.
    p = jax.eval_shape(lambda: problem(METHODS[name], 0, jnp.float64)) | {
        "likelihood": Likelihood(METHODS[name].operator(0, jnp.float32), noise.Gaussian(jnp.asarray(0.5)))
    }
    out = jax.eval_shape(solve(METHODS[name]), p)
    floats = [leaf for leaf in jax.tree.leaves(out) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")}


def counted(score, calls):
    """A score that tells of its evaluations and of their vector-Jacobian products."""

    @jax.custom_vjp
    def gradient(t, x):
        jax.debug.callback(lambda _: calls.append("evaluation"), x)
        return score(t, x)

    def backward(saved, v):
        jax.debug.callback(lambda _: calls.append("vjp"), v)
        t, x = saved
        return jnp.zeros_like(t), jax.vjp(lambda x: score(t, x), x)[1](v)[0]

    gradient.defvjp(lambda t, x: (gradient(t, x), (t, x)), backward)
    return diffusion.Score(lambda t, x: gradient(jnp.asarray(t, x.dtype), x), score.process)


@pytest.mark.slow
@promised()
def test_evaluations_and_products_are_counted(name, key):
    # One measurement and one particle: a solver that is mapped over runs on for those that take longest.
    process, calls, method = diffusion.VP(), [], METHODS[name].make(3)
    if METHODS[name].particles:
        method = METHODS[name].make(3, 1)
    prior, likelihood, y = mixture()
    solution = diffusion.posterior_sample(likelihood, counted(prior.score(process), calls), y, key=key, method=method)
    jax.effects_barrier()
    assert calls.count("evaluation") == np.sum(solution.stats["network_evaluations"])
    assert calls.count("vjp") == np.sum(solution.stats["vjps"])


@pytest.mark.slow
@promised(lambda row: row.particles)
def test_particles_are_counted(name):
    row = METHODS[name]
    cloud = solve(row)(problem(row, 0, jnp.float64))
    assert cloud.stats["network_evaluations"] == 16 * 4


# Measurements and moments.


def dense_moments(t, x):
    """Denoised image and covariance at a state, and the whitened matrix and residual."""
    image, _, covariance = conditional(VP, t, x[:, None])
    return image[:, 0], covariance, MATRIX / STDS[:, None], (Y - MATRIX @ image[:, 0]) / STDS


def test_moments_against_linear_algebra(key):
    process, t, x = diffusion.VP(), 0.3, np.array([0.5, -1.0, 2.0])
    score = gaussian().score(process)
    image, covariance, rows, residual = dense_moments(t, x)
    linear, _ = enter_linear(score, *linear_gaussian(), "this")
    dense, _ = enter_dense(score, *linear_gaussian(), "this")

    @jax.jit
    def everything(t, x, z):
        at = moments(score, t, x)
        residual = linear.residual(at.image)
        # Where the derivative of a network is negative nothing is told: here nowhere else.
        negative = eqx.tree_at(lambda a: a.factor, at, -100 * at.factor)
        seen = measure(dense, at)
        return {
            "image": at.image,
            "covariance": jax.vmap(at.covariance_product)(jnp.eye(3)),
            "root": root_product(at, z, 3)[0],
            "residual": residual,
            "shift and steps": gain_product(linear, at, residual, 1e-12, 10),
            "negative": gain_product(linear, negative, residual, 1e-12, 10)[0],
            "log density": seen.log_density() - dense.constant,
            "dense shift": seen.gain_product(seen.residual),
        }

    z = jax.random.normal(key, (3,))
    found = everything(jnp.asarray(t), jnp.asarray(x), z)
    np.testing.assert_allclose(found["image"], image, rtol=1e-10)
    np.testing.assert_allclose(found["covariance"], covariance, atol=1e-12)
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
        ("TMPD", "complex"),
        ("TMPD", "stack"),
        ("PiGDM", "complex"),
        ("DPS", "stack"),
        ("TDS-MomentMatching", "complex"),
        ("TDS-MomentMatching", "stack"),
        ("TDS-TMPD", "complex"),
        ("TDS-PiGDM", "stack"),
        ("TDS-DPS", "complex"),
    ],
)
def test_other_measurements_are_those_of_a_real_matrix(name, kind):
    # Of what has no noise of the shape of the data, and so draws the same numbers.
    row, (operator, std, levels) = METHODS[name], EQUIVALENT[kind]()
    p = problem(row, 0, jnp.float64)
    likelihood = Likelihood(operator, noise.Gaussian(std))
    y = likelihood.simulate(p["score"].args[0].mean, key=jax.random.key(7))
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


# What cannot be taken.


def of(method, **change):
    """A call, of a problem with something else in it."""

    def call():
        p = problem(METHODS["TMPD"], 0, jnp.float64) | change
        options = {k: p.pop(k) for k in ("num_samples",) if k in p}
        return diffusion.posterior_sample(**p, method=method, **options)

    return call


SHAPE = (2, 2, 1)
SQUARED = Likelihood(
    operators.NonlinearFunction(lambda x: x**2, jax.ShapeDtypeStruct(SHAPE, jnp.float32)), noise.Gaussian(0.1)
)
FOURIER = Likelihood(operators.MaskedFourier(jnp.ones(SHAPE)), noise.Gaussian(0.1))

ERRORS = {
    **{
        f"{name}: not linear": (
            lambda name=name: of(METHODS[name].make(2), likelihood=SQUARED, y=jnp.ones(SHAPE))(),
            r"needs a linear operator; NonlinearFunction is not one.*`DPS\(\)`",
        )
        for name, row in METHODS.items()
        if row.linear
    },
    **{
        f"{name}: complex images": (
            lambda name=name: of(METHODS[name].make(2), likelihood=FOURIER, y=jnp.ones(SHAPE) + 0j)(),
            r"real images.*`operator @ operators.Real\(shape\)`",
        )
        for name in METHODS
    },
    "no samples": (of(None, num_samples=0), r"`num_samples`.*at least 1; got 0"),
    "half a sample": (of(None, num_samples=0.5), r"`num_samples`.*static integer"),
    "more samples than particles": (
        of(diffusion.TDS(particles=16), num_samples=17),
        r"`num_samples` is 17.*cloud of 16.*`TDS\(particles=32\)`",
    ),
    "data of another shape": (of(diffusion.DPS(2), y=jnp.ones(4)), r"\(3,\).*\(4,\)|\(4,\).*\(3,\)"),
    "a score of another shape": (
        of(diffusion.DPS(2), score=diffusion.Score(lambda t, x: x[..., 0], diffusion.VP())),
        r"\(2, 2, 1\).*\(2, 2\)",
    ),
    "no score": (of(diffusion.DPS(2), score=3), r"`diffusion.AbstractScore`.*got int"),
    "a function for its score": (
        of(diffusion.DPS(2), score=lambda t, x: -x),
        r"`diffusion.Score\(function, process\)`",
    ),
    "a process besides the score": (
        of(diffusion.DPS(2), process=diffusion.VP()),
        r"carries its process: `posterior_sample\(likelihood, score, y\)`",
    ),
    "likelihood and score exchanged": (
        lambda: diffusion.posterior_sample(
            gaussian().score(diffusion.VP()), linear_gaussian()[0], jnp.asarray(Y), key=jax.random.key(0)
        ),
        r"`diffusion.AbstractScore`.*got Likelihood",
    ),
    "no likelihood": (of(None, likelihood=3), r"`likelihood` must be.*int"),
    "no method": (of("DPS"), r"`DPS\(\)`; got 'DPS'"),
    "a method that is not made": (of(diffusion.DPS), r"`DPS\(\)`; got .*DPS"),
    "a sampler": (of(diffusion.DDIM()), r"`TDS\(\)`.*DDIM"),
    "an old key": (of(None, key=jax.random.PRNGKey(0)), r"one typed key"),
    "two keys": (of(None, key=jax.random.split(jax.random.key(0))), r"shape \(\); got shape \(2,\)"),
    "TDS: no guidance": (lambda: diffusion.TDS("TMPD"), r"`guidance` must be.*'TMPD'"),
    "TDS: a guidance that is not made": (lambda: diffusion.TDS(diffusion.TMPD), r"`guidance` must be.*TMPD"),
    "TDS: no particles": (lambda: diffusion.TDS(particles=0), r"`particles`.*at least 1; got 0"),
    "TDS: half a particle": (lambda: diffusion.TDS(particles=1.5), r"`particles`.*static integer"),
    "TDS: steps without noise": (
        lambda: diffusion.TDS(diffusion.TMPD(eta=0.0)),
        r"`eta` of its guidance.*positive; got 0",
    ),
    "TDS: resample_below": (lambda: diffusion.TDS(resample_below=1.5), r"`resample_below`.*between 0 and 1; got 1.5"),
    "MomentMatching: root_steps": (lambda: diffusion.MomentMatching(root_steps=0), r"at least 1; got 0"),
    "MomentMatching: solver_steps": (lambda: diffusion.MomentMatching(solver_steps=0), r"at least 1; got 0"),
    "TMPD: solver_steps": (lambda: diffusion.TMPD(solver_steps=0), r"at least 1; got 0"),
    "PiGDM: solver_steps": (lambda: diffusion.PiGDM(solver_steps=0), r"at least 1; got 0"),
    "DPS: zeta": (lambda: diffusion.DPS(zeta=-1.0), r"`zeta` must be finite and not negative; got -1"),
    **{
        f"{method.__name__}: {what}": (lambda method=method, options=options: method(**options), message)
        for method in (diffusion.MomentMatching, diffusion.TMPD, diffusion.PiGDM, diffusion.DPS)
        for what, options, message in (
            ("no steps", {"num_steps": 0}, r"`num_steps`.*at least 1; got 0"),
            ("schedule", {"schedule": "karras"}, r"`Karras\(\)`.*'karras'"),
        )
    },
    **{
        f"{method.__name__}: eta": (lambda method=method: method(eta=1.5), r"`eta` must lie between 0 and 1; got 1.5")
        for method in (diffusion.TMPD, diffusion.PiGDM, diffusion.DPS)
    },
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_value_error_that_says_what_to_do(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        call()


@pytest.mark.slow
@names(lambda row: not row.linear)
def test_operators_that_are_not_linear(name):
    row = METHODS[name]
    p = problem(row, 0, jnp.float32) | {"likelihood": SQUARED, "y": jnp.full(SHAPE, 0.5, jnp.float32)}
    solution = solve(row)(p)
    assert solution.value.dtype == jnp.float32
    assert np.all(np.isfinite(solution.value))


def test_a_method_made_before_and_one_within_a_trace():
    # Numbers that are known outside of a trace are not inside.
    guidance = diffusion.TMPD(4, eta=jnp.asarray(0.5))
    made = jax.eval_shape(lambda share: diffusion.TDS(guidance, 4, share), jax.ShapeDtypeStruct((), jnp.float32))
    assert made.particles == 4
    made = jax.eval_shape(lambda eta: diffusion.TMPD(4, eta=eta), jax.ShapeDtypeStruct((), jnp.float32))
    assert made.eta.shape == ()


@pytest.mark.slow
def test_collapsed_weights_are_flagged(key):
    # Hardly any noise, few steps, and a twist that takes the denoised image for the image.
    process, prior, (likelihood, y) = diffusion.VP(), gaussian(), linear_gaussian()
    likelihood = Likelihood(likelihood.operator, noise.Gaussian(1e-3))
    method = diffusion.TDS(diffusion.DPS(4), particles=256)
    solution = diffusion.posterior_sample(likelihood, prior.score(process), y, key=key, method=method)
    assert codes(solution.result) == "weight_collapse"
    assert solution.stats["effective_particles"] < 2.56
    assert np.all(np.isfinite(solution.value))
    with pytest.raises(RuntimeError, match="weight_collapse"):
        solution.check()


@pytest.mark.slow
def test_weights_that_are_tempered_away_leave_the_guidance(key):
    row = METHODS["TMPD"]
    solution = draw(diffusion.TDS(row.make(STEPS), particles=DRAWS, temper_below=1.0), key, DRAWS)
    mean, covariance, _ = law(row, VP, row.times(STEPS))
    assert_law(np.asarray(solution.value), mean, covariance)


def test_tempered_weights(key):
    log_weights = 50 * jax.random.normal(key, (256,))

    @jax.jit
    def temper(least):
        some = tempered(log_weights, least)
        return some, effective(some), effective(2 * some)

    for least in (2.0, 25.0, 250.0):
        # The largest power of two that leaves so many.
        _, left, less = temper(jnp.asarray(least))
        assert left >= least > less
    np.testing.assert_array_equal(temper(jnp.asarray(0.0))[0], log_weights)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_resampling_never_and_always(share, key):
    method = diffusion.TDS(diffusion.TMPD(32, schedule=diffusion.UniformLogSNR()), 1024, share)
    row = METHODS["TDS-TMPD"]
    assert_clouds(clouds(method, key, 1024), *law(row, VP, row.times(32)))


@pytest.mark.parametrize("rtol", [0.3, 0.1, 1e-6])
def test_a_solve_stops_where_conjugate_gradients_do(rtol):
    rng = np.random.default_rng(0)
    root, matrix, y = rng.normal(size=(12, 12)), rng.normal(size=(8, 12)), rng.normal(size=8)
    process, t, x = diffusion.VP(), 0.5, rng.normal(size=12)
    prior = oracles.Gaussian(jnp.zeros(12), jnp.asarray(root @ root.T))
    likelihood = Likelihood(operators.Matrix(jnp.asarray(matrix), (12,)), noise.Gaussian(0.5))
    linear, _ = enter_linear(prior.score(process), likelihood, jnp.asarray(y), "this")

    @jax.jit
    def solved(t, x):
        at = moments(linear.score, t, x)
        products = jax.vmap(at.covariance_product)(jnp.eye(12))
        return at.image, products, gain_product(linear, at, linear.residual(at.image), rtol, 20)

    image, covariance, (shift, steps) = jax.device_get(solved(jnp.asarray(t), jnp.asarray(x)))
    rows, right = matrix / 0.5, (y - matrix @ image) / 0.5
    system, z, r = rows @ covariance @ rows.T + np.eye(8), np.zeros(8), right
    p, count = r, 0
    while np.linalg.norm(r) > rtol * np.linalg.norm(right):
        step = (r @ r) / (p @ system @ p)
        z, r, before, count = z + step * p, r - step * system @ p, r @ r, count + 1
        p = r + (r @ r) / before * p
    assert steps == count
    # Conjugate gradients lose digits that the Lanczos process, orthogonalised again, keeps.
    np.testing.assert_allclose(shift, covariance @ rows.T @ z, rtol=1e-6, atol=1e-8)


def test_a_solve_goes_on_from_a_pivot_of_zero():
    # The first pivot of M + I is 0, its eigenvalues are not.
    matrix = jnp.array([[-1.0, 1.0], [1.0, 3.0]])
    pullback = jax.tree_util.Partial(lambda matrix, v: (matrix @ v,), matrix)
    at = Moments(jnp.zeros(2), jnp.zeros(2), jnp.asarray(1.0), pullback)
    score = diffusion.Score(lambda t, x: -x, diffusion.VP())
    linear, _ = enter_linear(score, Likelihood(operators.Identity((2,)), noise.Gaussian(1.0)), jnp.zeros(2), "this")
    values, vectors = np.linalg.eigh(matrix)
    inverse = np.where(values > -0.5, 1 / (1 + np.maximum(values, 0)), 0)
    shift, steps = jax.jit(lambda at, residual: gain_product(linear, at, residual, 1e-6, 5))(at, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(shift, matrix @ (vectors @ (inverse * vectors[0])), rtol=1e-10)
    assert steps == 2


# The default.


def shaped(operator):
    return Likelihood(operator, noise.Gaussian(0.1))


def rows_of_noise(count):
    return shaped(operators.Matrix(jnp.ones((count, 4)), (4,)))


DEFAULTS = {
    "few": (rows_of_noise(16), diffusion.TDS),
    "many": (rows_of_noise(17), diffusion.MomentMatching),
    "few, complex": (shaped(operators.MaskedFourier(jnp.ones((4, 2, 1))) @ operators.Real((4, 2, 1))), diffusion.TDS),
    "many, complex": (
        shaped(operators.MaskedFourier(jnp.ones((3, 3, 1))) @ operators.Real((3, 3, 1))),
        diffusion.MomentMatching,
    ),
    "many, stacked": (
        shaped(operators.stack([operators.Identity((3, 3, 1))] * 2)),
        diffusion.MomentMatching,
    ),
    "not linear": (SQUARED, diffusion.DPS),
}


@pytest.mark.parametrize("case", DEFAULTS)
def test_the_default(case):
    likelihood, expected = DEFAULTS[case]
    method = default_method(likelihood)
    assert type(method) is expected
    if case in ("few", "many", "not linear"):
        # None is that one.
        process = diffusion.VP()
        structs = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), likelihood.operator.codomain)
        call = lambda m: jax.eval_shape(
            lambda y: diffusion.posterior_sample(
                likelihood, diffusion.Score(lambda t, x: -x, process), y, key=jax.random.key(0), method=m
            ),
            structs,
        )
        assert set(call(None).stats) == set(call(method).stats)
        assert ("log_evidence" in call(None).stats) == (case == "few")


def test_the_default_ends_on_two_cores():
    # jaxlib 0.10 waits for ever where as many batches are decomposed at once as XLA's pool has threads. A pool of its
    # own size is a process of its own.
    code = """
import jax, jax.numpy as jnp, jaxinv
from jaxinv import diffusion, oracles
process, prior = diffusion.VP(), oracles.Gaussian(jnp.ones((8, 8, 1)), 0.1 * jnp.eye(64))
likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((8, 8, 1), 2), jaxinv.noise.Gaussian(0.1))
y, key = jnp.zeros((4, 4, 1)), jax.random.key(0)
diffusion.posterior_sample(likelihood, prior.score(process), y, key=key, num_samples=4).check()
"""
    environment = {**os.environ, "NPROC": "2"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
