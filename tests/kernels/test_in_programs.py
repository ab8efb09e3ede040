"""Every kernel inside larger compiled programs, with the settings that users compile with, against plain NumPy.

XLA compiles a kernel differently beside other code: it fuses, copies and vectorises across it. So each is applied twice
in one program, and before, in and after a loop, over the batch sizes at which a kernel changes its form.
"""

import contextlib
import functools

import jax
import numpy as np
import pytest
from compilation import production

from jaxinv import _kernels, operators
from jaxinv._kernels import _convolution, _pixel_driven

# Image and number of angles, precision, batches: all batches where the form of a kernel depends on them, else some.
SQUARE, ODD = ((16, 16), 12), ((5, 13), 7)
ALL = [
    *((*SQUARE, "float32", batch) for batch in (1, 3, 5, 8, 33, 63, 64, 70)),
    *((*SQUARE, "float64", batch) for batch in (3, 63)),
    *((*ODD, "float32", batch) for batch in (1, 8, 64)),
    (*ODD, "float64", 5),
    ((20, 20), 1, "float32", 8),
]
SOME = [(*SQUARE, "float32", 1), (*SQUARE, "float32", 8), (*SQUARE, "float64", 33), (*ODD, "float32", 70)]
PROJECTORS = [
    (name, kind, *setting)
    for name in ("forward", "adjoint", "smear")
    for kind in ("parallel", "fan")
    for setting in (ALL if (name, kind) in (("forward", "parallel"), ("adjoint", "parallel")) else SOME)
]
# Of each map one image and many, and an odd shape; the others with the slow tests.
FAST = {(*SQUARE, "float32", 1), (*SQUARE, "float32", 64), (*ODD, "float32", 8), (*ODD, "float32", 70)}
CASES = [pytest.param(*row, marks=[] if row[2:] in FAST else [pytest.mark.slow]) for row in PROJECTORS]
SPACING, SOURCE, DETECTOR = 1.1, 60.0, 40.0
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def precision(dtype):
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


def angles_of(count):
    # With odd multiples of pi / 4, at which rays pass exactly through pixels.
    return np.pi / 4 + np.linspace(0, np.pi, count, endpoint=False)


def scanner(kind, shape, count, dtype):
    angles = np.asarray(angles_of(count), dtype)
    if kind == "parallel":
        return operators.ParallelBeam((*shape, 1), angles)
    return operators.FanBeam((*shape, 1), angles, 2 * shape[1], SPACING, SOURCE, DETECTOR)


def geometry(kind, shape, count, bins):
    """For all views: the source or a point of each ray, its direction, and the normalised view of pixel centres."""
    h, w = shape
    t = angles_of(count)[:, None]
    spacing = 1.0 if kind == "parallel" else SPACING
    s = (np.arange(bins)[None, :] - (bins - 1) / 2) * spacing
    across, along = (np.cos(t), np.sin(t)), (-np.sin(t), np.cos(t))
    if kind == "parallel":
        point = across[0] * s, across[1] * s
        direction = along[0] + 0 * s, along[1] + 0 * s
    else:
        point = -along[0] * SOURCE + 0 * s, -along[1] * SOURCE + 0 * s
        slope = s / (SOURCE + DETECTOR)
        direction = along[0] + across[0] * slope, along[1] + across[1] * slope
    x, y = np.arange(w) - (w - 1) / 2, (h - 1) / 2 - np.arange(h)
    inner = lambda axis: axis[0][..., None] * x[None, None, :] + axis[1][..., None] * y[None, :, None]
    depth = np.ones((count, 1, 1)) if kind == "parallel" else 1 + inner(along) / SOURCE
    scale = 1.0 if kind == "parallel" else (SOURCE + DETECTOR) / SOURCE
    return point, direction, inner(across) * scale / depth / spacing + (bins - 1) / 2, depth


@functools.cache
def joseph(kind, shape, count, bins):
    """The matrix of Joseph's line integrals: `(views * bins, h * w)`."""
    h, w = shape
    (px, py), (dx, dy), _, _ = geometry(kind, shape, count, bins)
    x, y = np.arange(w) - (w - 1) / 2, (h - 1) / 2 - np.arange(h)
    steep = np.abs(dy) >= (1 - 1e-4) * np.abs(dx)
    length = np.hypot(dx, dy)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = px[..., None] + (y - py[..., None]) * (dx / dy)[..., None]  # (views, bins, h)
        rows = np.maximum(0, 1 - np.abs(crossing[..., None] - x)) * (length / np.abs(dy))[..., None, None]
        crossing = py[..., None] + (x - px[..., None]) * (dy / dx)[..., None]
        columns = (
            np.maximum(0, 1 - np.abs(crossing[..., None, :] - y[:, None])) * (length / np.abs(dx))[..., None, None]
        )
    matrix = np.where(steep[..., None, None], rows, columns)
    return matrix.reshape(count * bins, h * w)


@functools.cache
def smearing(kind, shape, count, bins):
    """The matrix that smears views back: `(h * w, views * bins)`."""
    _, _, place, depth = geometry(kind, shape, count, bins)
    weight = np.maximum(0, 1 - np.abs(place[..., None] - np.arange(bins))) / (depth**2)[..., None]
    return np.moveaxis(weight, 0, 2).reshape(shape[0] * shape[1], count * bins)


