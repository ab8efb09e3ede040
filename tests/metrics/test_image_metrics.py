"""psnr, ssim and nrmse against scikit-image, closed forms and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from jaxinv import metrics

ALL = [metrics.psnr, metrics.ssim, metrics.nrmse]


def pair(shape, seed=0, noise=0.1, dtype=np.float64):
    rng = np.random.default_rng(seed)
    reference = rng.uniform(size=shape)
    return (reference + noise * rng.normal(size=shape)).astype(dtype), reference.astype(dtype)


# Both sides are sums of the same numbers in another order: rounding only, 1e-6 of a value near 1 in float32 (the
# promise is 1e-4).
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [pytest.param(np.float32, 2e-6, marks=pytest.mark.slow), (np.float64, 1e-11)]
)
@pytest.mark.parametrize(
    ("shape", "data_range"), [((7, 7, 1), 1.0), ((28, 28, 1), 1.0), ((33, 20, 1), 2.5), ((16, 25, 3), 0.7)]
)
def test_skimage(shape, data_range, dtype, tolerance):
    x, reference = pair(shape, dtype=dtype)
    theirs = functools.partial(
        structural_similarity, reference.astype(float), x.astype(float), data_range=data_range, channel_axis=-1
    )
    small = metrics.UniformWindow(5, sample_covariance=False)
    windows = [None, small] + ([metrics.GaussianWindow()] if min(shape[:2]) >= 11 else [])
    ssim = lambda x, reference, window: metrics.ssim(
        x, reference, data_range, **({} if window is None else {"window": window})
    )

    @jax.jit
    def all_of_them(x, reference):
        ssims = [ssim(x, reference, window) for window in windows]
        return ssims, metrics.psnr(x, reference, data_range), metrics.nrmse(x, reference)

    with jax.enable_x64(dtype is np.float64):
        (ours, population, *gaussian), psnr, nrmse = all_of_them(x, reference)
    assert ours.dtype == dtype
    assert ours.shape == ()
    np.testing.assert_allclose(ours, theirs(), rtol=0, atol=tolerance)
    np.testing.assert_allclose(population, theirs(win_size=5, use_sample_covariance=False), rtol=0, atol=tolerance)
    if gaussian:
        wang = theirs(gaussian_weights=True, use_sample_covariance=False)
        np.testing.assert_allclose(gaussian[0], wang, rtol=0, atol=tolerance)
        assert abs(wang - theirs()) > 1e-4, "the two windows must be told apart"
    np.testing.assert_allclose(psnr, peak_signal_noise_ratio(reference, x, data_range=data_range), rtol=10 * tolerance)
    np.testing.assert_allclose(nrmse, normalized_root_mse(reference, x), rtol=10 * tolerance)


def test_ssim_does_not_cancel():
    # Bright, flat and faintly noisy: E[xy] - E[x]E[y] in float32 would be wrong by 1e-3 and more here.
    x, reference = (np.float32(100 + 0.05 * image) for image in pair((32, 32, 1)))
    truth = structural_similarity(reference.astype(float), x.astype(float), data_range=1.0, channel_axis=-1)
    np.testing.assert_allclose(metrics.ssim(x, reference), truth, atol=2e-6, rtol=0)


def test_ssim_without_unit():
    x, reference = pair((16, 16, 1), dtype=np.float32)
    both = jax.jit(lambda unit, x, y: (metrics.ssim(unit * x, unit * y, unit), metrics.psnr(unit * x, unit * y, unit)))
    one, *others = (both(np.float32(unit), x, reference) for unit in (1, 1e-12, 1e12))
    for other in others:
        np.testing.assert_allclose(other, one, rtol=1e-5)


def test_closed_forms():
    reference = jnp.ones((4, 4, 1))
    # Not clipped: an image far outside the range has a negative PSNR.
    np.testing.assert_allclose(metrics.psnr(reference + 10, reference), -20, rtol=1e-6)
    np.testing.assert_allclose(metrics.nrmse(3 * reference, reference), 2, rtol=1e-6)
    rotated = (1 + 0.1j) * reference
    np.testing.assert_allclose(metrics.psnr(rotated, reference), 20, rtol=1e-5)
    np.testing.assert_allclose(metrics.nrmse(rotated, reference.astype(complex)), 0.1, rtol=1e-5)
    assert metrics.psnr(rotated, reference).dtype == jnp.float32
    for metric, best in ((metrics.psnr, jnp.inf), (metrics.nrmse, 0), (metrics.ssim, 1)):
        image = pair((9, 9, 1), dtype=np.float32)[0]
        value, slope = jax.jit(jax.value_and_grad(metric))(image, image)
        assert value == best
        assert np.isfinite(slope).all()
    zero = 0 * reference
    assert metrics.nrmse(zero, zero) == 0
    assert metrics.nrmse(reference, zero) == jnp.inf
    assert jnp.isnan(metrics.psnr(reference.at[0].set(jnp.nan), reference))


@pytest.mark.parametrize("metric", ALL)
def test_dtype(metric):
    x, reference = pair((9, 9, 1))
    with jax.enable_x64(True):
        # A data_range of double precision does not raise that of the images.
        ranged = metric if metric is metrics.nrmse else functools.partial(metric, data_range=np.float64(1))
        assert ranged(x.astype(np.float32), reference.astype(np.float32)).dtype == jnp.float32
        assert metric(x, reference.astype(np.float32)).dtype == jnp.float64
    half = metric(jnp.asarray(x, jnp.bfloat16), jnp.asarray(reference, jnp.bfloat16))
    assert half.dtype == jnp.float32


@pytest.mark.parametrize("metric", [*ALL, functools.partial(metrics.ssim, window=metrics.GaussianWindow(1.0, 5))])
def test_vmap_equals_loop(metric):
    x, reference = pair((5, 12, 9, 3))
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        alone = jax.jit(metric)
        loop = [alone(a, b) for a, b in zip(x, reference, strict=True)]
        one = [alone(a, reference[0]) for a in x]
        pairs, against_one = jax.vmap(metric), jax.vmap(metric, in_axes=(0, None))
        together = jax.jit(lambda x, y: (pairs(x, y), against_one(x, y[0])))(x, reference)
        np.testing.assert_allclose(together, [loop, one], rtol=1e-12)


def test_vmap_over_parameters():
    x, reference = pair((15, 15, 1))
    sigmas, ranges = np.array([0.8, 1.5]), np.array([1.0, 2.0])
    with jax.enable_x64(True):
        score = jax.jit(lambda sigma, span: metrics.ssim(x, reference, span, window=metrics.GaussianWindow(sigma)))
        windowed = lambda w, span: metrics.ssim(x, reference, span, window=w)

        @jax.jit
        def both(sigmas, ranges):
            stacked = jax.vmap(metrics.GaussianWindow)(sigmas)
            return jax.vmap(score)(sigmas, ranges), jax.vmap(windowed)(stacked, ranges)

        together, mapped = both(sigmas, ranges)
        single = [score(*pair) for pair in zip(sigmas, ranges, strict=True)]
        np.testing.assert_allclose(together, single, rtol=1e-12)
        np.testing.assert_allclose(mapped, single, rtol=1e-12)


@pytest.mark.parametrize("metric", [*ALL, functools.partial(metrics.ssim, window=metrics.GaussianWindow(1.0, 5))])
def test_grad_against_finite_differences(metric):
    with jax.enable_x64(True):
        x, reference = (jnp.asarray(image) for image in pair((9, 8, 1)))
        check_grads(jax.jit(metric), (x, reference), order=1, modes=["fwd", "rev"], eps=1e-6)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.nrmse])
def test_grad_of_complex(metric):
    with jax.enable_x64(True):
        x, reference = pair((6, 5, 1))
        images = jnp.asarray(x + 0.3j * reference), jnp.asarray(1j * x)
        check_grads(jax.jit(metric), images, order=1, modes=["rev"], eps=1e-6)


def test_ssim_precision_is_explicit():
    x = jnp.zeros((16, 16, 1))
    text = str(jax.make_jaxpr(jax.grad(metrics.ssim))(x, x))
    assert text.count("dot_general[") == text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") > 0


IMAGE = np.zeros((8, 8, 1), np.float32)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(
    ("x", "reference", "words"),
    [
        (np.zeros((4, 8, 8, 1), np.float32), IMAGE, r"\(4, 8, 8, 1\).*\(8, 8, 1\).*vmap"),
        (IMAGE[..., 0], IMAGE, r"\(8, 8\).*\(8, 8, 1\).*channel axis"),
        (IMAGE[:7], IMAGE, r"\(7, 8, 1\).*\(8, 8, 1\)"),
        (IMAGE.astype(np.uint8), IMAGE, "uint8.*255"),
        (IMAGE, IMAGE.astype(bool), "reference of dtype bool"),
        (IMAGE[:0], IMAGE[:0], "at least one pixel"),
    ],
)
def test_bad_images(metric, x, reference, words):
    with pytest.raises(ValueError, match=words):
        metric(x, reference)
    with pytest.raises(ValueError, match=words):
        jax.jit(metric)(x, reference)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.ssim(IMAGE[:6], IMAGE[:6]), r"7 x 7 pixels; got shape \(6, 8, 1\)"),
        (lambda: metrics.ssim(IMAGE[..., 0], IMAGE[..., 0]), r"\(height, width, channels\); got \(8, 8\)"),
        (lambda: metrics.ssim(IMAGE + 0j, IMAGE + 0j), "complex64"),
        (lambda: metrics.ssim(IMAGE, IMAGE, k1=0.0), "`k1` must be positive"),
        (lambda: metrics.psnr(IMAGE, IMAGE, -1.0), "`data_range` must be positive and finite; got -1.0"),
        (lambda: metrics.psnr(IMAGE, IMAGE, np.ones(3)), r"`data_range` must be one number; got shape \(3,\)"),
        (lambda: metrics.UniformWindow(4), "odd integer of at least 3; got 4"),
        (lambda: metrics.GaussianWindow(size=1), "odd integer of at least 3; got 1"),
        (lambda: metrics.GaussianWindow(0.0), "`sigma` must be finite and positive"),
    ],
)
def test_bad_options(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_psnr_of_a_set_is_the_mean_over_its_images():
    images = jnp.stack([jnp.full((4, 4, 1), error) for error in (0.1, 0.01)])
    # 20 and 40 dB; the PSNR of the whole array would be 23 dB.
    np.testing.assert_allclose(metrics.psnr(images, jnp.zeros_like(images)), 30, rtol=1e-5)
