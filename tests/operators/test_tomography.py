import math
import warnings

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv._kernels import _joseph, _joseph_reference, _linear_map
from jaxinv.operators._tomography import FanBeam, ParallelBeam

# Ties of rows and columns, rays along rows and columns, and angles between.
ANGLES = np.concatenate([np.arange(9) * np.pi / 4, [0.1, 1.3, 2.0, 3.9, 5.5]])


def parallel(shape, angles=ANGLES, bins=None, spacing=1.0, pixel=1.0, offset=0.0):
    return ParallelBeam(shape, angles, bins, spacing, pixel, offset)


def fan(shape, angles=ANGLES, bins=15, spacing=1.0, pixel=1.0, offset=0.0, source=1.2, detector=1.5):
    """Distances in units of the radius of the image padded by a pixel; at 1.2 the source all but touches the image."""
    radius = pixel * math.hypot(shape[0] + 2, shape[1] + 2) / 2
    return FanBeam(shape, angles, bins, spacing, source * radius, detector * radius, pixel, offset)


def matrix_of(operator):
    """The definition: the weight of each ray at each pixel, (angles * bins, h * w), in float64 numpy."""
    h, w, _ = operator.domain.shape
    pixel, t = operator.pixel_size, np.asarray(operator.angles, float)[:, None]
    bins = operator.codomain.shape[1]
    s = (np.arange(bins) - (bins - 1) / 2) * operator.detector_spacing + float(operator.centre_offset)
    if isinstance(operator, ParallelBeam):
        point = np.stack(np.broadcast_arrays(s * np.cos(t), s * np.sin(t)), -1)
        direction = np.stack(np.broadcast_arrays(-np.sin(t) + 0 * s, np.cos(t) + 0 * s), -1)
    else:
        point = np.stack([np.sin(t) + 0 * s, -np.cos(t) + 0 * s], -1) * operator.source_origin
        end = np.stack([s * np.cos(t), s * np.sin(t)], -1)
        end = end + operator.origin_detector * np.stack([-np.sin(t) + 0 * s, np.cos(t) + 0 * s], -1)
        direction = end - point
    point, direction = point.reshape(-1, 2, 1, 1), direction.reshape(-1, 2, 1, 1)
    x, y = np.meshgrid((np.arange(w) - (w - 1) / 2) * pixel, ((h - 1) / 2 - np.arange(h)) * pixel)
    (px, py), (dx, dy) = point.swapaxes(0, 1), direction.swapaxes(0, 1)
    steep = np.abs(dy) >= np.abs(dx)
    along, across = np.where(steep, dy, dx), np.where(steep, dx, dy)
    crossing = np.where(steep, px + (y - py) / along * dx, py + (x - px) / along * dy)
    distance = np.abs(crossing - np.where(steep, x, y))
    weight = pixel * np.maximum(0, 1 - distance / pixel) * np.hypot(1, across / along)
    return weight.reshape(len(weight), -1)


# Compiled whole: operation by operation they take seconds to compile.
forward_of = jax.jit(lambda operator, x: operator(x))
adjoint_of = jax.jit(lambda operator, y: operator.adjoint(y))
mapped_both = jax.jit(lambda operator, xs, ys: (jax.vmap(operator)(xs), jax.vmap(operator.adjoint)(ys)))