def maps(name, operator):
    """The map under test and a map back, on batches, as functions of the operator."""
    if name == "forward":
        return (lambda A, x: jax.vmap(A)(x)), (lambda A, y: jax.vmap(A.adjoint)(y))
    if name == "adjoint":
        return (lambda A, y: jax.vmap(A.adjoint)(y)), (lambda A, x: jax.vmap(A)(x))
    smear = lambda A, y: _pixel_driven.back_project_views(A.rays, y, *A.placement(y.dtype))
    return (lambda A, y: jax.vmap(lambda one: smear(A, one))(y)), (lambda A, x: jax.vmap(A)(x))


def in_a_loop(there, back, operator, value):
    """Twice there and back, scaled to stay of the size it is, and there again after the loop."""
    body = lambda i, v: 0.01 * back(operator, there(operator, v))
    return jax.lax.fori_loop(0, 2, body, value)


def assert_close(value, expected, tolerance):
    value = np.asarray(value, float).reshape(expected.shape)
    assert np.max(np.abs(value - expected)) <= tolerance * np.max(np.abs(expected))


@pytest.mark.parametrize(("name", "kind", "shape", "count", "dtype", "batch"), CASES)
def test_projectors(name, kind, shape, count, dtype, batch):
    with precision(dtype):
        A = scanner(kind, shape, count, dtype)
        bins = A.codomain.shape[1]
        matrix = joseph(kind, shape, count, bins)
        there = {"forward": matrix, "adjoint": matrix.T, "smear": None}[name]
        there = smearing(kind, shape, count, bins) if name == "smear" else there
        back = matrix.T if name == "forward" else matrix
        inside = A.domain.shape if name == "forward" else A.codomain.shape
        one, two = np.random.default_rng(batch).normal(size=(2, batch, *inside))
        f, g = maps(name, A)

        @production
        def program(A, x, z):
            last = in_a_loop(f, g, A, x)
            return f(A, x), f(A, z), last, f(A, last)

        apply = lambda m, v: v.reshape(batch, -1) @ m.T
        step = lambda v: 0.01 * apply(back, apply(there, v))
        after = step(step(one))
        cast = lambda v: np.asarray(v, dtype)
        expected = apply(there, one), apply(there, two), after, apply(there, after)
        for value, right in zip(program(A, cast(one), cast(two)), expected, strict=True):
            assert_close(value, right, TOLERANCE[dtype])


# Channels, size of the kernel, stride, whether it is transposed. The first two are products of matrices, the last two
# Winograd's, of the value or of the gradient in the weights only.
CONVOLUTIONS = {
    "taps": ((3, 4), 3, 1, False),
    "strided": ((4, 3), 4, 2, False),
    "transposed": ((4, 3), 4, 2, True),
    "one pixel": ((4, 4), 1, 1, False),
    "winograd gradient": ((32, 32), 3, 1, False),
    "winograd": ((48, 48), 3, 1, False),
}
BATCHES = {"taps": (1, 3, 8, 33, 64)}
# The others with the slow tests.
FAST_CONVOLUTIONS = {("taps", 1), ("taps", 64), *((name, 8) for name in CONVOLUTIONS if name != "taps")}


def _value_and_gradients(convolve, x, w):
    """The value, and the gradients of half the sum of its squares."""
    y, pull = jax.vjp(convolve, x, w)
    return y, *pull(y)


def _descend(convolve, x, w, rate):
    first = _value_and_gradients(convolve, x, w)

    def body(i, carry):
        x, w = carry
        _, dx, dw = _value_and_gradients(convolve, x, w)
        return x - 0.1 * dx, w - rate * dw

    last = jax.lax.fori_loop(0, 2, body, (x, w))
    return *first, *last, *_value_and_gradients(convolve, *last)


def _convolve(module, name):
    _, _, stride, transposed = CONVOLUTIONS[name]
    function = module.conv_transpose if transposed else module.conv_general_dilated
    options = {"padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return lambda x, w: function(x, w, (stride,) * 2, **options)


@functools.cache
def _reference(name):
    """One program for all batches: images of zeros fill the batch, which have no part in the gradients."""
    program = jax.jit(functools.partial(_descend, _convolve(jax.lax, name)))
    full = max(BATCHES.get(name, (8,)))

    def run(x, w, rate):
        filled = np.zeros((full, *x.shape[1:]))
        filled[: len(x)] = x
        found = program(filled, w, rate)
        return [value[: len(x)] if len(value) == full else value for value in map(np.asarray, found)]

    return run


@pytest.mark.parametrize(
    ("name", "batch", "dtype"),
    [
        *(
            pytest.param(name, batch, "float32", marks=[] if (name, batch) in FAST_CONVOLUTIONS else [pytest.mark.slow])
            for name in CONVOLUTIONS
            for batch in BATCHES.get(name, (1, 8))
        ),
        *(pytest.param(name, 3, "float64", marks=pytest.mark.slow) for name in ("taps", "transposed")),
    ],
)
def test_convolutions(name, batch, dtype, monkeypatch):
    # Winograd's form of the value is for larger images than a test needs.
    monkeypatch.setattr(_convolution, "_MUCH_WORK", 1)
    (into, out), size, _, _ = CONVOLUTIONS[name]
    random = np.random.default_rng(batch)
    x = random.normal(size=(batch, 7, 10, into))
    w = random.normal(size=(size, size, into, out)) / (size * into**0.5)
    rate = 0.01 / batch
    with precision("float64"):
        expected = _reference(name)(x, w, rate)
    with precision(dtype):
        program = production(functools.partial(_descend, _convolve(_kernels, name)))
        found = program(*(np.asarray(v, dtype) for v in (x, w, rate)))
    for value, right in zip(found, expected, strict=True):
        # Winograd's form loses a digit.
        assert_close(value, right, 10 * TOLERANCE[dtype] if "winograd" in name else TOLERANCE[dtype])
