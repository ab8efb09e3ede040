"""Promises of posterior samplers: batches, codes, precision, counts."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from posteriors import (
    METHODS,
    mixture,
    problem,
    promised,
    solve,
)
from programs import assert_same, compilations
from verbs import codes, same, spoilt_inputs

from jaxinv import Likelihood, diffusion, noise


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@functools.cache
def batched(name):
    return jax.jit(jax.vmap(solve(METHODS[name])))


@functools.cache
def outcome(name, dtype="float64"):
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


@promised(fast=("DPS",))
def test_vmap_equals_loop(name):
    _, together, apart, compiled = outcome(name)
    for i, solution in enumerate(apart):
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], together), solution, 1e-10)
        assert solution.value.shape == (2, 2, 2, 1)
        assert set(codes(solution.result).ravel()) == {"successful"}
    # The problems differ, and so do the samples.
    assert np.max(abs(apart[0].value - apart[1].value)) > 1e-2
    assert np.max(abs(apart[0].value[0] - apart[0].value[1])) > 1e-2
    # One trace: data, operators, noise levels, keys, all new.
    assert compiled == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DPS", "MomentMatching", "DDRM", "PnPDM"])
def test_vmap_equals_loop_in_single_precision(name):
    # What it adds is rounding, in steps of one kind each. (It decides which particles are copied.)
    together, apart = outcome(name, "float32")[1:3]
    for i, solution in enumerate(apart):
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], together), solution, 1e-5)


def nan_there(score, low, high, beyond, t, x):
    return jnp.where((t > low) & (t < high) & (x[0, 0, 0] > beyond), jnp.nan, score(t, x))


def many(name, low=-1.0, high=-1.0, beyond=-np.inf):
    """Many samples of problem 0, whose score is NaN between two times, beyond a value of the first pixel: one compiled
    program for all such windows, of which the default is none."""
    row = METHODS[name]
    p = problem(row, 0, jnp.dtype("float64"))
    window = (jnp.asarray(number, float) for number in (low, high, beyond))
    score = diffusion.Score(jax.tree_util.Partial(nan_there, p["score"].function.args[0], *window), p["score"].process)
    return solve(row, num_samples=16 if row.particles else 32)(p | {"score": score})


@promised(fast=("DPS",))
def test_a_sample_does_not_depend_on_their_number(name):
    # Batches of different sizes are different programs, whose products round differently.
    _, _, apart, _ = outcome(name)
    more = many(name)
    np.testing.assert_allclose(more.value[:2], apart[0].value, rtol=1e-9, atol=1e-12)
    # Two members of a cloud may be copies of one particle.
    assert METHODS[name].particles or np.max(abs(more.value[2] - more.value[1])) > 1e-3


@promised(fast=("DPS",))
def test_bad_lanes_are_flagged_and_alone(name):
    row = METHODS[name]
    batch, clean, _, _ = outcome(name)
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


@promised(fast=("DPS",))
def test_a_spoilt_input_is_flagged_and_alone(name):
    batch, clean, _, _ = outcome(name)
    pick = lambda tree: jax.tree.map(lambda leaf: leaf[jnp.array([0, 2, 3])], tree)
    for what, spoilt in spoilt_inputs(batch):
        bad = batched(name)(spoilt)
        # The same compiled program: bit for bit.
        assert_same(pick(bad), pick(clean), 0)
        if same(bad, clean):
            continue
        assert codes(bad.result)[1] != "successful", what
        assert np.all(np.isfinite(bad.value)), what
        assert np.all(bad.stats["num_steps"][1] <= 2), what


@pytest.mark.slow
@promised(lambda row: row.paced and not row.particles)
def test_a_failed_sample_is_its_last_finite_state(name):
    # Also where the score is fine again at the end. (Which members of a failed cloud are returned is up to weights that
    # are none.)
    kept, back = many(name, -1.0, 0.6), many(name, 0.4, 0.6)
    assert set(codes(kept.aux["results"]).ravel()) == set(codes(back.aux["results"]).ravel()) == {"nonfinite"}
    assert np.all(np.isfinite(kept.value))
    np.testing.assert_allclose(back.value, kept.value, rtol=1e-10)


@pytest.mark.slow
@promised(lambda row: not (row.particles or row.optimises))
def test_samples_fail_one_by_one(name):
    clean, bad = many(name), many(name, -1.0, 0.6, beyond=0.5)
    results = codes(bad.aux["results"])
    assert set(results) == {"successful", "nonfinite"}
    assert codes(bad.result) == "nonfinite"
    good = results == "successful"
    np.testing.assert_allclose(bad.value[good], clean.value[good], rtol=1e-9, atol=1e-12)
    assert np.all(np.isfinite(bad.value))


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
