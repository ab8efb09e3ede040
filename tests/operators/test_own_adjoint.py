"""Linear functions with an adjoint of their own, such as foreign code behind a callback."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import compiled
from flax import nnx

from jaxinv import (
    Implicit,
    Likelihood,
    classical,
    diffusion,
    dip,
    generative,
    models,
    noise,
    operators,
    oracles,
    testing,
)

SHAPE = (6, 5, 1)
COMPLEX = jax.ShapeDtypeStruct((4, 3, 1), jnp.complex64)
MATRIX = np.random.default_rng(0).normal(size=(8, 30)).astype(np.float32)
PHASES = np.exp(1j * np.arange(12).reshape(4, 3, 1)).astype(np.complex64)


def foreign(function, *structs, method="expand_dims"):
    """`function`, in NumPy, of arrays with or without a leading axis of problems."""
    out = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in structs)
    out = out if len(out) > 1 else out[0]
    cast = lambda x: jax.tree.map(lambda v, s: np.asarray(v, s.dtype), function(jax.tree.map(np.asarray, x)), out)
    return lambda x: jax.pure_callback(cast, out, x, vmap_method=method)


def foreign_matrix(method="sequential", **options):
    forward = foreign(lambda x: x.reshape(-1) @ MATRIX.T, ((8,), jnp.float32), method=method)
    backward = foreign(lambda y: (y @ MATRIX).reshape(SHAPE), (SHAPE, jnp.float32), method=method)
    return operators.FunctionOperator(forward, SHAPE, adjoint=backward, **options)


def halves(x):
    return x[..., ::2, :, :], 3 * x[..., 1::2, :, :] - x[..., ::2, :, :]


def halves_adjoint(y):
    return np.stack([y[0] - y[1], 3 * y[1]], axis=-3).reshape(*y[0].shape[:-3], *SHAPE)


OPERATORS = {
    "sequential": foreign_matrix,
    "complex": lambda: operators.FunctionOperator(
        foreign(lambda x: np.fft.fft(PHASES * x, axis=-3), (COMPLEX.shape, jnp.complex64)),
        COMPLEX,
        adjoint=foreign(lambda y: PHASES.conj() * np.fft.ifft(y, axis=-3) * 4, (COMPLEX.shape, jnp.complex64)),
    ),
    "tuple": lambda: operators.FunctionOperator(
        foreign(halves, ((3, 5, 1), jnp.float32), ((3, 5, 1), jnp.float32)),
        SHAPE,
        adjoint=foreign(halves_adjoint, (SHAPE, jnp.float32)),
    ),
    "real to complex": lambda: operators.FunctionOperator(
        foreign(lambda x: np.fft.fft(x, axis=-3), (SHAPE, jnp.complex64)),
        SHAPE,
        adjoint=foreign(lambda y: (np.fft.ifft(y, axis=-3) * 6).real, (SHAPE, jnp.float32)),
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in ("tuple", "real to complex"))) for n in OPERATORS]
)
def test_the_check_for_everybody(name, key):
    operator = OPERATORS[name]()
    testing.check_linear_operator(operator, key=key, batch_sizes=(3,))
    assert operators.certify(operator, key=key).check().passed


def test_in_loops_and_under_derivatives_of_derivatives():
    def descend(operator, x):
        step = lambda x, _: (x - 1e-5 * jax.grad(lambda x: jnp.sum(operator(x) ** 4))(x), None)
        return jnp.sum(jax.lax.scan(jax.checkpoint(step), x, None, length=3)[0] ** 2)

    derivative = compiled(jax.vmap(jax.grad(descend, argnums=1), in_axes=(None, 0)))
    batch = jnp.stack([jnp.ones(SHAPE), 0.1 * jnp.ones(SHAPE)])
    expected = derivative(operators.Matrix(jnp.asarray(MATRIX), SHAPE), batch)
    np.testing.assert_allclose(derivative(foreign_matrix(), batch), expected, rtol=1e-4, atol=1e-5)


def _problem(operator):
    likelihood = Likelihood(operator, noise.Gaussian(0.1))
    return likelihood, likelihood.simulate(jnp.linspace(0, 1, 30).reshape(SHAPE), key=jax.random.key(1))


def _restore(operator):
    likelihood, y = _problem(operator)
    prior = oracles.Gaussian(jnp.zeros(SHAPE), jnp.eye(30)).as_latent()
    return generative.reconstruct(likelihood, prior, y, key=jax.random.key(0), max_steps=5).value


def _fit(operator):
    likelihood, y = _problem(operator)
    network = models.DeepDecoder(SHAPE, layers=1, channels=2, rngs=nnx.Rngs(0))
    return dip.reconstruct(likelihood, network, y, key=jax.random.key(0), num_steps=3).value


def _sample(operator):
    likelihood, y = _problem(operator)
    score = oracles.Gaussian(jnp.zeros(SHAPE), jnp.eye(30)).score(diffusion.VP())
    return diffusion.posterior_sample(
        likelihood, score, y, key=jax.random.key(0), method=diffusion.DPS(3), num_samples=2
    ).value


def _implicit(operator):
    likelihood, y = _problem(operator)
    solve = lambda y: jnp.sum(classical.tikhonov(likelihood, y, weight=1.0, differentiate=Implicit()).value ** 2)
    return jax.grad(solve)(y)


VERBS = {
    "tikhonov": lambda A: classical.tikhonov(*_problem(A), weight=1.0).value,
    "tikhonov implicit": _implicit,
    "tv": lambda A: classical.tv(*_problem(A), weight=1.0, max_steps=20).value,
    "fista": lambda A: classical.fista(*_problem(A), weight=1.0, max_steps=20).value,
    "generative": _restore,
    "dip": _fit,
    "DPS": _sample,
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "tikhonov")) for n in VERBS])
def test_verbs_do_not_notice(name):
    found, expected = VERBS[name](foreign_matrix()), VERBS[name](operators.Matrix(jnp.asarray(MATRIX), SHAPE))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.max(np.abs(expected)))


def test_arrays_of_both_functions_are_parameters():
    # Mapped over and differentiated, without a test of what is traced.
    make = lambda w: operators.FunctionOperator(
        jax.tree_util.Partial(jnp.multiply, w), (3,), adjoint=jax.tree_util.Partial(jnp.multiply, w)
    )
    weights = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(jax.vmap(lambda w: make(w)(jnp.ones(3)))(weights), weights)
    gradient = jax.jit(jax.grad(lambda w: jnp.sum(make(w)(2 * jnp.ones(3)) ** 2)))(weights[1])
    np.testing.assert_allclose(gradient, 8 * weights[1])


WRONG = {
    "scale": (lambda x: 3 * x, lambda y: 2 * y, (8,), "differ by"),
    "transpose": (lambda x: 1j * x, lambda y: 1j * y, jax.ShapeDtypeStruct((8,), jnp.complex64), "conjugate transpose"),
    "affine": (lambda x: x + 1, lambda y: y, (8,), "differ by"),
    "NaN": (lambda x: x, lambda y: y * jnp.nan, (8,), "not the adjoint"),
    "shape": (lambda x: x[1:], lambda y: y, (8,), r"`adjoint` must return an image, of shape \(8,\)"),
    "dtype": (lambda x: x, lambda y: 1j * y, (8,), "must return an image"),
    "call": (lambda x: x, lambda y: y @ jnp.ones((3, 8)), (8,), "`adjoint` cannot be applied"),
    "one large problem": (lambda x: x, lambda y: 1.01 * y, (10**6,), "differ by"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_adjoint_is_refused(name):
    function, adjoint, domain, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        operators.FunctionOperator(function, domain, adjoint=adjoint)
    # Also where the operator is made inside a larger program.
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: operators.FunctionOperator(function, domain, adjoint=adjoint)(jnp.ones(domain)))


def test_a_known_mismatch_is_allowed():
    inexact = lambda tolerance: operators.FunctionOperator(
        lambda x: x, (8,), adjoint=lambda y: 1.01 * y, tolerance=tolerance
    )
    inexact(0.02), inexact(float("inf"))
    with pytest.raises(ValueError, match="`tolerance` must be"):
        inexact(-1.0)
    with pytest.raises(ValueError, match="`tolerance` is that of a given `adjoint`"):
        operators.FunctionOperator(lambda x: x, (8,), tolerance=0.1)


def test_without_an_adjoint_the_error_says_what_to_give():
    with pytest.raises(ValueError, match=r"adjoint=\.\.\."):
        operators.FunctionOperator(foreign(lambda x: x, ((8,), jnp.float32)), (8,))
