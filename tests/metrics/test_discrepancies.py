"""Kernel Stein discrepancy, CRPS and energy distance against definitions, closed forms and scipy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
import scipy.stats

from jaxinv import metrics
from jaxinv.metrics import _pairs

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(30, 2, 3)), 1.3 * RNG.normal(size=(21, 2, 3)) + 0.4
# float32: sums of some hundred terms near 1, each rounded to 6e-8.
TOLERANCES = {np.float32: 2e-5, np.float64: 1e-12}
dtypes = pytest.mark.parametrize("dtype", TOLERANCES)
KERNELS = {
    metrics.InverseMultiquadric: lambda x, y, h: (1 + jnp.sum((x - y) ** 2) / h**2) ** -0.5,
    metrics.GaussianKernel: lambda x, y, h: jnp.exp(-jnp.sum((x - y) ** 2) / (2 * h**2)),
}


def tilted(x):
    """The score of a density that is not Gaussian."""
    return -x - 0.5 * x**3


def by_definition(samples, score, kernel, unbiased):
    """The mean of `u`, by the derivatives of the kernel."""

    def u(x, y):
        sx, sy = score(x), score(y)
        of_x, of_y = jax.grad(kernel, 0), jax.grad(kernel, 1)
        trace = jnp.trace(jax.jacfwd(of_y, 0)(x, y))
        return jnp.sum(sx * sy) * kernel(x, y) + jnp.sum(sx * of_y(x, y)) + jnp.sum(sy * of_x(x, y)) + trace

    flat = samples.reshape(len(samples), -1)
    matrix = jax.vmap(jax.vmap(u, (None, 0)), (0, None))(flat, flat)
    n = len(samples)
    return (matrix.sum() - jnp.trace(matrix)) / (n * (n - 1)) if unbiased else matrix.mean()


@dtypes
@pytest.mark.parametrize(
    ("kernel", "bandwidth", "unbiased"),
    [(metrics.InverseMultiquadric, None, True), (metrics.GaussianKernel, 1.7, False)],
)
def test_kernel_stein_discrepancy_is_its_definition(kernel, bandwidth, unbiased, dtype, monkeypatch):
    monkeypatch.setattr(_pairs, "_ENTRIES", 7 * len(A))  # blocks of seven rows, the last one not full
    with jax.enable_x64(dtype is np.float64):
        samples = jnp.asarray(A, dtype)
        options = {"kernel": kernel(bandwidth), "unbiased": unbiased}
        got = metrics.kernel_stein_discrepancy(samples, tilted, **options)
        assert got.dtype == dtype
        assert got == metrics.kernel_stein_discrepancy(samples, tilted(samples), **options)
        h = bandwidth or np.median(scipy.spatial.distance.pdist(A.reshape(30, -1), "sqeuclidean")) ** 0.5
        expected = jax.jit(lambda x: by_definition(x, tilted, lambda x, y: KERNELS[kernel](x, y, h), unbiased))(samples)
    # The largest entries are about 50 times the mean.
    np.testing.assert_allclose(got, expected, rtol=50 * TOLERANCES[dtype])


def test_kernel_stein_discrepancy_of_a_shifted_gaussian():
    # E u = |m|^2 E k(X, Y), with X - Y ~ N(0, 2 I): the two scores differ by m.
    draws, shift, d = jax.random.normal(jax.random.key(1), (400, 60, 3)), jnp.array([0.6, -0.3, 0.2]), 3
    size = float(jnp.sum(shift**2))
    squares = 2 * scipy.stats.chi2.ppf((np.arange(100_000) + 0.5) / 100_000, d)
    expected = {
        metrics.GaussianKernel: size * (1 + 2 / 1.5**2) ** (-d / 2),
        metrics.InverseMultiquadric: size * np.mean((1 + squares / 1.5**2) ** -0.5),
    }
    for kernel, value in expected.items():
        call = lambda x, kernel=kernel: metrics.kernel_stein_discrepancy(x, lambda x: -x, kernel=kernel(1.5))
        both = jax.jit(jax.vmap(lambda x, call=call: (call(x), call(x + shift[None]))))
        exact, shifted = map(np.asarray, both(draws))
        assert abs(exact.mean()) < 4 * exact.std() / 20
        assert abs(shifted.mean() - value) < 4 * shifted.std() / 20
        assert shifted.mean() > 0.1


def test_stein_test_has_its_level_and_finds_what_is_wrong():
    draws = jax.random.normal(jax.random.key(2), (300, 50, 3))
    keys = jax.random.split(jax.random.key(3), 300)
    test = jax.jit(jax.vmap(lambda x, key: metrics.stein_test(x, lambda x: -x, key=key, num_draws=99)))
    exact = test(draws, keys)
    assert scipy.stats.kstest(exact.p_value, "uniform").pvalue > 1e-3
    # The share of p-values below .05 is binomial.
    assert 0.01 < np.mean(exact.p_value <= 0.05) < 0.1
    np.testing.assert_array_equal(exact.discrepancy > exact.floor, exact.p_value <= 0.05)
    # Fifty samples that are too wide are what it sees least.
    for wrong, least in ((0.6 * draws, 0.8), (draws + 0.5, 0.8), (2 * draws, 0.5)):
        assert np.mean(test(wrong, keys).p_value <= 0.05) > least


@dtypes
def test_crps_is_its_definition(dtype):
    truth = B[0]
    for unbiased in (True, False):
        with jax.enable_x64(dtype is np.float64):
            got = metrics.crps(A.astype(dtype), truth.astype(dtype), unbiased=unbiased)
        assert got.dtype == dtype
        pairs = np.abs(A[:, None] - A[None]).sum((0, 1)) / (30 * 29 if unbiased else 900)
        np.testing.assert_allclose(got, np.mean(np.abs(A - truth).mean(0) - pairs / 2), rtol=10 * TOLERANCES[dtype])


def test_crps_of_a_gaussian():
    truth = np.linspace(-2, 2, 5)
    density, below = scipy.stats.norm.pdf(truth), scipy.stats.norm.cdf(truth)
    expected = np.mean(truth * (2 * below - 1) + 2 * density - np.pi**-0.5)
    few = jax.random.normal(jax.random.key(4), (20_000, 3, 5))
    values = jax.jit(jax.vmap(lambda x: jnp.stack([metrics.crps(x, truth, unbiased=u) for u in (True, False)])))(few)
    fair, plain = np.asarray(values).T
    assert abs(fair.mean() - expected) < 4 * fair.std() / 20_000**0.5
    # The plain score of n samples is larger by E|X - X'| / (2 n).
    np.testing.assert_allclose(plain.mean() - fair.mean(), np.pi**-0.5 / 3, rtol=2e-2)


@dtypes
def test_energy_distance_is_scipys(dtype, monkeypatch):
    monkeypatch.setattr(_pairs, "_ENTRIES", 7 * 51)
    a, b = A[:, 0, 0], B[:, 0, 0]
    with jax.enable_x64(dtype is np.float64):
        plain = metrics.energy_distance(a.astype(dtype), b.astype(dtype), unbiased=False)
        fair = metrics.energy_distance(A.astype(dtype), B.astype(dtype))
        assert metrics.energy_distance(a.astype(dtype), a.astype(dtype), unbiased=False) < 1e-7
    np.testing.assert_allclose(plain, scipy.stats.energy_distance(a, b) ** 2, rtol=100 * TOLERANCES[dtype])
    mean = lambda x, y: scipy.spatial.distance.cdist(x.reshape(len(x), -1), y.reshape(len(y), -1)).mean()
    expected = 2 * mean(A, B) - mean(A, A) * 30 / 29 - mean(B, B) * 21 / 20
    np.testing.assert_allclose(fair, expected, rtol=100 * TOLERANCES[dtype])


def test_energy_distance_of_gaussians():
    draws, shift = jax.random.normal(jax.random.key(5), (2, 400, 50)), 0.8
    values = jax.jit(jax.vmap(lambda a, b: metrics.energy_distance(a, b + shift)))(*draws)
    # E|N(m, s^2)| for s^2 = 2.
    folded = 2 / np.pi**0.5 * np.exp(-(shift**2) / 4) + shift * (1 - 2 * scipy.stats.norm.cdf(-shift / 2**0.5))
    assert abs(values.mean() - (2 * folded - 4 / np.pi**0.5)) < 4 * values.std() / 20


def test_gradients_are_finite_and_right():
    with jax.enable_x64(True):
        a, b = jnp.asarray(A[:5]), jnp.asarray(B[:4])
        calls = {
            "stein": lambda a: metrics.kernel_stein_discrepancy(a, tilted, kernel=metrics.InverseMultiquadric(1.0)),
            "crps": lambda a: metrics.crps(a, b[0]),
            "energy": lambda a: metrics.energy_distance(a, b),
        }
        direction = jnp.asarray(RNG.normal(size=a.shape))
        for call in calls.values():
            slope = jnp.sum(jax.grad(call)(a) * direction)
            difference = (call(a + 1e-6 * direction) - call(a - 1e-6 * direction)) / 2e-6
            np.testing.assert_allclose(slope, difference, rtol=1e-6)
        assert np.isfinite(jax.grad(lambda a: metrics.energy_distance(a, a))(a)).all()


def test_one_sample():
    x, y = A[:1], B[0]
    np.testing.assert_allclose(metrics.crps(x, y, unbiased=False), np.abs(x[0] - y).mean(), rtol=1e-6)
    distance = metrics.energy_distance(x, y[None], unbiased=False)
    np.testing.assert_allclose(distance, 2 * np.linalg.norm(x[0] - y), rtol=1e-6)
    kernel = metrics.GaussianKernel(2.0)
    plain = functools.partial(metrics.kernel_stein_discrepancy, unbiased=False)
    # k = 1 and the trace is d / h^2.
    np.testing.assert_allclose(plain(x, tilted, kernel=kernel), np.sum(tilted(x) ** 2) + 6 / 4, rtol=1e-6)
    assert np.isfinite(plain(x, tilted))
    assert np.isfinite(metrics.kernel_stein_discrepancy(np.repeat(x, 3, 0), tilted))
    for call in (
        lambda: metrics.crps(x, y),
        lambda: metrics.energy_distance(x, B),
        lambda: metrics.kernel_stein_discrepancy(x, tilted),
        lambda: metrics.stein_test(x, tilted, key=jax.random.key(0)),
    ):
        with pytest.raises(ValueError, match="at least"):
            call()


def test_bad_input(key):
    x = np.ones((5, 3))
    stein = metrics.kernel_stein_discrepancy
    with pytest.raises(ValueError, match=r"`score` of the shape.*got \(4,\)"):
        stein(x, lambda x: jnp.ones(4))
    with pytest.raises(ValueError, match=r"got \(4, 3\)"):
        stein(x, x[:4])
    with pytest.raises(ValueError, match="defined for real"):
        stein(x.astype(complex), tilted)
    with pytest.raises(ValueError, match=r"`kernel` must be.*jaxinv\.metrics"):
        stein(x, tilted, kernel="gaussian")
    with pytest.raises(ValueError, match="`unbiased` must be True or False"):
        stein(x, tilted, unbiased="U")
    with pytest.raises(ValueError, match="typed key"):
        metrics.stein_test(x, tilted, key=0)
    with pytest.raises(ValueError, match="`num_draws`"):
        metrics.stein_test(x, tilted, key=key, num_draws=0)
    with pytest.raises(ValueError, match="`unbiased`"):
        metrics.crps(x, x[0], unbiased=2)
