"""Metrics of samplers against scipy, plain numpy and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import scipy.stats
from jax.test_util import check_grads

from jaxinv import metrics

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(60, 2, 3, 1)), 1.3 * RNG.normal(size=(45, 2, 3, 1)) + 0.4
MEANS = RNG.normal(size=(4, 2, 3, 1))
# float32: sums of some thousand terms near 1, each rounded to 6e-8.
TOLERANCES = {np.float32: 2e-5, np.float64: 1e-12}
dtypes = pytest.mark.parametrize("dtype", TOLERANCES)


def slices(key, num, size, dtype):
    directions = np.asarray(jax.random.normal(key, (size, num), dtype), float)
    return directions / np.linalg.norm(directions, axis=0)


def quantile_power(a, b, p):
    """`W_p^p` of two sets of numbers, from both quantile functions at many points within their common steps."""
    u = (np.arange(len(a) * len(b)) + 0.5) / (len(a) * len(b))
    at = lambda x: np.sort(x)[np.floor(u * len(x)).astype(int)]
    return np.mean(np.abs(at(a) - at(b)) ** p)


@dtypes
@pytest.mark.parametrize(("sizes", "p"), [((60, 45), 1), ((45, 45), 2), ((1, 7), 3.5)])
def test_sliced_wasserstein(sizes, p, dtype, key):
    a, b = A[: sizes[0]], B[: sizes[1]]
    with jax.enable_x64(dtype is np.float64):
        distance = jax.jit(functools.partial(metrics.sliced_wasserstein, key=key, num_slices=20, p=p))
        got = distance(a.astype(dtype), b.astype(dtype))
        directions = slices(key, 20, 6, dtype)
    assert got.dtype == dtype
    pairs = list(zip((a.reshape(-1, 6) @ directions).T, (b.reshape(-1, 6) @ directions).T, strict=True))
    expected = np.mean([quantile_power(*pair, p) for pair in pairs]) ** (1 / p)
    np.testing.assert_allclose(got, expected, rtol=TOLERANCES[dtype])
    if p == 1:
        scipys = np.mean([scipy.stats.wasserstein_distance(*pair) for pair in pairs])
        np.testing.assert_allclose(got, scipys, rtol=TOLERANCES[dtype])


def test_sliced_wasserstein_has_a_unit_and_no_nan_gradients(key):
    a, b = A.astype(np.float32), B.astype(np.float32)
    for p in (1, 2):
        distance = jax.jit(functools.partial(metrics.sliced_wasserstein, key=key, num_slices=20, p=p))
        for unit in (np.float32(1e-25), np.float32(1e25)):
            np.testing.assert_allclose(distance(unit * a, unit * b), unit * distance(a, b), rtol=1e-5)
        assert distance(a, a) == 0
        assert np.isfinite(jax.grad(distance)(a, a)).all()
    with jax.enable_x64(True):
        # A shift by v moves each slice by <v, direction>, whose mean square is |v|^2 / d.
        distance = jax.jit(functools.partial(metrics.sliced_wasserstein, key=key, num_slices=4000, p=2))
        shifted = distance(A, A + np.eye(6)[0].reshape(2, 3, 1))
        # Standard error of the mean of 4000 squares of mean 1/6 and standard deviation .18, through the root.
        np.testing.assert_allclose(shifted**2, 1 / 6, atol=4 * 0.18 / 4000**0.5)


@pytest.mark.slow
@pytest.mark.parametrize("p", [1, 2])
def test_the_gradient_of_sliced_wasserstein(p, key):
    with jax.enable_x64(True):
        distance = jax.jit(functools.partial(metrics.sliced_wasserstein, key=key, p=p))
        check_grads(distance, (A, B), order=1, modes=["rev"], eps=1e-6)


def spd(rank, seed):
    factor = np.random.default_rng(seed).normal(size=(6, rank))
    return factor @ factor.T


def bures(mean_a, a, mean_b, b):
    root = scipy.linalg.sqrtm(a)
    cross = scipy.linalg.sqrtm(root @ b @ root)
    return np.sqrt(np.sum((mean_a - mean_b) ** 2) + np.trace(a + b - 2 * np.real(cross)))


@dtypes
@pytest.mark.parametrize("ranks", [(8, 8), (2, 3)])
def test_wasserstein2_gaussian(ranks, dtype):
    a, b = spd(ranks[0], 1), spd(ranks[1], 2)
    with jax.enable_x64(dtype is np.float64):
        got = metrics.wasserstein2_gaussian(*(v.astype(dtype) for v in (MEANS[0], a, MEANS[1], b)))
    assert got.dtype == dtype
    # scipy takes roots of products, which squares the condition number: singular ones are good to the root of eps.
    tolerance = {np.float32: 1e-5, np.float64: 1e-10 if min(ranks) == 8 else 1e-6}[dtype]
    jitter = 0 if min(ranks) == 8 else 1e-12 * np.eye(6)
    np.testing.assert_allclose(got, bures(MEANS[0], a + jitter, MEANS[1], b + jitter), rtol=tolerance)


def test_wasserstein2_gaussian_of_close_laws():
    # Commuting covariances: |std_a - std_b|. By the difference of traces it would be 0 or 1e-3 in float32.
    stds = np.linspace(1, 5, 6)
    turn = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    a, b = (((turn * s**2) @ turn.T).astype(np.float32) for s in (stds, stds + 1e-4))
    zero = np.zeros(6, np.float32)
    # Covariances in float32 are known to 25 * 6e-8, standard deviations of 1 to 7e-7 hence.
    np.testing.assert_allclose(metrics.wasserstein2_gaussian(zero, a, zero, b), 1e-4 * 6**0.5, atol=1e-5)
    assert metrics.wasserstein2_gaussian(zero, a, zero, a) < 1e-5


def test_the_gradient_of_wasserstein2_gaussian():
    with jax.enable_x64(True):
        a, b = spd(8, 1), spd(8, 2)
        symmetric = lambda m: (m + m.T) / 2
        distance = lambda m, c: metrics.wasserstein2_gaussian(m, symmetric(c), MEANS[1], b)
        check_grads(jax.jit(distance), (MEANS[0], a), order=1, modes=["rev"], eps=1e-6)
        # Equal eigenvalues, of which eigenvectors have no derivative: W = sqrt(6) |s - 2|, s the root of c.
        scaled = lambda c: metrics.wasserstein2_gaussian(np.zeros(6), c * jnp.eye(6), np.zeros(6), 4 * jnp.eye(6))
        np.testing.assert_allclose(jax.grad(scaled)(9.0), 6**0.5 / 6, rtol=1e-10)


@dtypes
@pytest.mark.parametrize("bandwidth", [None, 1.7])
def test_mmd(bandwidth, dtype):
    with jax.enable_x64(dtype is np.float64):
        got = jax.jit(functools.partial(metrics.mmd, bandwidth=bandwidth))(A.astype(dtype), B.astype(dtype))
    assert got.dtype == dtype
    a, b = A.reshape(60, -1), B.reshape(45, -1)
    squares = scipy.spatial.distance.pdist(np.concatenate([a, b]), "sqeuclidean")
    square = np.median(squares) if bandwidth is None else bandwidth**2
    kernel = lambda x, y: np.exp(-scipy.spatial.distance.cdist(x, y, "sqeuclidean") / (2 * square))
    mean = lambda x: (kernel(x, x).sum() - len(x)) / (len(x) * (len(x) - 1))
    np.testing.assert_allclose(got, mean(a) + mean(b) - 2 * kernel(a, b).mean(), atol=TOLERANCES[dtype])


def test_mmd_is_unbiased():
    draws = jax.random.normal(jax.random.key(1), (2, 400, 6, 3))
    values = np.asarray(jax.vmap(functools.partial(metrics.mmd, bandwidth=1.0))(draws[0], draws[1]))
    assert abs(values.mean()) < 4 * values.std() / 20
    assert np.isfinite(metrics.mmd(jnp.ones((3, 2)), jnp.ones((3, 2))))


@dtypes
def test_mode_weights(dtype):
    samples = (MEANS[RNG.integers(0, 3, size=50)] + 0.6 * RNG.normal(size=(50, 2, 3, 1))).astype(dtype)
    nearest = scipy.spatial.distance.cdist(samples.reshape(50, -1), MEANS.reshape(4, -1)).argmin(1)
    with jax.enable_x64(dtype is np.float64):
        got = metrics.mode_weights(samples, MEANS.astype(dtype))
    np.testing.assert_allclose(got, np.bincount(nearest, minlength=4) / 50, rtol=1e-6)
    far = 1e4 + np.array([[0.0], [1.0]], np.float32)
    np.testing.assert_array_equal(metrics.mode_weights(far[[0, 1, 1, 1]], far), [0.25, 0.75])


def test_coverage_is_numpys(key):
    truth = RNG.normal(size=(7, 5))
    samples = RNG.normal(size=(40, 7, 5))
    with jax.enable_x64(True):
        for level in (0.5, 0.9):
            low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
            share = np.mean((low <= truth) & (truth <= high))
            np.testing.assert_allclose(metrics.coverage(samples, truth, level=level), share)
    # For exact draws the share is the level, up to the standard deviation of a share of 20 000 entries.
    truths = jax.random.normal(key, (200, 100))
    exact = jax.random.normal(jax.random.key(1), (200, 20, 100))
    for level in (0.5, 0.9):
        share = jnp.mean(jax.vmap(functools.partial(metrics.coverage, level=level))(exact, truths))
        # Interpolation between samples is linear, the distribution function not quite: 2e-3 at 20 samples.
        assert abs(share - level * 19 / 21) < 2e-3 + 4 * (0.25 / 20_000) ** 0.5
        narrow = jnp.mean(jax.vmap(functools.partial(metrics.coverage, level=level))(exact / 2, truths))
        assert narrow < share - 0.15


def test_calibration_ranks(key):
    truth, samples = RNG.normal(size=(3, 2)), RNG.normal(size=(9, 3, 2))
    np.testing.assert_array_equal(metrics.calibration_ranks(samples, truth), np.sum(samples < truth, axis=0))
    first = metrics.calibration_ranks(samples, truth, lambda x: x[0])
    np.testing.assert_array_equal(first, np.sum(samples < truth, axis=0)[0])
    np.testing.assert_array_equal(metrics.calibration_ranks(np.broadcast_to(truth, samples.shape), truth), 0)
    truths, exact = jax.random.normal(key, (2000, 4)), jax.random.normal(jax.random.key(1), (2000, 9, 4))
    ranks = jax.vmap(lambda s, x: metrics.calibration_ranks(s, x, jnp.sum))
    counts = np.bincount(ranks(exact, truths), minlength=10)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    assert scipy.stats.chisquare(np.bincount(ranks(exact / 1.5, truths), minlength=10)).pvalue < 1e-10


CALLS = {
    "sliced_wasserstein": lambda a, b: metrics.sliced_wasserstein(a, b, key=jax.random.key(3), p=2),
    "mmd": metrics.mmd,
    "mode_weights": metrics.mode_weights,
    "coverage": lambda a, b: metrics.coverage(a, b[0]),
    "calibration_ranks": lambda a, b: metrics.calibration_ranks(a, b[0]),
    "wasserstein2_gaussian": lambda a, b: metrics.wasserstein2_gaussian(
        a[0], jnp.matmul(a.T, a, precision="highest"), b[0], jnp.matmul(b.T, b, precision="highest")
    ),
}
CALLS |= {
    "energy_distance": metrics.energy_distance,
    "crps": lambda a, b: metrics.crps(a, b[0]),
    "kernel_stein_discrepancy": lambda a, b: metrics.kernel_stein_discrepancy(a, lambda x: b[0] - x),
    "stein_test": lambda a, b: metrics.stein_test(a, lambda x: b[0] - x, key=jax.random.key(3), num_draws=9).p_value,
}
calls = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@calls
def test_vmap_equals_loop(call):
    with jax.enable_x64(True):
        a, b = jnp.asarray(RNG.normal(size=(3, 12, 4))), jnp.asarray(RNG.normal(size=(3, 8, 4)))
        together, alone = jax.jit(jax.vmap(call))(a, b), jax.jit(call)
        for i in range(3):
            np.testing.assert_allclose(together[i], alone(a[i], b[i]), rtol=0, atol=1e-12)


@calls
def test_what_is_not_finite_shows(call):
    a = RNG.normal(size=(12, 4)).astype(np.float32)
    spoilt = a.copy()
    spoilt[0, 0] = np.nan
    got = jax.jit(call)(spoilt, a[:8])
    assert got.shape == () or got.shape == (8,) or got.shape == (4,)
    assert got.ravel()[0] == -1 if jnp.issubdtype(got.dtype, jnp.integer) else jnp.isnan(got).all()


@pytest.mark.parametrize("name", ["sliced_wasserstein", "mmd", "mode_weights", "energy_distance"])
def test_sets_that_do_not_match(name):
    call = CALLS[name]
    with pytest.raises(ValueError, match=r"\(5, 3\) and \(5, 4\)"):
        call(np.ones((5, 3)), np.ones((5, 4)))
    with pytest.raises(ValueError, match="at least"):
        call(np.ones((0, 3)), np.ones((5, 3)))
    with pytest.raises(ValueError, match="real"):
        call(np.ones((5, 3), complex), np.ones((5, 3)))
    with pytest.raises(ValueError, match="Convert it"):
        call(np.ones((5, 3), np.uint8), np.ones((5, 3)))


@pytest.mark.parametrize("metric", [metrics.coverage, metrics.calibration_ranks, metrics.crps])
def test_samples_and_truths_that_do_not_match(metric):
    with pytest.raises(ValueError, match=r"\(5, 3\) and \(4,\)"):
        metric(np.ones((5, 3)), np.ones(4))
    with pytest.raises(ValueError, match=r"jax\.vmap"):
        metric(np.ones((2, 5, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="real"):
        metric(np.ones((5, 3), complex), np.ones(3))


def test_bad_options(key):
    a = np.ones((5, 3))
    with pytest.raises(ValueError, match="num_slices"):
        metrics.sliced_wasserstein(a, a, key=key, num_slices=0)
    with pytest.raises(ValueError, match="at least 1"):
        metrics.sliced_wasserstein(a, a, key=key, p=0.5)
    with pytest.raises(ValueError, match="typed key"):
        metrics.sliced_wasserstein(a, a, key=0)
    with pytest.raises(ValueError, match="positive"):
        metrics.mmd(a, a, bandwidth=0.0)
    with pytest.raises(ValueError, match="two sets"):
        metrics.mmd(a, a[:1])
    with pytest.raises(ValueError, match="between 0 and 1"):
        metrics.coverage(a, a[0], level=90)
    with pytest.raises(ValueError, match="real"):
        metrics.calibration_ranks(a, a[0], lambda x: 1j * x)
    gaussian = metrics.wasserstein2_gaussian
    with pytest.raises(ValueError, match="shape"):
        gaussian(a[0], np.eye(3), a[0], np.eye(4))
    with pytest.raises(ValueError, match="`cov_b` is not symmetric"):
        gaussian(a[0], np.eye(3), a[0], np.triu(a[:3]))
    with pytest.raises(ValueError, match="`cov_a` is not positive semi-definite"):
        gaussian(a[0], -np.eye(3), a[0], np.eye(3))


@pytest.mark.parametrize("name", ["sliced_wasserstein", "mmd", "mode_weights", "wasserstein2_gaussian", "stein_test"])
def test_precision_is_explicit(name):
    a = jnp.ones((12, 4))
    found = list(products(jax.make_jaxpr(CALLS[name])(a, a[:8]).jaxpr))
    assert found
    assert all(equation.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2 for equation in found)


def products(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "jaxpr")):
            if hasattr(inner, "jaxpr"):
                yield from products(inner.jaxpr)
