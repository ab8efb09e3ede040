import math
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io

from jaxinv._solution import RESULTS
from jaxinv.classical._fbp import Cosine, Hann, RamLak, SheppLogan, _Views, fbp
from jaxinv.operators._pointwise import Identity
from jaxinv.operators._tomography import FanBeam, ParallelBeam

WINDOWS = [RamLak(), SheppLogan(), Cosine(), Hann()]
HALF_TURN = np.linspace(0, np.pi, 120, endpoint=False)
FULL_TURN = np.linspace(0, 2 * np.pi, 180, endpoint=False)
# Denser on one side; and the golden angle, whose gaps have three sizes.
UNEVEN = np.pi * np.linspace(0, 1, 160, endpoint=False) ** 1.5
GOLDEN = np.arange(150) * np.pi * (math.sqrt(5) - 1) / 2 % (2 * np.pi)

CENTRE, RADIUS, VALUE = (3.0, -5.0), 14.0, 2.5


def disc_sinogram(operator, unit):
    """The exact line integrals of a disc, its centre and radius given in multiples of `unit`."""
    t = np.asarray(operator.angles, float)[:, None]
    bins = operator.codomain.shape[1]
    s = (np.arange(bins) - (bins - 1) / 2) * operator.detector_spacing + float(operator.centre_offset)
    x, y = unit * np.asarray(CENTRE)
    if isinstance(operator, ParallelBeam):
        distance = x * np.cos(t) + y * np.sin(t) - s
    else:
        # The ray from the source through the bin at s, in the frame of the view: the source is at (0, -source_origin).
        across, depth = x * np.cos(t) + y * np.sin(t), operator.source_origin - x * np.sin(t) + y * np.cos(t)
        length = operator.source_origin + operator.origin_detector
        distance = (across * length - depth * s) / np.hypot(length, s)
    return (VALUE * 2 * np.sqrt(np.maximum(0, (unit * RADIUS) ** 2 - distance**2)))[..., None]


def errors(operator, image, unit):
    """Relative errors: of the mean inside the disc, the largest inside about that mean, the rms outside."""
    h, w, _ = operator.domain.shape
    x, y = np.meshgrid(np.arange(w) - (w - 1) / 2, (h - 1) / 2 - np.arange(h))
    r = np.hypot(x - CENTRE[0], y - CENTRE[1])
    image = np.asarray(image)[..., 0]
    mean = image[r < RADIUS - 4].mean()
    return (
        abs(mean / VALUE - 1),
        np.abs(image[r < RADIUS - 4] / mean - 1).max(),
        np.sqrt(np.mean(image[r > RADIUS + 4] ** 2)) / VALUE,
    )


def parallel(angles, spacing, pixel=1.0, offset=0.0):
    return ParallelBeam((49, 56, 1), angles, math.ceil(76 / spacing), spacing * pixel, pixel, offset * pixel)


def fan(angles, spacing, pixel=1.0, offset=0.0):
    # Twofold magnification: a spacing of 2 on the detector is one pixel at the origin.
    return FanBeam(
        (49, 56, 1),
        angles,
        math.ceil(100 / spacing),
        2 * spacing * pixel,
        90 * pixel,
        90 * pixel,
        pixel,
        offset * pixel,
    )


# Measured: the mean inside, which shows the normalisation, is within 4e-4 (1.1e-3 at a spacing of 1.7), the values
# ripple about it by up to 4e-3 (9e-3); outside are the streaks of this many views.
@pytest.mark.parametrize(
    ("beam", "angles", "spacing", "pixel", "offset"),
    [
        (parallel, HALF_TURN, 0.5, 1.0, 0.0),
        (parallel, HALF_TURN, 1.0, 0.25, 0.3),
        (parallel, HALF_TURN, 1.7, 3.0, -0.4),
        (parallel, FULL_TURN, 1.0, 1.0, 0.0),
        (parallel, np.linspace(0, np.pi, 121), 1.0, 1.0, 0.0),
        (parallel, UNEVEN[::-1], 1.0, 1.0, 0.0),
        (parallel, GOLDEN, 1.0, 1.0, 0.0),
        (fan, FULL_TURN, 0.5, 1.0, 0.0),
        (fan, FULL_TURN, 1.0, 0.25, 0.3),
        (fan, FULL_TURN + 1.0, 1.7, 3.0, -0.4),
        (fan, 2 * UNEVEN, 1.0, 1.0, 0.0),
    ],
)
def test_disc(beam, angles, spacing, pixel, offset):
    operator = beam(angles, spacing, pixel, offset)
    solution = fbp(operator, disc_sinogram(operator, pixel)).check()
    scale, ripple, outside = errors(operator, solution.value, pixel)
    assert scale < 0.003
    assert ripple < 0.02
    assert outside < 0.05


