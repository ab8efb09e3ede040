"""Noise models against scipy's densities, and by the check that is there for everybody's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxinv import Likelihood, classical, noise, operators, testing

SHAPE = (3, 4, 1)
ALL = jnp.ones((1, 1, 1))
HOLES = jnp.asarray(np.random.default_rng(9).integers(0, 2, SHAPE).astype(float))


# Compiled whole, and once for all models of a kind: operation by operation they take seconds to compile.
nll = jax.jit(lambda model, mean, y, measured: model.negative_log_likelihood(mean, y, measured))
simulate = jax.jit(lambda model, mean, key: model.simulate(mean, key=key))
linearise = jax.jit(lambda model, y: model.linearise(y))
value_and_slope = jax.value_and_grad(lambda p, y, model: model.negative_log_likelihood(p[None], y[None], jnp.ones(1)))
values_and_slopes = jax.jit(jax.vmap(value_and_slope, (0, 0, None)))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def covariance_factor():
    """Square, invertible, not triangular."""
    return normal(12, 12, seed=5) + 3 * np.eye(12)


@pytest.mark.parametrize("measured", [ALL, HOLES], ids=["all", "holes"])
@pytest.mark.parametrize("std", [0.3, np.random.default_rng(3).uniform(0.2, 2, SHAPE)], ids=["scalar", "array"])
def test_gaussian(measured, std):
    with jax.enable_x64(True):
        kept = np.broadcast_to(measured, SHAPE) > 0
        mean, y = normal(*SHAPE), normal(*SHAPE, seed=1)
        value = lambda mean, y: nll(noise.Gaussian(std), mean, y, measured)
        each = lambda mean, y: -scipy.stats.norm.logpdf(y, mean, std)[kept].sum()
        np.testing.assert_allclose(value(mean, y), each(mean, y), rtol=1e-12)
        # Complex: std in real and imaginary part each.
        expected = each(mean, y) + each(2 * mean, 3 * y)
        np.testing.assert_allclose(value(mean + 2j * mean, y + 3j * y), expected, rtol=1e-12)


@pytest.mark.parametrize("measured", [ALL, HOLES], ids=["all", "holes"])
@pytest.mark.parametrize("triangular", [True, False])
def test_correlated_gaussian(measured, triangular):
    with jax.enable_x64(True):
        factor = np.tril(covariance_factor()) if triangular else covariance_factor()
        kept = np.flatnonzero(np.broadcast_to(measured, SHAPE))
        # What is not measured is marginalised: rows and columns of the covariance, not of the precision.
        law = scipy.stats.multivariate_normal(np.zeros(len(kept)), (factor @ factor.T)[np.ix_(kept, kept)])
        each = lambda residual: -law.logpdf(residual.ravel()[kept])
        mean, y = normal(*SHAPE), normal(*SHAPE, seed=1)
        model = noise.CorrelatedGaussian(factor)
        np.testing.assert_allclose(nll(model, mean, y, measured), each(y - mean), rtol=1e-10)
        np.testing.assert_allclose(nll(model, 1j * mean, y, measured), each(y) + each(mean), rtol=1e-10)
        white, whiter = jax.jit(lambda model, y, v: (model.whiten(y), model.whiten_adjoint(v)))(model, y, mean)
        assert white.shape == whiter.shape == SHAPE
        np.testing.assert_allclose(np.vdot(white, mean), np.vdot(y, whiter), rtol=1e-10)
        np.testing.assert_allclose(
            np.vdot(white, white), y.ravel() @ np.linalg.solve(factor @ factor.T, y.ravel()), rtol=1e-9
        )


def test_correlated_gaussian_gradient_in_its_factor():
    with jax.enable_x64(True):
        y, direction = normal(*SHAPE), normal(12, 12, seed=2)
        value = lambda factor: noise.CorrelatedGaussian(factor).negative_log_likelihood(0 * y, y, HOLES)
        both = jax.jit(jax.value_and_grad(value))
        factor, step = covariance_factor(), 1e-6
        difference = (both(factor + step * direction)[0] - both(factor - step * direction)[0]) / (2 * step)
        np.testing.assert_allclose(np.sum(both(factor)[1] * direction), difference, rtol=1e-6)


PHOTONS = {
    "Poisson": (noise.Poisson(7.0), lambda p: 7 * p),
    "Poisson per entry": (noise.Poisson(np.random.default_rng(4).uniform(1, 9, SHAPE)), None),
    "TransmissionPoisson": (noise.TransmissionPoisson(50.0), lambda p: 50 * np.exp(-p)),
    "Poisson, background": (noise.Poisson(7.0, background=3.0), lambda p: 7 * p + 3),
    "TransmissionPoisson, scatter": (noise.TransmissionPoisson(50.0, background=3.0), lambda p: 50 * np.exp(-p) + 3),
}


@pytest.mark.parametrize("measured", [ALL, HOLES], ids=["all", "holes"])
@pytest.mark.parametrize("name", PHOTONS)
def test_photon_noise(name, measured):
    with jax.enable_x64(True):
        model, mean_of = PHOTONS[name]
        mean_of = mean_of or (lambda p: np.asarray(model.gain) * p)
        prediction = np.random.default_rng(0).uniform(0.1, 3, SHAPE)
        counts = np.random.default_rng(1).poisson(10, SHAPE).astype(float)
        kept = np.broadcast_to(measured, SHAPE) > 0
        expected = -scipy.stats.poisson.logpmf(counts, mean_of(prediction))[kept].sum()
        # The parameters are float32 arrays, made outside of x64.
        np.testing.assert_allclose(nll(model, prediction, counts, measured), expected, rtol=1e-6)


PROX = {
    "Poisson": noise.Poisson(7.0),
    "Poisson, background": noise.Poisson(7.0, background=3.0),
    "TransmissionPoisson": noise.TransmissionPoisson(50.0),
}


@pytest.mark.parametrize("name", PROX)
def test_prox_of_photon_noise(name):
    """The gradient of what it minimises is 0, or at no expected counts is not negative; what is missing stays."""
    with jax.enable_x64(True):
        model, random = PROX[name], np.random.default_rng(0)
        point, counts = random.normal(size=(6, 50)) * 3, np.repeat([[0.0, 1, 3, 10, 100, 1e4]], 50, 0).T
        ones = jnp.ones((1, 1))

        @jax.jit
        def prox_and_slope(point, counts, step):
            found = model.prox(point, counts, ones, step)
            return found, jax.grad(lambda z: model.negative_log_likelihood(z, counts, ones))(found)

        for step in (1e-3, 0.3, 50.0):
            found, slope = prox_and_slope(point, counts, step)
            residual = (np.asarray(found) - point) + step * np.asarray(slope)
            # The likelihood is infinitely steep where no count is expected.
            scale = 1 + abs(point) + step * abs(np.asarray(slope))
            at_border = (np.asarray(model.expected(found)) <= 1e-9) & (counts == 0)
            np.testing.assert_array_less(
                abs(residual)[~at_border], 1e-8 * scale[~at_border]
            )  # where Newton's steps end
            assert np.all(model.expected(found) >= -1e-12)
            # Left of the border the slope is that of the expected counts.
            if name != "TransmissionPoisson":
                assert np.all((np.asarray(found) - point + step * 7)[at_border] >= -1e-12)
        kept = jax.jit(lambda *values: model.prox(*values, 0 * ones, jnp.asarray(0.3)))(point, counts)
        np.testing.assert_array_equal(kept, point)


def test_what_has_no_prox_says_so():
    for model in (noise.TransmissionPoisson(5.0, background=1.0), noise.Gaussian(1.0)):
        with pytest.raises(ValueError, match="exact=False"):
            model.prox(jnp.ones(3), jnp.ones(3), jnp.ones(1), 1.0)


@pytest.mark.parametrize("level", [1e-3, 1.0, 1e4, 1e9])
@pytest.mark.parametrize("name", ["Poisson", "TransmissionPoisson"])
def test_photon_noise_far_from_the_data(name, level):
    """Values and gradients in single precision, by the closed forms: many counts, none, line integrals up to 10^6."""
    model = getattr(noise, name)(level)
    transmitted = name == "TransmissionPoisson"
    points = (
        np.r_[-np.geomspace(1e-3, 30, 10), 0, np.geomspace(1e-3, 1e6, 20)]
        if transmitted
        else np.geomspace(1e-6, 1e6, 20)
    )
    points, counts = (a.ravel().astype("f4") for a in np.meshgrid(points, [0.0, 1.0, 30.0, 7e3, 1e9]))
    values, gradients = values_and_slopes(points, counts, model)
    p, y, level = points.astype(float), counts.astype(float), float(np.float32(level))
    mean = level * np.exp(-p) if transmitted else level * p
    logarithm = np.log(level) - p if transmitted else np.log(mean)
    expected = mean - y * logarithm + scipy.special.gammaln(y + 1)
    # The expected counts are known to the last place of float32, and the nll to its product with the slope.
    np.testing.assert_array_less(abs(values - expected), 1e-6 * (abs(expected) + abs(y - mean) + np.sqrt(y)) + 1e-5)
    slope = y - mean if transmitted else level - y / p
    np.testing.assert_array_less(
        abs(gradients - slope), 1e-6 * (np.maximum(y, mean) / (1 if transmitted else p)) + 1e-30
    )


def test_transmission_is_convex_and_finite_everywhere():
    points = np.r_[-np.geomspace(1e4, 1e-2, 60), np.geomspace(1e-2, 1e6, 60)].astype(np.float32)
    for photons, count in ((1e4, 0.0), (1e4, 7.0), (1e-12, 3.0), (1e30, 1e4)):
        counts = np.full(points.shape, count, np.float32)
        values, slopes = values_and_slopes(points, counts, noise.TransmissionPoisson(photons))
        assert np.isfinite(values).all()
        assert (np.diff(slopes) >= -1e-6 * abs(np.asarray(slopes[1:]))).all()


def test_gradients_are_finite_where_nothing_is_expected():
    for model in (noise.Poisson(5.0), noise.TransmissionPoisson(5.0), noise.Gaussian(1.0)):
        predictions, counts = np.meshgrid([0.0, -1.0, 1e4], [0.0, 3.0])
        for found in values_and_slopes(predictions.ravel(), counts.ravel(), model):
            assert np.isfinite(found).all()


STRUCT = jax.ShapeDtypeStruct((2, 2, 1), jnp.float32)
FACTOR = normal(4, 4, seed=5) + 3 * np.eye(4)
STD = np.random.default_rng(3).uniform(0.2, 2, (2, 2, 1))
CHECKED = {
    "Gaussian": (lambda: noise.Gaussian(STD), STRUCT),
    "Gaussian complex": (lambda: noise.Gaussian(0.5), jax.ShapeDtypeStruct((3,), jnp.complex64)),
    "Gaussian stack": (lambda: noise.Gaussian((0.5, 2.0)), (STRUCT, jax.ShapeDtypeStruct((3,), jnp.float32))),
    "CorrelatedGaussian": (lambda: noise.CorrelatedGaussian(FACTOR), STRUCT),
    "CorrelatedGaussian complex": (
        lambda: noise.CorrelatedGaussian(FACTOR),
        jax.ShapeDtypeStruct((2, 2, 1), jnp.complex64),
    ),
    "Poisson": (lambda: noise.Poisson(4.0), STRUCT),
    "TransmissionPoisson": (lambda: noise.TransmissionPoisson(20.0), STRUCT),
    "Poisson, background": (lambda: noise.Poisson(4.0, background=2.0), STRUCT),
    "TransmissionPoisson, scatter": (lambda: noise.TransmissionPoisson(20.0, background=2.0), STRUCT),
}


@pytest.mark.parametrize("name", CHECKED)
def test_the_check_for_everybody(name, key):
    # Densities are those of scipy, above; that the draws and the derivatives belong to them is checked here.
    make, struct = CHECKED[name]
    testing.check_noise(make(), struct, key=key)


def test_linearise():
    counts = jnp.array([0.0, 1.0, 100.0])
    clipped = np.array([0.5, 1.0, 100.0])
    line_integrals, std = noise.TransmissionPoisson(200.0).linearise(counts)
    np.testing.assert_allclose(line_integrals, -np.log(clipped / 200), rtol=1e-6)
    np.testing.assert_allclose(std, 1 / np.sqrt(clipped), rtol=1e-6)
    with_scatter = noise.TransmissionPoisson(200.0, background=2.0).linearise(counts + 2)
    np.testing.assert_allclose(with_scatter[0], line_integrals, rtol=1e-6)
    assert np.all(with_scatter[1] >= std)
    np.testing.assert_allclose(noise.Poisson(4.0, background=2.0).linearise(counts + 2)[0], counts / 4, rtol=1e-6)
    intensities, std = noise.Poisson(4.0).linearise(counts)
    np.testing.assert_allclose(intensities, counts / 4, rtol=1e-6)
    np.testing.assert_allclose(std, np.sqrt(clipped) / 4, rtol=1e-6)
    data, std = noise.Gaussian(0.2).linearise(counts)
    np.testing.assert_array_equal(data, counts)
    np.testing.assert_allclose(std, np.full(3, 0.2), rtol=1e-6)
    data, std = noise.CorrelatedGaussian(jnp.array([[3.0, 0.0], [4.0, 1.0]])).linearise(jnp.ones(2))
    np.testing.assert_allclose(std, np.sqrt([9, 17]), rtol=1e-6)


def test_linearised_transmission_is_calibrated(key):
    # At 10^4 photons the residual of the line integrals in units of their std is standard normal to 1 %.
    truth = jnp.full((20000,), 1.5)
    model = noise.TransmissionPoisson(1e4)
    data, std = model.linearise(model.simulate(truth, key=key))
    z = np.asarray((data - truth) / std)
    assert abs(z.mean()) < 5 / np.sqrt(20000) + 0.02
    np.testing.assert_allclose(z.std(), 1, rtol=0.04)


@pytest.mark.parametrize("name", ["Gaussian", "Poisson", "TransmissionPoisson"])
def test_a_stack_is_the_sum_of_its_parts(name, key):
    kind = getattr(noise, name)
    p, y = (
        (jnp.asarray(normal(3, 2, 1) ** 2), jnp.asarray(normal(4) ** 2)),
        (jnp.full((3, 2, 1), 2.0), jnp.full((4,), 3.0)),
    )
    measured = (jnp.ones((1, 1, 1)), jnp.array([1.0, 0.0, 1.0, 1.0]))
    for parameter in (5.0, (5.0, 2.0)):
        each = parameter if isinstance(parameter, tuple) else (parameter, parameter)
        expected = sum(nll(kind(part), *args) for part, *args in zip(each, p, y, measured, strict=True))
        np.testing.assert_allclose(nll(kind(parameter), p, y, measured), expected, rtol=1e-6)
        draws = simulate(kind(parameter), p, key)
        assert [d.shape for d in draws] == [(3, 2, 1), (4,)]
        data, std = linearise(kind(parameter), y)
        for part, index in zip(each, (0, 1), strict=True):
            expected = linearise(kind(part), y[index])
            np.testing.assert_allclose(data[index], expected[0], rtol=1e-6)
            np.testing.assert_allclose(std[index], expected[1], rtol=1e-6)


def test_parts_of_a_stack_draw_independently(key):
    first, second = noise.Gaussian(1.0).simulate((jnp.zeros(1000), jnp.zeros(1000)), key=key)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(1000)


@pytest.mark.slow
def test_a_dose_sweep_is_one_vmap(key):
    doses = jnp.array([10.0, 1e3, 1e5])
    prediction = jnp.asarray(normal(*SHAPE) ** 2)
    sweep = jax.vmap(noise.TransmissionPoisson)(doses)
    counts = jax.vmap(lambda model: model.simulate(prediction, key=key))(sweep)
    nll = jax.vmap(lambda model, y: model.negative_log_likelihood(prediction, y, ALL))(sweep, counts)
    for dose, y, value in zip(doses, counts, nll, strict=True):
        alone = noise.TransmissionPoisson(dose)
        np.testing.assert_array_equal(y, alone.simulate(prediction, key=key))
        np.testing.assert_allclose(value, alone.negative_log_likelihood(prediction, y, ALL), rtol=1e-6)
    slope = jax.vmap(
        jax.grad(lambda dose: noise.TransmissionPoisson(dose).negative_log_likelihood(prediction, counts[0], ALL))
    )(doses)
    expected = prediction.size * np.exp(-prediction).mean() - counts[0].sum() / doses
    np.testing.assert_allclose(slope, expected, rtol=1e-4)


def test_a_double_parameter_leaves_a_single_measurement_single(key):
    with jax.enable_x64(True):
        single = jnp.ones((2, 2, 1), "f4")
        for model in (
            noise.Gaussian(jnp.asarray(0.5, "f8")),
            noise.Poisson(jnp.asarray(0.5, "f8")),
            noise.TransmissionPoisson(jnp.asarray(0.5, "f8")),
            noise.CorrelatedGaussian(jnp.eye(4)),
        ):
            made = jax.eval_shape(lambda model: model.simulate(single, key=key), model)
            value = jax.eval_shape(lambda model: model.negative_log_likelihood(single, single, ALL), model)
            linearised = jax.eval_shape(lambda model: model.linearise(single), model)
            assert {leaf.dtype for leaf in (made, value, *linearised)} == {jnp.dtype("f4")}


def test_invalid_parameters_are_flagged_at_run_time():
    values, one = jnp.array([1.0, 0.0, -1.0, jnp.nan, jnp.inf]), jnp.ones((1,))
    for kind in (noise.Gaussian, noise.Poisson, noise.TransmissionPoisson):
        flags = jax.jit(jax.vmap(lambda v, kind=kind: kind(v).invalid(one)))(values)
        np.testing.assert_array_equal(flags, [False, True, True, True, True])
        # Where nothing is measured nothing is asked of a parameter.
        flag = jax.jit(lambda v, hidden, kind=kind: kind(v).invalid(hidden))
        np.testing.assert_array_equal(flag(values, jnp.array([1.0, 0, 0, 0, 0])), False)
        np.testing.assert_array_equal(flag(values, jnp.array([1.0, 0, 1, 0, 0])), True)
    factors = jnp.stack([jnp.eye(2), jnp.zeros((2, 2)), jnp.full((2, 2), jnp.nan)])
    flags = jax.vmap(lambda f: noise.CorrelatedGaussian(f).invalid(one))(factors)
    np.testing.assert_array_equal(flags, [False, True, True])


def test_poisson_gradient_leads_back_from_intensities_that_are_not_positive():
    prediction, counts = np.array([-1.0, 0.0, 1e-39, 1e-5], np.float32), np.full(4, 10.0, np.float32)
    gradient = values_and_slopes(prediction, counts, noise.Poisson())[1]
    assert np.isfinite(gradient).all()
    assert (gradient < 0).all()


@pytest.mark.parametrize("mean", [1e-3, 0.5, 9.0, 50.0, 1e3, 1e5, 1e7])
def test_poisson_does_not_cancel_in_single_precision(mean):
    counts = np.random.default_rng(0).poisson(mean, 200)
    exact = -scipy.stats.poisson.logpmf(counts, float(np.float32(mean))).sum()
    single = lambda value: np.full(200, value, np.float32)
    got = nll(noise.Poisson(), single(mean), single(counts), np.ones(1, np.float32))
    # 200 terms of order 10, each rounded to 1e-7 of itself, and what y - mean loses to the rounding of either.
    np.testing.assert_allclose(got, exact, rtol=2e-6)


def test_doses_beyond_32_bit_integers():
    counts = noise.TransmissionPoisson(3e11).simulate(jnp.zeros(1000), key=jax.random.key(0))
    # Five standard errors of the mean, sqrt(3e11 / 1000) each; single precision resolves 3e4.
    assert abs(float(counts.mean()) - 3e11) < 5 * (3e11 / 1000) ** 0.5 + 3e4


def test_photon_noise_of_complex_measurements_says_what_to_do():
    with pytest.raises(ValueError, match="Magnitude"):
        noise.Poisson().simulate(jnp.ones(3, complex), key=jax.random.key(0))


def test_a_noise_level_of_zero_matters_only_where_something_is_measured():
    mask = jnp.ones((2, 2, 1)).at[0, 0].set(0)
    level = jnp.full((2, 2, 1), 0.5)
    x = jnp.full((2, 2, 1), 0.3)
    y = mask * 0.7
    nll = jax.jit(lambda std: Likelihood(operators.Mask(mask), noise.Gaussian(std)).negative_log_likelihood(x, y))
    values = [nll(std) for std in (level, level.at[0, 0].set(0))]
    np.testing.assert_array_equal(*values)
    likelihood = Likelihood(operators.Mask(mask), noise.Gaussian(level.at[0, 0].set(0)))
    assert classical.tikhonov(likelihood, y, weight=1.0).check().value.shape == x.shape