CASES = {
    "parallel": lambda: parallel((6, 9, 1)),
    "parallel, fine and few": lambda: parallel((8, 5, 1), bins=7, spacing=0.25, offset=0.3),
    "parallel, coarse and many": lambda: parallel((5, 5, 1), bins=12, spacing=1.7, pixel=0.6),
    "fan": lambda: fan((6, 9, 1)),
    "fan, fine and off centre": lambda: fan((8, 5, 1), spacing=0.5, pixel=2.0, offset=-0.4),
    "fan, far": lambda: fan((5, 5, 1), spacing=1.7, source=20.0, detector=10.0),
}


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[pytest.mark.slow] * (c not in ("parallel", "fan, fine and off centre"))) for c in CASES],
)
def test_equals_definition(case):
    with jax.enable_x64(True):
        operator = CASES[case]()
        expected = matrix_of(operator)
        h, w, _ = operator.domain.shape
        images = np.eye(h * w).reshape(-1, h, w, 1)
        views = np.eye(len(expected)).reshape(-1, *operator.codomain.shape)
        forward, adjoint = mapped_both(operator, images, views)
        forward, adjoint = np.reshape(forward, (h * w, -1)).T, np.reshape(adjoint, (len(expected), -1))
    assert expected.max() > 0.5 * operator.pixel_size
    # Both are exact up to rounding of the crossing points, of size 10 here.
    np.testing.assert_allclose(forward, expected, atol=1e-13)
    np.testing.assert_allclose(adjoint, expected, atol=1e-13)


def dot_error(operator, seed=0):
    rng = np.random.default_rng(seed)

    def draw(struct):
        complex_dtype = np.result_type(struct.dtype, np.complex64)
        return (rng.normal(size=struct.shape) + 1j * rng.normal(size=struct.shape)).astype(complex_dtype)

    x, y = draw(operator.domain), draw(operator.codomain)
    ax, ay = jax.jit(lambda a, x, y: (a(x), a.adjoint(y)))(operator, x, y)
    left = np.vdot(y.astype(complex), np.asarray(ax, complex))
    right = np.vdot(np.asarray(ay, complex), x.astype(complex))
    return abs(left - right) / max(np.linalg.norm(ax) * np.linalg.norm(y) / math.sqrt(y.size), 1e-30)


# |<Ax, y>| is about |Ax| |y| / sqrt(n) for random y, so `dot_error` is relative to the size that the product has.
@hypothesis.settings(max_examples=3, deadline=None, derandomize=True)
@hypothesis.given(
    beam=st.sampled_from([parallel, fan]),
    shape=st.tuples(st.integers(1, 18), st.integers(1, 18), st.integers(1, 2)),
    bins=st.integers(1, 40),
    spacing=st.sampled_from([0.25, 0.5, 1.0, 1.7]),
    offset=st.sampled_from([0.0, 0.37]),
)
@pytest.mark.slow
@pytest.mark.parametrize(("x64", "tolerance"), [(False, 1e-5), (True, 1e-12)])
def test_dot(x64, tolerance, beam, shape, bins, spacing, offset):
    with jax.enable_x64(x64):
        operator = beam(shape, bins=bins, spacing=spacing, offset=offset)
        assert operator.domain.dtype == (jnp.float64 if x64 else jnp.float32)
        assert dot_error(operator) <= tolerance


@pytest.mark.parametrize("beam", [pytest.param(parallel, marks=pytest.mark.slow), fan])
def test_dot_large_float32(beam):
    # Positions of some hundred pixels, where float32 resolves 1e-5 of a pixel.
    assert dot_error(beam((250, 187, 1), ANGLES, 300, 0.9)) <= 1e-5


def test_row_of_ten():
    operator = ParallelBeam((10, 10, 1), [math.pi / 2], 10, 0.5, 0.5)
    image = jnp.zeros((10, 10, 1)).at[2].set(1.0)
    # Row 2 from the top has y = 2.5 pixels = 1.25, the bin (1.25 / .5) + 4.5 = 7.
    np.testing.assert_allclose(operator(image)[0, :, 0], 5.0 * (np.arange(10) == 7), atol=1e-5)


def test_orientation():
    corner = jnp.zeros((9, 9, 1)).at[0, 8].set(1.0)  # at x = 4, y = 4
    views = ParallelBeam((9, 9, 1), [0.0, math.pi / 2, math.pi, math.pi / 4], 21)(corner)
    assert jnp.argmax(views[:3, :, 0], axis=1).tolist() == [14, 14, 6]
    assert int(jnp.argmax(views[3])) == round(10 + 4 * math.sqrt(2))
    # Source at y = -20, axis x: the depth is 24. Source at x = 20, axis y: 16. Source at y = 20, axis -x: 16.
    views = np.asarray(FanBeam((9, 9, 1), [0.0, math.pi / 2, math.pi], 41, 1.0, 20.0, 20.0)(corner))
    expected = [20 + 4 * 40 / 24, 20 + 4 * 40 / 16, 20 - 4 * 40 / 16]
    centre = np.sum(views[..., 0] * np.arange(41), axis=1) / np.sum(views[..., 0], axis=1)
    np.testing.assert_allclose(centre, expected, atol=0.2)


