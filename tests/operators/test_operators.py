"""Closed forms and other libraries, operator by operator."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from compilation import compiled

from jaxinv import operators

sizes = st.integers(1, 8)
few = hypothesis.settings(max_examples=6, deadline=None, derandomize=True)
apply = compiled(lambda operator, x: operator(x))
matrix_of = compiled(lambda operator: operators.materialise(operator).matrix)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def blurred(kernel, x, boundary):
    """The definition, by scipy: a true convolution with origin (k - 1) // 2."""
    if boundary == "zero":
        full = scipy.signal.convolve2d(x, kernel, "full")
        top, left = ((k - 1) // 2 for k in kernel.shape)
        return full[top : top + x.shape[0], left : left + x.shape[1]]
    # scipy's origin is k // 2, moved by `origin`; for even sizes it is one more than ours.
    origin = [-1 if k % 2 == 0 else 0 for k in kernel.shape]
    mode = {"circular": "wrap", "reflect": "mirror"}[boundary]
    return scipy.ndimage.convolve(x, kernel, mode=mode, origin=origin)


@few
@hypothesis.given(
    image=st.tuples(sizes, sizes),
    kernel=st.tuples(sizes, sizes),
    boundary=st.sampled_from(["zero", "circular", "reflect"]),
)
def test_convolution_agrees_with_scipy(image, kernel, boundary):
    kernel = tuple(min(k, n) for k, n in zip(kernel, image, strict=True))
    with jax.enable_x64(True):
        weights, x = normal(*kernel), normal(*image, 2, seed=1)
        y = apply(operators.Convolution(weights, (*image, 2), boundary), x)
        expected = np.stack([blurred(weights, x[..., c], boundary) for c in range(2)], -1)
        np.testing.assert_allclose(y, expected, atol=1e-12)


def test_convolution_per_channel_is_one_channel_at_a_time():
    kernel, x = normal(3, 2, 2), normal(6, 5, 2, seed=1)
    y = apply(operators.Convolution(kernel, x.shape), x)
    for c in range(2):
        expected = apply(operators.Convolution(kernel[..., c], (6, 5, 1)), x[..., c : c + 1])
        np.testing.assert_allclose(y[..., c : c + 1], expected, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_convolution_of_a_pulse_is_the_kernel_with_its_origin_there(size):
    kernel = normal(size, size)
    pulse = np.zeros((9, 9, 1), np.float32)
    pulse[4, 4] = 1
    start = 4 - (size - 1) // 2
    y = np.asarray(apply(operators.Convolution(kernel, pulse.shape), pulse))
    y = y[start : start + size, start : start + size, 0]
    np.testing.assert_allclose(y, kernel, atol=1e-6)


@few
@hypothesis.given(blocks=st.tuples(sizes, sizes), factor=st.integers(1, 4))
def test_downsample_is_the_block_mean_which_is_a_box_kernel(blocks, factor):
    h, w = (n * factor for n in blocks)
    x = normal(h, w, 2).astype(np.float32)
    expected = x.reshape(blocks[0], factor, blocks[1], factor, 2).mean((1, 3))
    np.testing.assert_allclose(apply(operators.Downsample(x.shape, factor), x), expected, atol=1e-6)
    box = np.full((factor, factor), 1 / factor**2, np.float32)
    np.testing.assert_allclose(apply(operators.Downsample(x.shape, factor, box), x), expected, atol=1e-6)


def test_fourier_is_numpys_centred_and_orthonormal():
    for h, w in ((6, 7), (5, 4)):
        x = normal(h, w, 2) + 1j * normal(h, w, 2, seed=1)
        mask = np.random.default_rng(2).integers(0, 2, size=x.shape)
        axes = (0, 1)
        expected = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)
        np.testing.assert_allclose(apply(operators.MaskedFourier(mask), x.astype("c8")), mask * expected, atol=1e-5)
        constant = apply(operators.MaskedFourier(np.ones((h, w, 1))), np.ones((h, w, 1), "c8"))
        zero_frequency = np.zeros((h, w, 1))
        zero_frequency[h // 2, w // 2] = np.sqrt(h * w)
        np.testing.assert_allclose(constant, zero_frequency, atol=1e-5)
        coils = normal(3, h, w, 2) + 1j * normal(3, h, w, 2, seed=3)
        each = [apply(operators.MaskedFourier(mask), (c * x).astype("c8")) for c in coils]
        together = apply(operators.MultiCoilFourier(mask, coils.astype("c8")), x.astype("c8"))
        np.testing.assert_allclose(together, np.stack(each), atol=1e-5)


def test_matrix_is_a_product_in_c_order():
    matrix, x = normal(5, 12), normal(3, 2, 2, seed=1)
    np.testing.assert_allclose(operators.Matrix(matrix, x.shape)(x), matrix @ x.ravel(), rtol=1e-5)


def test_algebra_is_that_of_matrices():
    a, b = (normal(4, 4, seed=s).astype("f4") for s in (0, 1))
    A, B = (operators.Matrix(m, (4,)) for m in (a, b))
    for operator, matrix in [
        (A @ B, a @ b),
        (A + B, a + b),
        (A - B, a - b),
        (2 * A, 2 * a),
        (A * 2.0, 2 * a),
        (A / 4, a / 4),
        (-A, -a),
        (1j * A, 1j * a),
        (np.float32(3) * A, 3 * a),
        (jnp.asarray(3.0) * A, 3 * a),
        ((A @ B).H, (a @ b).T),
        ((1j * A).H, -1j * a.T),
    ]:
        assert isinstance(operator, operators.AbstractLinearOperator)
        np.testing.assert_allclose(matrix_of(operator), matrix, atol=1e-5)


def test_a_python_number_promotes_nothing_and_an_integer_is_a_leaf_with_a_gradient():
    with jax.enable_x64(True):
        for factor in (2, 2.0, True):
            operator = factor * operators.Mask(jnp.ones((3,), "f4"))
            assert operator.domain.dtype == operator(jnp.ones(3, "f4")).dtype == jnp.float32
        gradient = jax.grad(lambda A: jnp.sum(A(jnp.ones(3, "f4"))))(2 * operators.Mask(jnp.ones((3,), "f4")))
        assert gradient.factor == 3


def test_measured_of_a_mask_of_its_multiples_and_of_its_compositions():
    mask = operators.Mask(jnp.array([0.0, 0.5, 2.0]))
    identity = operators.Identity((3,))
    hole = jnp.array([0.0, 1.0, 1.0])
    for operator in (mask, 2 * mask, 0 * mask, -mask, mask @ identity, mask + mask):
        np.testing.assert_array_equal(operator.measured, hole)
    for operator in (identity, identity @ mask, mask + identity, operators.materialise(identity)):
        np.testing.assert_array_equal(jnp.broadcast_to(operator.measured, (3,)), 1)
    np.testing.assert_array_equal(operators.materialise(mask).measured, hole)
    np.testing.assert_array_equal(operators.Magnitude(mask).measured, hole)
    first, second = operators.stack([mask, identity]).measured
    np.testing.assert_array_equal(first, hole)
    np.testing.assert_array_equal(second, [1])
    coils = operators.MultiCoilFourier(jnp.zeros((2, 3, 1)), jnp.ones((4, 2, 3, 1), complex))
    assert coils.measured.shape == (1, 2, 3, 1)


def test_domains_of_mixed_algebra_are_complex_where_an_operator_needs_complex_images():
    blur, mask = operators.Convolution(jnp.ones((2, 2)), (4, 5, 1)), jnp.ones((4, 5, 1))
    fourier, real = operators.MaskedFourier(mask), operators.Real((4, 5, 1))
    for operator, domain, codomain in [
        (fourier @ blur, "c", "c"),
        (fourier @ blur @ blur, "c", "c"),
        (fourier @ real @ blur, "f", "c"),
        (operators.Mask(mask) @ fourier, "c", "c"),
        (1j * blur, "c", "c"),
        (1j * (fourier @ real), "f", "c"),
        (2.0 * (fourier @ real), "f", "c"),
        (blur + fourier, "c", "c"),
        (blur + real, "f", "c"),
        (operators.Magnitude(blur) @ fourier, "c", "f"),
        (operators.Magnitude(fourier) @ blur, "c", "f"),
        (real.H @ fourier, "c", "f"),
    ]:
        assert (operator.domain.dtype.kind, operator.codomain.dtype.kind) == (domain, codomain)


def test_norm_against_the_svd(key):
    norm = compiled(jax.vmap(lambda operator, rtol: operators.norm(operator, key=key, rtol=rtol), in_axes=(None, 0)))
    rtols = np.array([1e-1, 1e-3, 1e-5])
    with jax.enable_x64(True):
        for name, matrix in {
            "random": normal(30, 20),
            "flat spectrum": np.linalg.qr(normal(30, 20))[0],
            # Power iteration alone would need thousands of steps for these two.
            "close pair": np.concatenate([np.diag(np.r_[1.0, 0.9999, np.full(18, 0.5)]), np.zeros((10, 20))]),
            "dense spectrum": np.concatenate([np.diag(np.linspace(0.5, 1, 20)), np.zeros((10, 20))]),
        }.items():
            largest = np.linalg.norm(matrix, 2)
            sizes = norm(operators.Matrix(matrix, (20,)), rtols)
            assert (largest * (1 - rtols) <= sizes).all(), name
            assert (sizes <= largest * (1 + 1e-12)).all(), name


def test_norm_counts_measured_entries_only_and_is_mapped_with_the_counts_of_a_loop(key):
    diagonal = jnp.array([3.0, 2.0])
    operator = operators.Mask(jnp.array([0.0, 1.0])) @ operators.Mask(diagonal)
    norm, scales = lambda s: operators.norm(s * operator, key=key), jnp.array([1.0, 5.0])
    alone = compiled(norm)
    np.testing.assert_allclose(alone(1.0), 2, rtol=1e-3)
    assert alone(0.0) == 0
    np.testing.assert_allclose(compiled(jax.vmap(norm))(scales), [alone(s) for s in scales], rtol=1e-6)


def test_as_lineax_solves_a_system():
    with jax.enable_x64(True):
        operator = operators.Matrix(normal(8, 6), (3, 2, 1))
        y = normal(8, seed=1)
        expected = np.linalg.lstsq(operator.matrix, y, rcond=None)[0].reshape(3, 2, 1)
        normal_map = lineax.TaggedLinearOperator(
            operators.as_lineax(operator.H @ operator), lineax.positive_semidefinite_tag
        )
        solver = lineax.CG(rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(
            lineax.linear_solve(normal_map, operator.adjoint(y), solver).value, expected, rtol=1e-8
        )
        as_lineax = operators.as_lineax(operator)
        np.testing.assert_allclose(as_lineax.as_matrix(), operator.matrix, atol=1e-12)
        np.testing.assert_allclose(as_lineax.T.mv(jnp.asarray(y)), operator.adjoint(y), atol=1e-12)


def test_function_operators_keep_their_arrays_as_parameters():
    weights = jnp.arange(1.0, 4.0)
    operator = operators.FunctionOperator(jax.tree_util.Partial(jnp.multiply, weights), (3,))
    assert [leaf.shape for leaf in jax.tree.leaves(operator)] == [(3,)]
    traces = []

    @jax.jit
    def apply(operator, x):
        traces.append(1)
        return operator(x)

    apply(operator, weights)
    np.testing.assert_array_equal(apply(jax.tree.map(lambda w: 2 * w, operator), weights), 2 * weights**2)
    assert len(traces) == 1


def test_a_mapped_operator_keeps_the_shapes_of_one_problem():
    masks = jnp.ones((5, 4, 3, 1))
    batch = jax.vmap(operators.Mask)(masks)
    assert batch.domain.shape == (4, 3, 1)
    with pytest.raises(ValueError, match="expects the image of shape"):
        jax.vmap(lambda A, x: A(x))(batch, jnp.ones((5, 4, 3)))
