"""What posterior methods refuse, what they flag, and the default method."""

import os
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_law
from noising import gaussian
from posteriors import (
    DRAWS,
    METHODS,
    STEPS,
    VP,
    Y,
    assert_clouds,
    clouds,
    draw,
    law,
    linear_gaussian,
    names,
    problem,
    solve,
)
from verbs import codes

from jaxinv import Likelihood, diffusion, noise, operators, oracles
from jaxinv.diffusion._posterior._moments import Moments, gain_product, moments
from jaxinv.diffusion._posterior._posterior_sample import default_method, explained
from jaxinv.diffusion._posterior._problem import linear_problem
from jaxinv.diffusion._posterior._tds import Cloud, effective, tempered


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


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
    "TDS: no guidance": (lambda: diffusion.TDS("TMPD"), r"`proposal` must be.*'TMPD'"),
    "TDS: a guidance that is not made": (lambda: diffusion.TDS(diffusion.TMPD), r"`proposal` must be.*TMPD"),
    "TDS: no particles": (lambda: diffusion.TDS(particles=0), r"`particles`.*at least 1; got 0"),
    "TDS: half a particle": (lambda: diffusion.TDS(particles=1.5), r"`particles`.*static integer"),
    "TDS: a twist for another proposal": (
        of(diffusion.TDS(diffusion.MomentMatching(2), diffusion.TMPD().twist(), particles=4)),
        "`MomentMatching` cannot propose moves for this twist.*ShiftView",
    ),
    "TDS: steps without noise": (
        lambda: diffusion.TDS(diffusion.TMPD(eta=0.0)),
        r"`eta` of its proposal.*positive; got 0",
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
    made = jax.eval_shape(lambda share: diffusion.TDS(guidance, None, 4, share), jax.ShapeDtypeStruct((), jnp.float32))
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


def test_the_error_of_the_evidence(key):
    # Without resampling it is that of a mean of independent weights, whatever tempering took from them; a cloud whose
    # particles all descend from one says that it knows nothing.
    log_twist = 2 * jax.random.normal(key, (64,))
    cloud = Cloud.from_particles(jnp.zeros((64, 3)))
    weights = np.exp(np.asarray(log_twist))
    for least in (0.0, 0.9):
        told, error = cloud.weigh(log_twist, jnp.asarray(least)).evidence()
        np.testing.assert_allclose(told, np.log(weights.mean()), rtol=1e-10)
        relative = weights.std(ddof=1) / np.sqrt(64) / weights.mean()
        np.testing.assert_allclose(error, np.sqrt(-np.log1p(-(relative**2))), rtol=1e-8)
    assert cloud.evidence()[1] == 0
    one = eqx.tree_at(lambda c: c.ancestors, cloud, jnp.zeros(64, jnp.int32))
    assert one.evidence()[1] == np.inf


@pytest.mark.parametrize(("distance", "good"), [(0.0, True), (2.0, True), (5.0, False)])
def test_samples_that_the_noise_does_not_explain(distance, good):
    likelihood = Likelihood(operators.Mask(jnp.array([1.0, 1.0, 0.0])), noise.Gaussian(0.5))
    samples = jnp.tile(jnp.asarray([0.5 * distance, 0.5 * distance, 99.0]), (4, 1))
    ratio, plausible = explained(likelihood, jnp.zeros(3), samples)
    np.testing.assert_allclose(ratio, distance**2, atol=1e-12)
    assert plausible == good
    exact = Likelihood(likelihood.operator, noise.Gaussian(0.0))
    assert explained(exact, jnp.zeros(3), samples)[1]


@pytest.mark.slow
def test_samples_that_the_noise_does_not_explain_are_flagged(key):
    # Half a step towards the measurement at the end, whatever the noise.
    likelihood, y = linear_gaussian()
    likelihood = Likelihood(likelihood.operator, noise.Gaussian(1e-3))
    draw = lambda method: diffusion.posterior_sample(
        likelihood, gaussian().score(diffusion.VP()), y, key=key, method=method, num_samples=16
    )

    class Claiming(diffusion.DPS):
        @property
        def weighs_the_measurement(self):
            return True

    solution = draw(Claiming(8))
    assert codes(solution.result) == "implausible"
    assert solution.stats["discrepancy"] > 100
    # `DPS` itself makes no such claim.
    assert codes(draw(diffusion.DPS(8)).result) == "successful"


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
    method = diffusion.TDS(diffusion.TMPD(32, schedule=diffusion.UniformLogSNR()), particles=1024, resample_below=share)
    row = METHODS["TDS-TMPD"]
    assert_clouds(clouds(method, key, 1024), *law(row, VP, row.times(32)))


@pytest.mark.parametrize("rtol", [0.3, 0.1, 1e-6])
def test_a_solve_stops_where_conjugate_gradients_do(rtol):
    rng = np.random.default_rng(0)
    root, matrix, y = rng.normal(size=(12, 12)), rng.normal(size=(8, 12)), rng.normal(size=8)
    process, t, x = diffusion.VP(), 0.5, rng.normal(size=12)
    prior = oracles.Gaussian(jnp.zeros(12), jnp.asarray(root @ root.T))
    likelihood = Likelihood(operators.Matrix(jnp.asarray(matrix), (12,)), noise.Gaussian(0.5))
    linear, _ = linear_problem(likelihood, prior.score(process), jnp.asarray(y), "this")

    @jax.jit
    def solved(t, x):
        at = moments(linear.score, t, x)
        products = jax.vmap(at.covariance_product)(jnp.eye(12))
        return at.image, products, gain_product(linear, at, linear.residual(at.image), rtol, 20)[:2]

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
    at = Moments(jnp.zeros(2), jnp.zeros(2), jnp.asarray(1.0), pullback, jnp.asarray(False))
    score = diffusion.Score(lambda t, x: -x, diffusion.VP())
    likelihood = Likelihood(operators.Identity((2,)), noise.Gaussian(1.0))
    linear, _ = linear_problem(likelihood, score, jnp.zeros(2), "this")
    values, vectors = np.linalg.eigh(matrix)
    inverse = np.where(values > -0.5, 1 / (1 + np.maximum(values, 0)), 0)
    solve = jax.jit(lambda at, residual: gain_product(linear, at, residual, 1e-6, 5)[:2])
    shift, steps = solve(at, jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(shift, matrix @ (vectors @ (inverse * vectors[0])), rtol=1e-10)
    assert steps == 2
    # Where the noise is large a negative pivot ends it, and its direction counts as not measured.
    noisy = eqx.tree_at(lambda at: (at.noisy, at.factor), at, (jnp.asarray(True), jnp.asarray(2.0)))
    shift, steps = solve(noisy, jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(shift, 0)
    assert steps == 1


# The default.


def shaped(operator):
    return Likelihood(operator, noise.Gaussian(0.1))


def rows_of_noise(count):
    return shaped(operators.Matrix(jnp.ones((count, 4)), (4,)))


DEFAULTS = {
    "few": (rows_of_noise(16), diffusion.TDS),
    "few of many pixels": (shaped(operators.Matrix(jnp.ones((16, 257)), (257,))), diffusion.TDS),
    "some": (rows_of_noise(17), diffusion.TDS),
    "some of some pixels": (shaped(operators.Matrix(jnp.ones((48, 128)), (128,))), diffusion.TDS),
    "more of some pixels": (shaped(operators.Matrix(jnp.ones((49, 128)), (128,))), diffusion.MomentMatching),
    "some of many pixels": (shaped(operators.Matrix(jnp.ones((17, 257)), (257,))), diffusion.MomentMatching),
    "many": (rows_of_noise(129), diffusion.MomentMatching),
    "few, complex": (shaped(operators.MaskedFourier(jnp.ones((4, 2, 1))) @ operators.Real((4, 2, 1))), diffusion.TDS),
    "many, complex": (
        shaped(operators.MaskedFourier(jnp.ones((9, 9, 1))) @ operators.Real((9, 9, 1))),
        diffusion.MomentMatching,
    ),
    "many, stacked": (
        shaped(operators.stack([operators.Identity((9, 9, 1))] * 2)),
        diffusion.MomentMatching,
    ),
    "not linear": (SQUARED, diffusion.TDS),
    "photons": (Likelihood(operators.Identity((4,)), noise.Poisson(1.0)), diffusion.TDS),
    "not linear, many pixels": (
        Likelihood(operators.NonlinearFunction(lambda x: x**2, (17,)), noise.Gaussian(0.1)),
        diffusion.DPS,
    ),
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
        assert ("log_evidence" in call(None).stats) == (case != "many")


def test_the_default_number_of_particles():
    few, large = rows_of_noise(16), DEFAULTS["few of many pixels"][0]
    found = [default_method(likelihood, n).num_particles for likelihood in (few, large) for n in (1, 300, 2000)]
    assert found == [1024, 1024, 1024, 256, 512, 1024]


@pytest.mark.slow
def test_the_default_ends_on_two_cores():
    # jaxlib 0.10 waits for ever where as many batches are decomposed at once as XLA's pool has threads. A pool of its
    # own size is a process of its own.
    code = """
import jax, jax.numpy as jnp, jaxinv
from jaxinv import diffusion, oracles
process, prior = diffusion.VP(), oracles.Gaussian(jnp.ones((8, 8, 1)), 0.1 * jnp.eye(64))
likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((8, 8, 1), 2), jaxinv.noise.Gaussian(0.1))
# A measurement that the prior explains: with another the answer would be `implausible`.
y, key = jnp.ones((4, 4, 1)), jax.random.key(0)
method = diffusion.TDS(diffusion.MomentMatching(10), particles=1024)  # the default, with fewer steps
diffusion.posterior_sample(likelihood, prior.score(process), y, key=key, num_samples=4, method=method).check()
"""
    environment = {**os.environ, "NPROC": "2"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


class Crooked(operators.AbstractLinearOperator):
    """An operator whose adjoint has the wrong sign, so that conjugate gradients break down."""

    domain: jax.ShapeDtypeStruct = eqx.field(default=jax.ShapeDtypeStruct((3,), jnp.float64), static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(default=jax.ShapeDtypeStruct((3,), jnp.float64), static=True)

    def __call__(self, x):
        return 10 * x

    def adjoint(self, y):
        return -10 * y


# The methods with conjugate gradients, in steps or for a start; with a Lanczos process; with a power iteration.
SOLVING = {
    "DiffPIR": diffusion.DiffPIR(3),
    "PiGDM": diffusion.PiGDM(3),
    "OTODE": diffusion.OTODE(3),
    "REDDiff": diffusion.REDDiff(3),
    "DAPS, exact": diffusion.DAPS(3, ode_steps=1, inner=diffusion.Exact()),
    "PnPDM, exact": diffusion.PnPDM(3, prior_steps=1, inner=diffusion.Exact()),
    "Replacement": diffusion.Replacement(3),
}
FAILING = SOLVING | {
    "MomentMatching": diffusion.MomentMatching(3),
    "TMPD": diffusion.TMPD(3),
    "TDS, MomentMatching": diffusion.TDS(diffusion.MomentMatching(3), particles=4),
    "TDS, TMPD": diffusion.TDS(diffusion.TMPD(3), particles=4),
    "TDS, PiGDM": diffusion.TDS(diffusion.PiGDM(3), particles=4),
    "DAPS, Langevin": diffusion.DAPS(3, ode_steps=1, inner=diffusion.Langevin(2)),
    "AnnealedLangevin": diffusion.AnnealedLangevin(3, 2),
    "PnPFlow": diffusion.PnPFlow(3),
}
OTHERS = ("DiffPIR", "OTODE")


def _failing(table):
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=() if name in OTHERS else pytest.mark.slow) for name in table]
    )


@_failing(FAILING)
def test_an_inner_solve_that_is_not_finite_is_reported(name, key):
    # The solver keeps its last finite iterate, from which the sample would go on as if nothing was measured.
    broken = operators.FunctionOperator(lambda x: x * jnp.nan, (3,))
    likelihood = Likelihood(broken, noise.Gaussian(0.5))
    score = gaussian().score(diffusion.VP())
    solution = diffusion.posterior_sample(likelihood, score, jnp.ones(3), key=key, method=FAILING[name])
    assert codes(solution.result) == "nonfinite"
    assert np.all(np.isfinite(solution.value))


@_failing(SOLVING)
def test_an_inner_solve_that_breaks_down_is_reported(name, key):
    score = gaussian().score(diffusion.VP())
    likelihood = Likelihood(Crooked(), noise.Gaussian(0.5))
    solution = diffusion.posterior_sample(likelihood, score, jnp.ones(3), key=key, method=SOLVING[name])
    assert codes(solution.result) == "breakdown"
    assert np.all(np.isfinite(solution.value))


@pytest.mark.slow
def test_the_covariance_of_a_twist_that_is_not_finite_is_reported(key):
    # Where the score is finite, and its derivative is not.
    def function(t, x):
        return -x + 0 * jnp.sqrt(jnp.abs(x) * 0)

    score = diffusion.Score(function, diffusion.VP())
    likelihood = Likelihood(operators.Matrix(jnp.ones((1, 3)), (3,)), noise.Gaussian(0.5))
    for method in (diffusion.MomentMatching(3), diffusion.TMPD(3), diffusion.PiGDM(3)):
        for moved in (method, diffusion.TDS(method, particles=4)):
            solution = diffusion.posterior_sample(likelihood, score, jnp.ones(1), key=key, method=moved)
            assert codes(solution.result) == "nonfinite", moved
            assert np.all(np.isfinite(solution.value))
