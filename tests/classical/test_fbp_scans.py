"""What a disc of value 1 reads by filtered back-projection, for complete scans of every kind, and incomplete ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import classical, operators

SIZE, PI = 48, np.pi
ROW, COLUMN = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
DISC = np.hypot(ROW, COLUMN) < 15
RINGS = [(np.hypot(ROW, COLUMN) >= r) & (np.hypot(ROW, COLUMN) < r + 3) for r in (0, 3, 6, 9)]


def scan(first, last, count):
    return np.linspace(first, last, count, endpoint=False)


TURN = scan(0, 2 * PI, 120)
# The angles, of one number, so that all scans share a program; what parallel and fan beams read: 1 if every line was
# measured, and otherwise the part that was.
SCANS = {
    "turn": (TURN, 1, 1),
    "half": (scan(0, PI, 120), 1, 1),
    "shuffled": (np.random.default_rng(0).permutation(TURN), 1, 1),
    "negative": (scan(-3, 2 * PI - 3, 120), 1, 1),
    "closed": (np.linspace(0, 2 * PI, 120), 1, 1),
    "over-scan": (scan(0, 3 * PI, 120), 1, 1),
    "frames": (np.repeat(scan(0, 2 * PI, 60), 2), 1, 1),
    "some frames": (np.r_[scan(0, 2 * PI, 90), scan(0, 2 * PI, 90)[:23], scan(0, 2 * PI, 90)[:7]], 1, 1),
    "short": (scan(0.3, 0.3 + PI + 0.8, 120), 1, 1),
    "long": (scan(-2, -2 + 1.6 * PI, 120), 1, 1),
    "wedge": (scan(0, PI / 2, 120), 1 / 2, 1 / 2),
    "two wedges": (np.r_[scan(0, PI / 3, 60), scan(PI / 2, 5 * PI / 6, 60)], 2 / 3, 2 / 3),
    "wedge and block": (np.delete(scan(0, 2 * PI / 3, 132), slice(44, 56)), 20 / 33, 20 / 33),
    "two wedges of a turn": (np.delete(scan(0, 2 * PI, 180), np.r_[0:30, 90:120]), 2 / 3, 2 / 3),
}


def scanner(kind, angles, bins=70, offset=0.0):
    angles = jnp.asarray(angles, jnp.float32)
    if kind == "parallel":
        return operators.ParallelBeam((SIZE, SIZE, 1), angles, bins, centre_offset=offset)
    # Magnified 1.5 times.
    return operators.FanBeam((SIZE, SIZE, 1), angles, bins, 1.5, 120.0, 60.0, centre_offset=1.5 * offset)


def read(operator, image=DISC):
    solution = classical.fbp(operator, operator(jnp.asarray(image[..., None], jnp.float32))).check()
    return np.asarray(solution.value)[..., 0]


@pytest.mark.parametrize("kind", ["parallel", pytest.param("fan", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SCANS)
def test_a_disc(name, kind):
    angles, *parts = SCANS[name]
    image, part = read(scanner(kind, angles)), parts[kind == "fan"]
    np.testing.assert_allclose([image[ring].mean() for ring in RINGS], part, atol=0.012)


@pytest.mark.parametrize("kind", ["parallel", "fan"])
@pytest.mark.parametrize("offset", [4.0, -9.0])
def test_a_detector_beside_the_axis(kind, offset):
    image = read(scanner(kind, TURN, 34, offset))
    np.testing.assert_allclose([image[ring].mean() for ring in RINGS], 1, atol=0.012)


def test_a_disc_off_the_axis_in_a_short_scan():
    distance = np.hypot(ROW - 5, COLUMN + 8)
    short, turn = (
        read(scanner("fan", angles), distance < 6) for angles in (scan(0.3, PI + 1.2, 120), scan(0, 2 * PI, 240))
    )
    for image in (short, turn):
        assert abs(image[distance < 4].mean() - 1) < 0.01
    assert short[distance > 9].std() < 1.5 * turn[distance > 9].std()


def test_traced_angles_have_the_same_weights():
    angles, *_ = SCANS["two wedges"]
    y = scanner("fan", angles)(jnp.asarray(DISC[..., None], jnp.float32))
    one = lambda angles: classical.fbp(scanner("fan", angles), y).value
    traced = jax.jit(one)(jnp.asarray(angles, jnp.float32))
    np.testing.assert_allclose(traced, one(angles), atol=1e-5)