def test_offset_moves_bins():
    moved = parallel((7, 9, 1), bins=11, spacing=0.8, offset=1.6)
    wide = parallel((7, 9, 1), bins=15, spacing=0.8)
    x = jax.random.normal(jax.random.key(0), (7, 9, 1))
    np.testing.assert_allclose(forward_of(moved, x), forward_of(wide, x)[:, 4:], atol=1e-5)


@pytest.mark.parametrize("shape", [(28, 28, 1), (7, 20, 1)])
@pytest.mark.parametrize("spacing", [0.5, 1.0, 1.7])
def test_default_detector_sees_everything(shape, spacing):
    operator = ParallelBeam(shape, [0.0], detector_spacing=spacing, pixel_size=1.5)
    bins = operator.codomain.shape[1]
    assert (bins - 1) * spacing < 1.5 * math.hypot(*shape[:2]) <= bins * spacing
    one_view = jax.jit(jax.vmap(lambda t: ParallelBeam(shape, t, None, spacing, 1.5).adjoint(jnp.ones((1, bins, 1)))))
    assert bool(jnp.all(one_view(jnp.asarray(ANGLES[:, None])) > 0))


@pytest.mark.parametrize("count", [18, 20])
def test_compiles_at_any_number_of_angles(count):
    # With these LLVM did not finish, before the slope of the rays was computed otherwise.
    operator = ParallelBeam((5, 5, 1), np.linspace(0, np.pi, count, endpoint=False), 5)
    jax.jit(lambda operator, x: operator(x)).lower(operator, jnp.ones((5, 5, 1))).compile()


