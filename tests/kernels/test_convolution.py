import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings, strategies as st
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from jaxinv._kernels import _convolution, _winograd, conv_general_dilated, conv_transpose

NHWC = ("NHWC", "HWIO", "NHWC")
# Sums of some tens of products of order 1, in float64.
close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)


def _normal(seed, shape, dtype=float):
    draw = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(draw.astype(jax.dtypes.canonicalize_dtype(dtype)))


def _both(options, function):
    """`function(convolution)` of ours and of plain lax, each jitted whole."""
    theirs = lambda x, w: lax.conv_general_dilated(x, w, **options)
    ours = lambda x, w: conv_general_dilated(x, w, **options)
    return jax.jit(function(ours)), jax.jit(function(theirs))


SHAPES = {"x": (2, 7, 5, 3), "w": (3, 2, 3, 4)}
CASES = {
    "same": {"window_strides": (1, 1), "padding": "SAME"},
    "strided": {"window_strides": (2, 3), "padding": "VALID"},
    "uneven and negative": {"window_strides": (2, 1), "padding": ((2, 0), (-1, 1))},
    "dilated": {"window_strides": (1, 1), "padding": ((1, 1), (0, 2)), "rhs_dilation": (2, 1)},
    "holes": {"window_strides": (1, 2), "padding": ((1, 2), (2, 1)), "lhs_dilation": (2, 3)},
}
cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


def _everything(x, w, dx, dw):
    """Value, jvp, vjp, and the derivative of the vjp."""

    def function(convolution):
        def call(x, w, dx, dw):
            value, tangent = jax.jvp(convolution, (x, w), (dx, dw))
            loss = lambda x, w: jnp.sum(jnp.sin(convolution(x, w)))
            gradient = jax.grad(loss, (0, 1))
            return value, tangent, *jax.jvp(gradient, (x, w), (dx, dw))

        return call

    return function


@cases
def test_derivatives(options):
    options = {**options, "dimension_numbers": NHWC}
    with jax.enable_x64(True):
        x, dx, w, dw = (_normal(i, SHAPES["xxww"[i]]) for i in range(4))
        ours, theirs = _both(options, _everything(x, w, dx, dw))
        jax.tree.map(close, ours(x, w, dx, dw), theirs(x, w, dx, dw))


@pytest.mark.parametrize(
    ("channels", "size"), [((30, 1), 2), ((3, 2), 2), ((4, 3), 1)], ids=["exchanged", "extended", "one sum"]
)
def test_forms_of_the_gradient_in_the_weights(channels, size):
    options = {"window_strides": (size, 1), "padding": "VALID", "dimension_numbers": NHWC}
    with jax.enable_x64(True):
        x, w = _normal(0, (1, 7, 6, channels[0])), _normal(1, (size, size, *channels))
        ours, theirs = _both(options, lambda f: lambda x, w: jax.vjp(f, x, w)[1](jnp.cos(f(x, w))))
        # Up to 42 pixels.
        jax.tree.map(functools.partial(close, atol=1e-11), ours(x, w), theirs(x, w))


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_winograd_is_a_convolution(data):
    draw = lambda *values: data.draw(st.sampled_from(values))
    x_shape, channels = (draw(1, 3), draw(3, 6, 7), draw(4, 5), draw(1, 3)), draw(1, 2)
    padding = ((draw(0, 1, 2), draw(0, 1)), (draw(0, 2), draw(0, 1, 3)))
    with jax.enable_x64(True):
        x, w = _normal(0, x_shape), _normal(1, (3, 3, x_shape[-1], channels))
        found = _winograd.convolve(x, w, padding, None, None)
        expected, pull = jax.vjp(lambda w: lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=NHWC), w)
        close(found, expected)
        cotangent = _normal(2, expected.shape)
        close(_winograd.kernel_gradient(x, cotangent, padding, None, None), pull(cotangent)[0])


