import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from noising import PROCESSES

from jaxinv import diffusion

NAMES = list(PROCESSES)
# Single precision keeps 1e-7 of each term; everything else here is exact.
EXACT = {"rtol": 1e-9, "atol": 1e-12}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


@jax.jit
def tell(process, times):
    """Everything that a process says, at times in its interval."""
    at = jax.vmap(lambda t: (*process.marginal(t), process.drift(t, jnp.ones(())), process.diffusion(t)))
    slopes = jax.vmap(lambda t: jax.jvp(process.marginal, (t,), (jnp.ones_like(t),))[1])
    ratio = jax.vmap(lambda t: process.time(process.marginal(t)[1] / process.marginal(t)[0]))
    ends = process.t_min, process.t_max, process.prior_std
    return at(times), slopes(times), jax.vmap(process.rates)(times), ratio(times), ends


def defaults(name):
    row = PROCESSES[name]
    low, high = row.interval
    times = low + (high - low) * np.linspace(0, 1, 9) ** 2
    return row, times, tell(row.make(), times)


@pytest.mark.parametrize("name", NAMES)
def test_closed_forms(name):
    row, times, (said, slopes, rates, inverse, ends) = defaults(name)
    for got, expected in zip(said, row.formula(times), strict=True):
        # The references subtract nearly equal numbers where there is little noise.
        np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(ends, (*row.interval, row.prior_std), **EXACT)
    np.testing.assert_allclose(inverse, times, **EXACT)
    for got, expected in zip(rates, slopes, strict=True):
        np.testing.assert_allclose(got, expected, **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_the_marginal_is_that_of_the_sde(name):
    _, _, ((scale, std, f, g), (scale_slope, std_slope), *_) = defaults(name)
    np.testing.assert_allclose(scale_slope / scale, f, **EXACT)
    np.testing.assert_allclose(2 * std * std_slope, 2 * f * std**2 + g**2, **EXACT)


def test_a_time_that_is_no_number_has_no_noise():
    discrete = diffusion.DiscreteVP.linear(20)
    for process in [PROCESSES[name].make() for name in NAMES] + [discrete]:
        (_, std, _, g), *_ = tell(process, np.full(9, np.nan))
        assert np.isnan(std).all(), process
        assert np.isnan(g).all(), process
    for count in ("a", 2.5, 0, None):
        for make in (diffusion.DiscreteVP.linear, diffusion.DiscreteVP.cosine):
            with pytest.raises(ValueError, match="`num_timesteps` must be a static integer"):
                make(count)
    with pytest.raises(ValueError, match="real numbers"):
        diffusion.DiscreteVP(np.array([0.1, 0.2j]))


def test_sampling_stops_where_the_noise_of_ve_is_sigma_min():
    process = diffusion.VE(sigma_min=0.02, sigma_max=3.0)
    np.testing.assert_allclose(process.marginal(process.t_min)[1], 0.02, **EXACT)


@pytest.mark.parametrize("name", ["VP", "VE", *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES[1::2])])
def test_vmap_over_parameters_equals_loop_in_one_trace(name):
    row = PROCESSES[name]
    lanes = {k: np.asarray(v) for k, v in row.lanes.items()}
    times = np.linspace(0.1, 0.9, 9)
    together = jax.vmap(lambda p: tell(row.make(**p), times))(lanes)
    for i in range(4):
        alone = tell(row.make(**{k: v[i] for k, v in lanes.items()}), times)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, **EXACT), together, alone)
        compiled = compiled if i else tell._cache_size()
    assert tell._cache_size() == compiled


@pytest.mark.parametrize("name", NAMES)
def test_prior(name, key):
    row = PROCESSES[name]
    process = row.make()
    x = row.prior_std * np.random.default_rng(0).normal(size=(3, 2))
    expected = scipy.stats.norm(0, row.prior_std).logpdf(x).sum()
    np.testing.assert_allclose(process.prior_log_prob(jnp.asarray(x)), expected, **EXACT)
    z = process.prior_sample((5000, 2), key=key) / row.prior_std
    assert z.shape == (5000, 2)
    # 4 standard errors.
    assert abs(jnp.mean(z)) < 4 / 100
    assert abs(jnp.mean(z**2) - 1) < 4 * np.sqrt(2) / 100


def moments(paths):
    """Mean and covariance of `(n, k)` with standard errors, by the fourth moments."""
    n = len(paths)
    centred = paths - paths.mean(0)
    products = centred[:, :, None] * centred[:, None, :]
    error = lambda v: v.std(0) / np.sqrt(n)
    return (paths.mean(0), error(paths)), (products.mean(0), error(products))


# All share the code of `forward` and `trajectory`.
@pytest.mark.parametrize("name", ["VP", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_monte_carlo(name):
    row, process = PROCESSES[name], PROCESSES[name].make()
    times = np.array([0.2, 0.5, 0.8])
    scale, std, _, _ = row.formula(times)
    # From one time to a later one the covariance is the earlier variance, scaled.
    expected = np.minimum.outer((std / scale) ** 2, (std / scale) ** 2) * np.outer(scale, scale)
    keys = jax.random.split(jax.random.key(1), 4000)
    path = jax.vmap(lambda k: diffusion.trajectory(process, 1.5, times, key=k))(keys)
    once = jax.vmap(lambda k: diffusion.forward(process, 1.5, key=k, t=0.5))(keys)

    # The forward SDE by 1000 steps, denser where the rates grow. Its bias is of their size, well below the errors.
    rng, x, states = np.random.default_rng(0), np.full(4000, 1.5), []
    start = np.array([0.0])
    for stop in times:
        grid = np.linspace(start[-1], stop, 1000)
        _, _, f, g = row.formula(grid)
        for step, drift, noise in zip(np.diff(grid), f, g, strict=False):
            x = x + step * drift * x + np.sqrt(step) * noise * rng.normal(size=4000)
        states, start = [*states, x], grid
    for draws in (np.asarray(path), np.stack(states, 1)):
        (mean, mean_error), (covariance, covariance_error) = moments(draws)
        assert np.all(abs(mean - 1.5 * scale) < 4 * mean_error)
        assert np.all(abs(covariance - expected) < 4 * covariance_error + 0.01 * expected)
    (mean, mean_error), (variance, variance_error) = moments(np.asarray(once)[:, None])
    assert abs(mean - 1.5 * scale[1]) < 4 * mean_error
    assert abs(variance - std[1] ** 2) < 4 * variance_error


@pytest.mark.slow
def test_a_later_time_changes_no_earlier_state(key):
    process, x0 = diffusion.VP(), jnp.ones((2, 2, 1))
    path = diffusion.trajectory(process, x0, np.array([0.2, 0.5, 0.8]), key=key)
    np.testing.assert_array_equal(diffusion.trajectory(process, x0, np.array([0.2, 0.5]), key=key), path[:2])
    assert path.shape == (3, 2, 2, 1)


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_stays_single(name, key):
    # The parameters are double, as they are by default in this mode.
    process = PROCESSES[name].make()
    assert {leaf.dtype for leaf in jax.tree.leaves(process)} == {jnp.dtype("float64")}
    x = jnp.ones((2, 2, 1), jnp.float32)
    outs = jax.eval_shape(
        lambda x: (
            diffusion.forward(process, x, key=key, t=0.5),
            diffusion.trajectory(process, x, np.array([0.2, 0.5]), key=key),
            process.prior_sample((3,), key=key, dtype=jnp.float32),
            process.prior_log_prob(x),
        ),
        x,
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(outs)} == {jnp.dtype("float32")}