@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: type(w).__name__)
def test_windows(window):
    operator = parallel(HALF_TURN, 1.0)
    solution = fbp(operator, disc_sinogram(operator, 1.0), window=window).check()
    scale, _, _ = errors(operator, solution.value, 1.0)
    assert scale < 0.01


def test_window_responses():
    frequency = jnp.array([0.0, 0.5, 1.0])
    expected = {
        RamLak: [1, 1, 1],
        SheppLogan: [1, math.sin(math.pi / 4) / (math.pi / 4), 2 / math.pi],
        Cosine: [1, math.sqrt(0.5), 0],
        Hann: [1, 0.5, 0],
    }
    for window in WINDOWS:
        np.testing.assert_allclose(window(frequency), expected[type(window)], atol=1e-6)
    # White noise on the detector: the smoother the window, the less of it reaches the image.
    operator = parallel(HALF_TURN, 1.0)
    noise = jax.random.normal(jax.random.key(0), operator.codomain.shape)
    levels = [float(jnp.std(fbp(operator, noise, window=window).value)) for window in WINDOWS]
    assert levels == sorted(levels, reverse=True)
    assert levels[3] < 0.6 * levels[0]


@pytest.mark.parametrize(
    ("angles", "period", "expected"),
    [
        (np.arange(6) * np.pi / 6, np.pi, np.full(6, np.pi / 6)),
        (np.arange(7) * np.pi / 6, np.pi, np.r_[np.pi / 12, np.full(5, np.pi / 6), np.pi / 12]),
        (np.arange(12) * np.pi / 6, np.pi, np.full(12, np.pi / 12)),
        (np.arange(12) * np.pi / 6, 2 * np.pi, np.full(12, np.pi / 6)),
        # A wedge is missing: the views at its rim stand for no more than the others.
        (np.arange(7) * np.pi / 12 - 1.0, np.pi, np.full(7, np.pi / 12)),
        ([0.0, 0.2, 1.0, 2.0], np.pi, [(np.pi - 1.8) / 2, 0.5, 0.9, (np.pi - 1.0) / 2]),
        ([0.7], np.pi, [np.pi]),
    ],
)
def test_view_weights(angles, period, expected):
    expected = np.asarray(expected)
    order = np.random.default_rng(0).permutation(len(expected))
    # Float32 angles near 2 pi are 5e-7 apart.
    weights = _Views(jnp.asarray(np.asarray(angles)[order]), period).weights
    if len(expected) == 12 and period == np.pi:
        # Two views share each line; rounding decides which of the two stands for the left half of their gap.
        np.testing.assert_allclose(float(jnp.sum(weights)), np.pi, rtol=1e-5)
    np.testing.assert_allclose(weights, expected[order], atol=3e-6)


def test_missing_wedge_keeps_scale():
    # Where all that is missing is a wedge, the views that exist must weigh as in the full scan.
    whole = parallel(HALF_TURN, 1.0)
    part = parallel(HALF_TURN[:80], 1.0)
    y = disc_sinogram(whole, 1.0)
    masked = fbp(whole, np.where(np.arange(120)[:, None, None] < 80, y, 0))
    np.testing.assert_allclose(fbp(part, y[:80]).value, masked.value, atol=2e-4)


def test_half_turn_fan():
    # Half a turn counts each line about once, so it has the scale of the full turn, with artefacts.
    operator = fan(np.linspace(0, np.pi, 90, endpoint=False), 1.0)
    scale, _, _ = errors(operator, fbp(operator, disc_sinogram(operator, 1.0)).value, 1.0)
    assert scale < 0.15


@pytest.mark.slow
@pytest.mark.parametrize("beam", [parallel, fan])
def test_vmap_jit_complex(beam):
    with jax.enable_x64(True):
        sets = jnp.stack([jnp.asarray(FULL_TURN[::18]), jnp.asarray(FULL_TURN[::18]) + 0.3])
        offsets = jnp.array([0.0, 0.4])
        operators = jax.vmap(lambda t, o: beam(t, 2.0, offset=o))(sets, offsets)
        ys = jax.random.normal(jax.random.key(0), (2, 2, *beam(sets[0], 2.0).codomain.shape))
        mapped = jax.vmap(lambda a, y: fbp(a, y, window=Hann()))(operators, ys[0])
        jitted = jax.jit(lambda a, y: fbp(a, y, window=Hann()).value)
        for i in range(2):
            single = beam(sets[i], 2.0, offset=offsets[i])
            alone = fbp(single, ys[0, i], window=Hann())
            assert alone.value.dtype == jnp.float64
            np.testing.assert_allclose(mapped.value[i], alone.value, atol=1e-10)
            np.testing.assert_allclose(jitted(single, ys[0, i]), alone.value)
        together = fbp(single, ys[0, 1] + 1j * ys[1, 1], window=Hann()).value
        np.testing.assert_allclose(together.real, alone.value, atol=1e-10)
        np.testing.assert_allclose(together.imag, fbp(single, ys[1, 1], window=Hann()).value, atol=1e-10)
        # It is linear in y, so its derivative is itself.
        tangent = jax.jvp(lambda y: fbp(single, y).value, (ys[0, 0],), (ys[0, 1],))[1]
        np.testing.assert_allclose(tangent, fbp(single, ys[0, 1]).value, atol=1e-10)
        transposed = jax.vjp(lambda y: fbp(single, y).value, ys[0, 0])[1](tangent)[0]
        assert float(jnp.vdot(transposed, ys[0, 1])) == pytest.approx(float(jnp.vdot(tangent, tangent)), rel=1e-10)
        # One dtype, that of the operator.
        small = ParallelBeam((8, 8, 1), jnp.asarray(HALF_TURN[::10], jnp.float32))
        assert fbp(small, np.ones(small.codomain.shape)).value.dtype == jnp.float32