@pytest.mark.parametrize("beam", [parallel, pytest.param(fan, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", [pytest.param((11, 6), marks=pytest.mark.slow), (5, 13)])
def test_forms_agree(beam, shape, monkeypatch):
    """The forms for processors and for accelerators, in chunks with a remainder, and the one that is differentiated."""
    with jax.enable_x64(True):
        operator = beam((*shape, 1), offset=0.3)
        fast = _joseph._Joseph(operator.rays, len(ANGLES))
        placement = operator.placement(jnp.float64)
        x = jax.random.normal(jax.random.key(0), (*shape, 3))
        y = jax.random.normal(jax.random.key(1), (*operator.codomain.shape[:2], 3))
        forward = jax.jit(lambda: fast.reference(x, *placement))()
        adjoint = jax.jit(lambda: fast.reference_transpose(y, *placement))()
        # Terms at once: one, some with a remainder, all.
        for wide, size in ((False, None), (True, 1), (True, 5 * 11 * 15 * 14 * 3), (True, 2**27)):
            if wide:
                monkeypatch.setattr(_linear_map, "_WIDE", size)
            both = jax.jit(lambda w=wide: (fast.forward(x, *placement, wide=w), fast.transpose(y, *placement, wide=w)))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), both(), (forward, adjoint))
        monkeypatch.setattr(_joseph_reference, "_CHUNK", 600)
        np.testing.assert_allclose(jax.jit(lambda: fast.reference(x, *placement))(), forward, atol=1e-12)


@pytest.mark.parametrize("beam", [parallel, pytest.param(fan, marks=pytest.mark.slow)])
def test_transforms(beam):
    with jax.enable_x64(True):
        angles, shape = ANGLES[9:], (7, 9, 2)
        operator = beam(shape, angles)
        keys = jax.random.split(jax.random.key(0), 2)
        xs = jax.random.normal(keys[0], (3, *shape))
        y = jax.random.normal(keys[1], operator.codomain.shape)
        single = jnp.stack([forward_of(operator, x) for x in xs])
        adjoint = adjoint_of(operator, y)

        @jax.jit
        def transformed(operator, xs, y):
            return {
                "vmap": (jax.vmap(operator)(xs), single),
                "jvp": (jax.jvp(operator, (xs[0],), (xs[1],))[1], single[1]),
                "vjp": (jax.vjp(operator, xs[0])[1](y)[0], adjoint),
                "transpose": (jax.linear_transpose(operator, xs[0])(y)[0], adjoint),
                "transpose of the adjoint": (jax.linear_transpose(operator.adjoint, y)(xs[0])[0], single[0]),
                "normal": (jax.grad(lambda x: jnp.sum(operator(x) ** 2) / 2)(xs[0]), operator.normal(xs[0])),
            }

        for name, (got, expected) in transformed(operator, xs, y).items():
            np.testing.assert_allclose(got, expected, atol=1e-12, err_msg=name)

        # Mapped over its own parameters, which gives an operator with stacked leaves.
        many, offsets = jnp.stack([jnp.asarray(angles) + turn for turn in (0.0, 0.3, 1.1)]), jnp.array([0.0, 0.4, -2.0])
        mapped = jax.vmap(lambda t, o: beam(shape, t, offset=o))(many, offsets)
        forward, adjoint = jax.jit(
            lambda mapped, xs, y: (jax.vmap(forward_of)(mapped, xs), jax.vmap(adjoint_of, (0, None))(mapped, y))
        )(mapped, xs, y)
        for i in range(3):
            alone = beam(shape, many[i], offset=offsets[i])
            np.testing.assert_allclose(forward[i], forward_of(alone, xs[i]), atol=1e-12)
            np.testing.assert_allclose(adjoint[i], adjoint_of(alone, y), atol=1e-12)


@pytest.mark.parametrize("beam", [parallel, fan])
def test_gradient_in_geometry(beam):
    with jax.enable_x64(True):
        angles, shape = jnp.asarray(ANGLES[9:]), (7, 9, 1)
        x = jax.random.normal(jax.random.key(0), shape)
        y = jax.random.normal(jax.random.key(1), beam(shape, angles).codomain.shape)

        @jax.jit
        def loss(angles, offset):
            return jnp.vdot(beam(shape, angles, offset=offset)(x), y)

        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
        gradients = gradient(angles, 0.1)
        # The projection is piecewise smooth; a step of 1e-6 crosses no kink here, and rounding leaves about 1e-9.
        step = 1e-6
        for i in range(len(angles)):
            difference = (loss(angles.at[i].add(step), 0.1) - loss(angles.at[i].add(-step), 0.1)) / (2 * step)
            assert float(gradients[0][i]) == pytest.approx(float(difference), rel=1e-6, abs=1e-6)
        difference = (loss(angles, 0.1 + step) - loss(angles, 0.1 - step)) / (2 * step)
        assert float(gradients[1]) == pytest.approx(float(difference), rel=1e-6, abs=1e-6)
        through_adjoint = jax.grad(lambda t, o: jnp.vdot(beam(shape, t, offset=o).adjoint(y), x), argnums=(0, 1))
        adjoint = jax.jit(through_adjoint)(angles, 0.1)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8), adjoint, gradients)
        # Along rows and columns one component of the ray is exactly zero.
        for along_axes in (ANGLES[:5], ANGLES[4:9]):
            assert bool(jnp.all(jnp.isfinite(gradient(jnp.asarray(along_axes), 0.1)[0])))