def test_winograd_has_the_derivatives(monkeypatch):
    monkeypatch.setattr(_convolution, "_MANY_CHANNELS", 1)
    monkeypatch.setattr(_convolution, "_GRADIENT_CHANNELS", 1)
    monkeypatch.setattr(_convolution, "_MUCH_WORK", 1)
    options = {**CASES["same"], "dimension_numbers": NHWC}
    with jax.enable_x64(True):
        x, dx, w, dw = (_normal(i, (SHAPES["x"], SHAPES["x"], (3, 3, 3, 4), (3, 3, 3, 4))[i]) for i in range(4))
        ours, theirs = _both(options, _everything(x, w, dx, dw))
        jax.tree.map(close, ours(x, w, dx, dw), theirs(x, w, dx, dw))
        # None is left, of 3 x 3 taps or, for a gradient in the weights, of as many as an image has.
        kernels = lambda f: re.findall(
            r"stablehlo.convolution.*?tensor<(\dx\d)x\dx\dxf64>\)", f.lower(x, w, dx, dw).as_text()
        )
        assert not kernels(ours)
        assert len(set(kernels(theirs))) > 1


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_gradients_of_drawn_sizes(data):
    draw = lambda *values: data.draw(st.sampled_from(values))
    options = {
        "window_strides": (draw(1, 2, 3), draw(1, 2)),
        "padding": draw("SAME", "VALID", ((1, 0), (2, 3)), ((0, 2), (-1, 2))),
        "rhs_dilation": (draw(1, 2), draw(1, 2)),
        "dimension_numbers": draw(NHWC, None, ("HNWC", "IHWO", "CNHW")),
    }
    layout = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, options["dimension_numbers"])
    # 30 channels and 1: where the gradient in the weights exchanges or extends its operands.
    n, into, out = draw(1, 3), draw(1, 3, 30), draw(1, 2, 30)
    shapes = (n, into, draw(6, 7), draw(5, 8)), (out, into, draw(1, 3), draw(1, 2))
    x_shape, w_shape = (
        tuple(shape[spec.index(i)] for i in range(4)) for shape, spec in zip(shapes, layout[:2], strict=True)
    )
    with jax.enable_x64(True):
        x, w = _normal(0, x_shape), _normal(1, w_shape)
        ours, theirs = _both(options, lambda f: lambda x, w: jax.vjp(f, x, w)[1](jnp.cos(f(x, w))))
        # Up to 30 channels x 168 pixels.
        jax.tree.map(functools.partial(close, atol=1e-10), ours(x, w), theirs(x, w))


@pytest.mark.parametrize(
    ("axes", "nested"),
    [((0, None), False), ((None, 0), False), ((0, 0), False), ((0, None), True), ((0, 0), True)],
    ids=["image", "kernel", "both", "image, kernel", "both, kernel"],
)
def test_vmap(axes, nested):
    options = {"window_strides": (2, 1), "padding": ((1, 0), (1, 1)), "dimension_numbers": NHWC}
    arrays = SHAPES["x"], SHAPES["w"]
    with jax.enable_x64(True):
        x, w = (
            _normal(i, ((3,) if a == 0 else ()) + shape) for i, (a, shape) in enumerate(zip(axes, arrays, strict=True))
        )
        alone = lambda f: lambda x, w: jax.grad(lambda x, w: jnp.sum(jnp.sin(f(x, w))), (0, 1))(x, w)
        mapped = lambda f: jax.vmap(alone(f), axes)
        if nested:  # a second axis, on the kernel, and not the leading one
            w = jnp.stack([w, 2 * w], axis=-1)
            once = mapped
            mapped = lambda f: jax.vmap(once(f), (None, -1))
        ours, theirs = _both(options, mapped)
        jax.tree.map(close, ours(x, w), theirs(x, w))


def test_linear_transpose():
    options = {"window_strides": (2, 1), "padding": "SAME", "dimension_numbers": NHWC}
    with jax.enable_x64(True):
        x, w = _normal(0, SHAPES["x"]), _normal(1, SHAPES["w"])
        convolve = lambda x, w: conv_general_dilated(x, w, **options)
        cotangent = _normal(2, jax.eval_shape(convolve, x, w).shape)

        @jax.jit
        def transposed(x, w, cotangent):
            (in_x,) = jax.linear_transpose(lambda x: convolve(x, w), x)(cotangent)
            (in_w,) = jax.linear_transpose(lambda w: convolve(x, w), w)(cotangent)
            return convolve(x, w), in_x, in_w

        y, in_x, in_w = transposed(x, w, cotangent)
        close(np.vdot(in_x, x), np.vdot(cotangent, y))
        close(np.vdot(in_w, w), np.vdot(cotangent, y))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_low_precision(dtype):
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": NHWC}
    x, w = _normal(0, SHAPES["x"], dtype), _normal(1, SHAPES["w"], dtype)
    ours, theirs = _both(options, lambda f: lambda x, w: (f(x, w), *jax.vjp(f, x, w)[1](f(x, w))))
    for a, b in zip(ours(x, w), theirs(x, w), strict=True):
        assert a.dtype == b.dtype == dtype
        # 1e-2 is a rounding of bfloat16, which has 8 bits; entries are up to 100.
        tolerance = 2e-2 if dtype == jnp.bfloat16 else 1e-5
        np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=tolerance, atol=10 * tolerance)