@pytest.mark.parametrize("beam", [parallel, fan])
def test_lane_codes(beam):
    operator = beam(FULL_TURN[::20], 2.0)
    y = jnp.ones(operator.codomain.shape)
    ys = jnp.stack([y, y.at[0, 0].set(jnp.nan), y.at[3, 2].set(jnp.inf)])
    solution = jax.vmap(lambda y: fbp(operator, y))(ys)
    assert solution.lane(0).result == RESULTS.successful
    assert solution.stats == {}
    np.testing.assert_allclose(solution.lane(0).value, fbp(operator, y).value, rtol=1e-5, atol=1e-6)
    for lane in (1, 2):
        assert solution.lane(lane).result == RESULTS.nonfinite_measurement
        assert not jnp.any(solution.lane(lane).value)
    with pytest.raises(RuntimeError, match="problem.s. 1, 2.*nonfinite_measurement"):
        solution.check()
    lost = jax.jit(lambda o: fbp(beam(FULL_TURN[::20], 2.0, offset=o), y))(jnp.nan)
    assert lost.result == RESULTS.invalid_parameter
    assert not jnp.any(lost.value)
    huge = fbp(operator, jnp.full_like(y, 3e38))
    assert huge.result == RESULTS.nonfinite
    assert not jnp.any(huge.value)


def test_bad_input():
    operator = parallel(HALF_TURN[::20], 2.0)
    y = jnp.ones(operator.codomain.shape)
    with pytest.raises(ValueError, match="ParallelBeam.*FanBeam.*got Identity"):
        fbp(Identity((8, 8, 1)), jnp.ones((8, 8, 1)))
    with pytest.raises(ValueError, match="got Scaled.*bare tomograph"):
        fbp(2 * operator, y)
    with pytest.raises(ValueError, match="expects the measurement of shape"):
        fbp(operator, y[:-1])
    with pytest.raises(ValueError, match="RamLak"):
        fbp(operator, y, window="hann")


def htc2022(name):
    folders = [os.environ.get("JAXINV_DATA", ""), pathlib.Path(__file__).parents[2].parent / "shared" / "data"]
    for folder in filter(None, folders):
        measured = pathlib.Path(folder) / "ct" / "htc2022" / f"htc2022_{name}_full.mat"
        reference = measured.with_name(f"htc2022_{name}_full_recon_fbp.mat")
        if measured.is_file() and reference.is_file():
            record = scipy.io.loadmat(measured, squeeze_me=True, struct_as_record=False)["CtDataFull"]
            return record, scipy.io.loadmat(reference)["reconFullFbp"]
    return pytest.skip(
        f"the HTC2022 data are not in JAXINV_DATA or ../shared/data (ct/htc2022/htc2022_{name}_full.mat)"
    )


@pytest.mark.parametrize("name", ["ta", "solid_disc"])
def test_htc2022(name):
    record, reference = htc2022(name)
    parameters = record.parameters
    source, detector = parameters.distanceSourceOrigin, parameters.distanceSourceDetector
    pixel = parameters.pixelSizePost * source / detector
    # All angles, on the inner 160 x 160 pixels of the 512 x 512: filtered back-projection works pixel by pixel.
    operator = FanBeam(
        (160, 160, 1),
        np.deg2rad(parameters.angles[:720]) + np.pi / 2,
        560,
        parameters.pixelSizePost,
        source,
        detector - source,
        pixel,
    )
    image = np.asarray(fbp(operator, record.sinogram[:720, :, None]).check().value)[..., 0]
    # The reference has x along its first axis and y along its second, upwards, in units of one over the pixel size.
    expected = reference.T[::-1][176:336, 176:336] / pixel
    correlation = np.corrcoef(image.ravel(), expected.ravel())[0, 1]
    scale = np.vdot(image, expected) / np.vdot(expected, expected)
    # Measured: .99997 or more on all 512 x 512 pixels, and a scale within 1e-4, for both phantoms.
    assert correlation >= 0.995
    assert abs(scale - 1) < 0.02
