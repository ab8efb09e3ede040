import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxinv import data
from jaxinv.data._phantoms import _draw, raster

KEY = jax.random.key(0)


@settings(max_examples=8, deadline=None)
@given(st.floats(0.15, 0.5), st.floats(0.15, 0.5), st.floats(-0.45, 0.45), st.floats(-0.45, 0.45), st.floats(-3.0, 3.0))
def test_raster_has_the_moments_of_an_ellipse(a, b, x0, y0, angle):
    size = 128
    image = np.asarray(raster(jnp.array([[2.0, a, b, x0, y0, angle]], jnp.float32), size), np.float64)
    x, y = np.meshgrid((np.arange(size) + 0.5) / size * 2 - 1, 1 - (np.arange(size) + 0.5) / size * 2)
    mass = image.sum()
    # The edge crosses at most about 4 pixels per pixel of semi-axis, each wrong by half a pixel at random: below 2 %.
    assert abs(mass * (2 / size) ** 2 / (2 * np.pi * a * b) - 1) < 0.02
    assert abs((image * x).sum() / mass - x0) < 0.005
    assert abs((image * y).sum() / mass - y0) < 0.005
    # Covariance of the uniform law on an ellipse: R diag(a^2, b^2) R^T / 4
    covariance = (image * (x - x0) * (y - y0)).sum() / mass
    assert abs(covariance - (a**2 - b**2) / 4 * np.sin(angle) * np.cos(angle)) < 0.002


def test_ellipses_follow_the_rule():
    tables = np.asarray(jax.jit(jax.vmap(_draw))(jax.random.split(KEY, 4000)), np.float64)
    counts = (tables[..., 0] != 0).sum(1)
    # 5 standard errors of 4000 Poisson(40): sqrt(40 / 4000) for the mean, 40 sqrt(2 / 4000) for the variance; that it
    # is cut at 70 changes neither by 1e-4
    assert abs(counts.mean() - 40) < 0.5
    assert abs(counts.var() - 40) < 4.5
    assert counts.max() <= 70
    value = tables[..., 0][tables[..., 0] != 0]
    for draws, low, high in ((value, -0.4, 1.0), (tables[..., 3:5], -0.9, 0.9), (tables[..., 5], 0, 2 * np.pi)):
        assert draws.min() >= low
        assert draws.max() <= high
        # 5 standard errors of 150 000 uniform draws
        assert abs(draws.mean() - (low + high) / 2) < 0.004 * (high - low)
        assert abs(draws.std() * np.sqrt(12) / (high - low) - 1) < 0.01
    axes = tables[..., 1:3]
    assert axes.min() > 0
    assert abs(axes.mean() - 0.2) < 0.002
    assert abs(axes.std() - 0.2) < 0.003
    assert abs(np.corrcoef(tables.reshape(-1, 6).T) - np.eye(6)).max() < 0.01


def test_ellipses():
    images = data.ellipses(5, 33, key=KEY)
    assert images.shape == (5, 33, 33, 1)
    assert images.dtype == jnp.float32
    assert images.min() == 0
    assert images.max() <= 1
    at_reference = np.asarray(data.ellipses(5, 128, key=KEY))
    np.testing.assert_allclose(at_reference.max((1, 2, 3)), 1)
    # images differ, and there is a background
    assert np.unique(at_reference.mean((1, 2, 3))).size == 5
    assert (at_reference == 0).mean() > 0.2


def test_ellipses_of_a_larger_set_are_the_same():
    # to the last bit: a rounded coordinate may move an edge by a pixel
    np.testing.assert_array_equal(data.ellipses(3, 40, key=KEY), data.ellipses(11, 40, key=KEY)[:3])


