"""Every stopping rule, on histories made for it."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dip_problems import Wave

from jaxinv import RESULTS, Likelihood, dip, noise, operators
from jaxinv.dip._method import Evaluation
from jaxinv.dip._monitor import Monitor

SHAPE = (3, 2, 1)
KEY = jax.random.key(0)
TRUTH = np.linspace(0, 1, 6).reshape(SHAPE)
RNG = np.random.default_rng(0)
DATA = TRUTH + 0.1 * RNG.normal(size=SHAPE)


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def likelihood():
    return Likelihood(operators.Identity(SHAPE), noise.Gaussian(0.1))


def monitored(rule, images, ema=0.0):
    """The number of the kept image, when the rule stopped, and its criteria, over images one by one."""
    problem, result = rule.prepare(likelihood(), jnp.asarray(DATA), RESULTS.successful, key=KEY)
    assert bool(result == RESULTS.successful)
    monitor = Monitor(rule, problem, jnp.asarray(ema), None, 1)
    state = monitor.init(jax.ShapeDtypeStruct(SHAPE, jnp.float64), len(images))
    step, stopped = eqx.filter_jit(monitor.step), None
    for i, image in enumerate(images):
        state, stop, _ = step(state, Evaluation(jnp.asarray(image), jnp.asarray(1.0)), jnp.int32(i))
        if stop and stopped is None:
            stopped = i
            break
    criteria = None if rule.criterion_name is None else np.asarray(state.history[rule.criterion_name])
    return int(state.best.step), stopped, criteria, np.asarray(state.best.image), problem.likelihood


def test_fixed_steps():
    images = RNG.normal(size=(5, *SHAPE))
    step, stopped, _, image, _ = monitored(dip.FixedSteps(), images)
    assert (step, stopped) == (4, None)
    np.testing.assert_array_equal(image, images[-1])


def test_windowed_variance():
    # Images that move fast, then stand nearly still, then move again.
    speed = np.array([1, 1, 1, 0.5, 0.1, 0.01, 0.01, 0.2, 0.5, 1, 1, 1, 1, 1])
    images = np.cumsum(speed)[:, None, None, None] * np.ones(SHAPE)
    step, stopped, criteria, image, _ = monitored(dip.WindowedVariance(window=3, patience=4), images)
    expected = [np.sum((images[i - 2 : i + 1] - images[i - 2 : i + 1].mean(axis=0)) ** 2) / 3 for i in range(2, 14)]
    lowest = 2 + int(np.argmin(expected))
    assert (step, stopped) == (lowest, lowest + 4) == (6, 10)
    np.testing.assert_allclose(criteria[2:11], expected[:9], rtol=1e-12)
    assert (criteria[:2] == np.finfo(float).max).all()
    np.testing.assert_array_equal(image, images[6])


def test_discrepancy():
    images = [(i / 9) * DATA for i in range(10)]
    criteria = [np.mean((DATA - image) ** 2) / 0.1**2 for image in images]
    for factor in (1.0, 3.0):
        step, stopped, found, _, _ = monitored(dip.Discrepancy(factor), images)
        first = next(i for i, criterion in enumerate(criteria) if criterion <= factor**2)
        assert (step, stopped) == (first, first)
        assert 0 < first < 9
        np.testing.assert_allclose(found[: first + 1], criteria[: first + 1], rtol=1e-12)


def test_held_out():
    toward = [TRUTH + (1 - i / 5) for i in range(6)]
    images = toward + [DATA + 0.3 * (i + 1) * RNG.normal(size=SHAPE) for i in range(6)]
    step, stopped, criteria, image, fitted = monitored(dip.HeldOut(0.5, patience=3), images)
    kept = np.asarray(fitted.operator.measured)
    held = kept == 0
    assert 0 < held.sum() < 6
    assert set(np.unique(kept)) == {0.0, 1.0}
    nll = lambda x: np.mean((0.5 * ((DATA - x) / 0.1) ** 2 + np.log(0.1 * np.sqrt(2 * np.pi)))[held])
    expected = [nll(x) for x in images]
    assert (step, stopped) == (5, 8)
    assert int(np.argmin(expected)) == 5
    np.testing.assert_allclose(criteria[:9], expected[:9], rtol=1e-12)
    np.testing.assert_array_equal(image, images[5])


class Darkest(dip.AbstractStopping):
    """A rule from outside the package: keep the darkest image, and stop three steps after it."""

    criterion_name: ClassVar[str | None] = "mean"
    expects_all_steps: ClassVar[bool] = False
    hides_measurements: ClassVar[bool] = True

    def prepare(self, likelihood, y, result, *, key):
        return dip.StoppingProblem(likelihood), result

    def init(self, problem, image):
        return None

    def step(self, problem, state, image):
        return state, jnp.mean(image)

    def stops(self, problem, criterion, num_since_best):
        return num_since_best >= 3


def test_a_rule_from_outside():
    levels = np.array([3.0, 1.0, 2.0, 1.0, 4.0, 5.0, 6.0, 7.0])
    images = levels[:, None, None, None] * np.ones(SHAPE)
    step, stopped, criteria, _, _ = monitored(Darkest(), images)
    assert (step, stopped) == (3, 6)
    np.testing.assert_allclose(criteria[:7], levels[:7])
    network = Wave(jnp.ones(SHAPE))
    options = {"key": KEY, "num_steps": 5}
    solution = dip.reconstruct(likelihood(), network, jnp.asarray(DATA), stopping=Darkest(), **options)
    means = solution.stats["history"]["mean"]
    np.testing.assert_allclose(jnp.mean(solution.value), jnp.min(means))
    with pytest.raises(ValueError, match=r"`Darkest\(\)` compares images by measurements .* FromAdjoint\(\) makes"):
        dip.reconstruct(likelihood(), network, DATA, stopping=Darkest(), start=dip.FromAdjoint(), **options)


@pytest.mark.parametrize("fraction", [1e-6, 0.999999])
def test_one_entry_at_least_is_held_out(fraction):
    known = np.ones(SHAPE)
    known[0] = 0
    masked = Likelihood(operators.Mask(known), noise.Gaussian(0.1))
    problem, result = dip.HeldOut(fraction).prepare(masked, jnp.asarray(DATA), RESULTS.successful, key=KEY)
    fitted = np.asarray(problem.likelihood.operator.measured)
    assert not fitted[0].any()
    # All but one, or none: then there is nothing to fit.
    assert fitted.sum() == (3 if fraction < 0.5 else 0)
    assert bool(result == (RESULTS.successful if fraction < 0.5 else RESULTS.invalid_parameter))


def test_the_rule_looks_at_the_average_and_keeps_it():
    images = np.array([1.0, 3.0, 5.0])[:, None, None, None] * np.ones(SHAPE)
    _, _, _, image, _ = monitored(dip.FixedSteps(), images, ema=0.5)
    np.testing.assert_allclose(image, 0.5 * (0.5 * 1 + 0.5 * 3) + 0.5 * 5)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: dip.WindowedVariance(window=0), "window"),
        (lambda: dip.WindowedVariance(patience=1.5), "patience"),
        (lambda: dip.Discrepancy(0.0), "factor"),
        (lambda: dip.HeldOut(1.0), "fraction"),
        (lambda: dip.HeldOut(0.1, patience=0), "patience"),
    ],
)
def test_bad_rules(make, match):
    with pytest.raises(ValueError, match=match):
        make()