def test_preferred_element_type_has_a_gradient():
    x, w = _normal(0, SHAPES["x"], jnp.bfloat16), _normal(1, SHAPES["w"], jnp.bfloat16)
    call = lambda x, w: conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=NHWC, precision="highest", preferred_element_type=jnp.float32
    )
    assert call(x, w).dtype == jnp.float32
    assert "HIGHEST" in jax.jit(call).lower(x, w).as_text()
    gx, gw = jax.grad(lambda x, w: jnp.sum(call(x, w) ** 2), (0, 1))(x, w)
    assert (gx.dtype, gw.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert (gx.shape, gw.shape) == (x.shape, w.shape)


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 2), (0, 1))])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_transposed(padding, stride):
    with jax.enable_x64(True):
        x, w = _normal(0, SHAPES["x"]), _normal(1, SHAPES["w"])
        for flip in (False, True):
            options = {"rhs_dilation": (1, 2), "transpose_kernel": flip}
            kernel = jnp.swapaxes(w, 2, 3) if flip else w
            ours, theirs = (f(x, kernel, (stride, 2), padding, **options) for f in (conv_transpose, lax.conv_transpose))
            close(ours, theirs)


def test_left_to_lax():
    x, w = _normal(0, (1, 5, 5, 4)), _normal(1, (3, 3, 2, 4))
    grouped = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": NHWC, "feature_group_count": 2}
    np.testing.assert_array_equal(conv_general_dilated(x, w, **grouped), lax.conv_general_dilated(x, w, **grouped))
    with pytest.raises((TypeError, ValueError), match="dtype"):
        conv_general_dilated(x[..., :2], w.astype(jnp.bfloat16), (1, 1), "SAME", dimension_numbers=NHWC)


@pytest.mark.parametrize("mapped", [False, True])
def test_gradients_in_a_loop_have_the_fast_layout(mapped):
    """What makes them fast: XLA brings no convolution of a loop into the layout that it has fast code for."""
    convolve = lambda f: lambda x, w: jnp.sum(jnp.sin(f(x, w, (2, 2), "SAME", dimension_numbers=NHWC)))

    def layouts(f):
        gradient = jax.grad(convolve(f), (0, 1))
        gradient = jax.vmap(gradient) if mapped else gradient
        body = lambda c, _: (jax.tree.map(lambda a, b: a - b, c, gradient(*c)), None)
        lead = (2,) if mapped else ()
        start = _normal(0, (*lead, *SHAPES["x"])), _normal(1, (*lead, *SHAPES["w"]))
        text = jax.jit(lambda c: lax.scan(body, c, None, length=2)[0]).lower(start).as_text()
        return set(re.findall(r"dim_numbers = (.*?), window", text))

    assert layouts(conv_general_dilated) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}
    assert len(layouts(lax.conv_general_dilated)) > 1  # the test can fail


def test_other_platforms_get_plain_lax():
    def loss(f):
        return lambda x, w: jnp.sum(jnp.sin(f(x, w, (2, 1), "SAME", dimension_numbers=NHWC)))

    x, w = _normal(0, SHAPES["x"]), _normal(1, SHAPES["w"])
    found = []
    for f in (conv_general_dilated, lax.conv_general_dilated):
        traced = jax.jit(jax.grad(loss(f), (0, 1))).trace(x, w)
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
        found.append(sorted(re.findall(r"dim_numbers = .*?, window = {.*?}", text)))
    assert found[0] == found[1] != []


def test_conv_layers_agree():
    make = lambda **options: nnx.Conv(3, 4, (3, 2), (2, 1), padding="CIRCULAR", rngs=nnx.Rngs(0), **options)
    x = _normal(0, (2, 3, 7, 5, 3))  # two batch axes
    ours, theirs = (jax.jit(lambda m, x: m(x))(m, x) for m in (make(conv_general_dilated=conv_general_dilated), make()))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_in_shard_map():
    """The weights are the same on all devices, and the carry of a scan."""
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    loss = lambda w, x: jnp.sum(jnp.sin(conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)))

    def descend(w, x):
        gradient = lambda w: lax.psum(jax.grad(loss)(lax.pcast(w, "batch", to="varying"), x), "batch")
        return lax.scan(lambda w, _: (w - 0.01 * gradient(w), None), w, None, length=3)[0]

    def plain(w, x):
        return lax.scan(lambda w, _: (w - 0.01 * jax.grad(loss)(w, x), None), w, None, length=3)[0]

    def convolve(w, x):  # the image is the carry
        step = lambda x, _: (conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC), None)
        return lax.scan(step, x, None, length=2)[0]

    with jax.enable_x64(True):
        x, w = _normal(0, (4, 5, 6, 3)), _normal(1, (3, 3, 3, 3))
        every, batch = PartitionSpec(), PartitionSpec("batch")
        shard = lambda f, out: jax.jit(
            jax.shard_map(f, mesh=mesh, in_specs=(every, batch), out_specs=out, check_vma=True)
        )
        close(shard(descend, every)(w, x), jax.jit(plain)(w, x), rtol=1e-10)
        close(shard(convolve, batch)(w, x), jax.jit(convolve)(w, x), rtol=1e-10)
        # Implicit: the weights are made varying, so their gradient is summed over the devices.
        close(
            shard(jax.grad(lambda w, x: lax.psum(loss(w, x), "batch")), every)(w, x), jax.grad(loss)(w, x), rtol=1e-10
        )