@pytest.mark.parametrize("x64", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ellipses_under_vmap_and_jit(x64):
    with jax.enable_x64(x64):
        keys = jax.random.split(KEY, 3)
        alone = np.stack([data.ellipses(3, 24, key=key) for key in keys])
        assert alone.dtype == np.float32
        np.testing.assert_array_equal(jax.vmap(lambda key: data.ellipses(3, 24, key=key))(keys), alone)
        np.testing.assert_array_equal(jax.jit(lambda key: data.ellipses(3, 24, key=key))(keys[1]), alone[1])


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 100])
def test_ellipses_are_one_object_at_every_size(size):
    coarse = np.asarray(data.ellipses(16, size, key=KEY), np.float64)
    fine = np.asarray(data.ellipses(16, 3 * size, key=KEY), np.float64)
    # Every third centre of the fine grid is one of the coarse grid, and sees the same object; a few may lie so near an
    # edge that the rounding of the coordinates decides.
    assert (abs(fine[:, 1::3, 1::3] - coarse) > 1e-6).mean() < 1e-4
    averaged = fine.reshape(16, size, 3, size, 3, 1).mean((2, 4))
    other = np.asarray(data.ellipses(16, size, key=jax.random.key(1)), np.float64)
    error, unrelated = (np.sqrt(np.mean((averaged - x) ** 2)) for x in (coarse, other))
    assert error < 0.2 * unrelated


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: data.ellipses(0, 8, key=KEY), "`n` must be a static integer of at least 1"),
        (lambda: data.ellipses(2, 8.5, key=KEY), "`size` must be a static integer of at least 1.*8.5"),
        (lambda: jax.jit(lambda n: data.ellipses(2, n, key=KEY))(8), "`size` must be a static integer of at least 1"),
        (lambda: data.ellipses(2, 8, key=jax.random.PRNGKey(0)), "typed key"),
        (lambda: data.ellipses(2, 8, key=jax.random.key(0, impl="rbg")), "threefry"),
        (lambda: data.ellipses(2, 8, key=jax.random.split(KEY)), "one key"),
        (lambda: data.shepp_logan(-1), "`size` must be a static integer of at least 1"),
        (lambda: data.digits(size="8"), "`size` must be a static integer of at least 1"),
    ],
)
def test_misuse(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_shepp_logan_has_the_known_values():
    size = 200
    image = np.asarray(data.shepp_logan(size))
    assert image.shape == (size, size, 1)
    assert image.dtype == np.float32

    def at(x, y):
        return image[int((1 - y) / 2 * size), int((x + 1) / 2 * size), 0]

    # (x right, y up): skull, brain, right and left ventricle, upper tumour, the three small ones below, outside
    points = [(0, 0.9, 1.0), (0.05, -0.4, 0.2), (0.22, 0.0, 0.0), (-0.22, 0.0, 0.0), (0, 0.45, 0.3)]
    points += [(-0.08, -0.605, 0.3), (0, -0.606, 0.3), (0.06, -0.605, 0.3), (0.95, 0.95, 0.0)]
    for x, y, value in points:
        assert at(x, y) == pytest.approx(value, abs=1e-6), (x, y)
    assert image.min() == 0
    assert image.max() == 1


def test_shepp_logan_agrees_with_scikit_image():
    theirs = pytest.importorskip("skimage").data.shepp_logan_phantom()
    ours = np.asarray(data.shepp_logan(400))[..., 0]
    # theirs is an 8-bit picture on a grid that differs by a fraction of a pixel: 99.5 % of the pixels agree within one
    # grey level, the others lie along edges; the mirror images agree in 94 % and 85 %
    assert (abs(ours - theirs) < 1 / 255).mean() > 0.99
    assert max((abs(x - theirs) < 1 / 255).mean() for x in (ours[::-1], ours[:, ::-1])) < 0.95


def test_digits():
    sklearn = pytest.importorskip("sklearn.datasets")
    raw = sklearn.load_digits()
    images, labels = data.digits(size=8)
    np.testing.assert_array_equal(images, (raw.images / 16).astype(np.float32)[..., None])
    np.testing.assert_array_equal(labels, raw.target)
    larger, _ = data.digits()
    assert larger.shape == (1797, 28, 28, 1)
    assert larger.dtype == np.float32
    assert larger.min() == 0
    assert larger.max() == 1
    # Cubic interpolation goes through its points: every third centre of the larger grid is one of the smaller.
    np.testing.assert_allclose(data.digits(size=24)[0][:, 1::3, 1::3], images, atol=1e-6)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match=r"jaxinv\[demo\]"):
        data.digits()