def test_dtypes():
    with jax.enable_x64(True):
        angles = jnp.asarray(ANGLES, jnp.float32)
        operator = ParallelBeam((5, 6, 1), angles)
        assert operator.domain.dtype == operator.codomain.dtype == jnp.float32
        assert jax.eval_shape(operator, jnp.ones((5, 6, 1), jnp.float32)).dtype == jnp.float32
        assert jax.eval_shape(operator, jnp.ones((5, 6, 1), jnp.complex64)).dtype == jnp.complex64
        assert jax.eval_shape(operator, np.ones((5, 6, 1))).dtype == jnp.float64
        assert ParallelBeam((5, 6, 1), [0, 1]).domain.dtype == jnp.float64
        # Float32 angles on a float64 image are still projected, and projected back, in float64.
        fan_operator = FanBeam((5, 6, 1), angles, 9, 1.0, 20.0, 10.0)
        x, y = np.random.default_rng(0).normal(size=54 + 126).reshape(-1)[:30].reshape(5, 6, 1), np.ones((14, 9, 1))
        left, right = jnp.vdot(forward_of(fan_operator, x), y), jnp.vdot(x, adjoint_of(fan_operator, y))
        assert float(left) == pytest.approx(float(right), rel=1e-12)
    assert ParallelBeam((5, 6, 1), np.asarray(ANGLES)).domain.dtype == jnp.float32


GOOD = {"shape": (8, 8, 1), "angles": [0.0, 1.0], "num_detectors": 8, "detector_spacing": 1.0}
DISTANCES = {"source_origin": 20.0, "origin_detector": 10.0}
BAD = [
    ({"angles": []}, "at least one angle"),
    ({"angles": 0.5}, "vector"),
    ({"angles": [[0.5]]}, "jax.vmap"),
    ({"angles": [0.5, math.nan]}, "not finite"),
    ({"angles": [1j]}, "real"),
    ({"centre_offset": [0.0, 1.0]}, "one number"),
    ({"centre_offset": math.inf}, "not finite"),
    ({"shape": (8, 8)}, "channel"),
    ({"num_detectors": 0}, "positive integer"),
    ({"num_detectors": 2.5}, "positive integer"),
    ({"detector_spacing": 0.0}, "detector_spacing.*positive"),
    ({"detector_spacing": math.nan}, "detector_spacing.*positive"),
    ({"detector_spacing": [1.0, 2.0]}, "one number"),
    ({"pixel_size": -1.0}, "pixel_size.*positive"),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_geometry(bad, message):
    with pytest.raises(ValueError, match=message):
        ParallelBeam(**{**GOOD, **bad})
    with pytest.raises(ValueError, match=message):
        FanBeam(**{**GOOD, **DISTANCES, **bad})


@pytest.mark.parametrize("name", ["source_origin", "origin_detector"])
def test_bad_distances(name):
    for distance, message in ((0.0, "positive"), (5.0, "inside the image")):
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            FanBeam(**{**GOOD, **DISTANCES, name: distance})


@pytest.mark.parametrize("name", ["num_detectors", "detector_spacing", "pixel_size", *DISTANCES])
def test_traced_geometry(name):
    good = {**GOOD, **DISTANCES, "pixel_size": 1.0}
    with pytest.raises(ValueError, match=f"`{name}` is part of the static geometry"):
        jax.jit(lambda value: FanBeam(**{**good, name: value})(jnp.ones((8, 8, 1))))(good[name])


def test_degrees():
    with pytest.warns(UserWarning, match="jnp.deg2rad"):
        ParallelBeam((8, 8, 1), np.arange(180.0))
    with pytest.warns(UserWarning, match="jnp.deg2rad"):
        FanBeam(**{**GOOD, **DISTANCES, "angles": -np.arange(360.0)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ParallelBeam((8, 8, 1), np.linspace(0, 4 * np.pi, 100))
        jax.jit(lambda t: ParallelBeam((8, 8, 1), t)(jnp.ones((8, 8, 1))))(np.arange(180.0))


@pytest.mark.parametrize("beam", [parallel, fan])
def test_bad_state(beam):
    operator = beam((8, 8, 1))
    for bad in (jnp.ones((8, 8)), jnp.ones((2, 8, 8, 1)), jnp.ones((8, 8, 1), int)):
        with pytest.raises(ValueError, match="expects the image"):
            operator(bad)
    with pytest.raises(ValueError, match="expects the measurement"):
        operator.adjoint(jnp.ones((3, 3, 1)))
