import jax
import jax.numpy as jnp
import numpy as np
import pytest
from verbs import SHAPE, SIZE, codes, rng_of

from jaxinv import Likelihood, noise, operators, oracles, regularisers
from jaxinv.classical import tikhonov

RNG = rng_of(0)
MASK = RNG.uniform(size=SHAPE) < 0.6
IMAGE = RNG.normal(size=SHAPE)
COMPLEX = IMAGE + 1j * RNG.normal(size=SHAPE)
MATRIX = RNG.normal(size=(20, SIZE))
L = np.eye(SIZE) - np.eye(SIZE, k=1)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def dense(operator):
    """The matrix of an operator on real or complex images, the parts of a stack one after the other."""
    domain = operator.domain
    columns = np.eye(SIZE).astype(domain.dtype).reshape(SIZE, *SHAPE)
    out = jax.vmap(operator)(columns)
    return np.concatenate([np.asarray(leaf).reshape(SIZE, -1) for leaf in jax.tree.leaves(out)], axis=1).T


def rows(y):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(y)])


OPERATORS = {
    "matrix": lambda: operators.Matrix(MATRIX, SHAPE),
    "mask": lambda: operators.Mask(MASK),
    "blur": lambda: operators.Convolution(np.ones((3, 2)) / 6, SHAPE),
    "fourier": lambda: operators.MaskedFourier(MASK),
    "fourier of real": lambda: operators.MaskedFourier(MASK) @ operators.Real(SHAPE),
    "stack": lambda: operators.stack([operators.Mask(MASK), operators.Matrix(MATRIX, SHAPE)]),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("with_operator", [pytest.param(False, marks=pytest.mark.slow), True], ids=["identity", "L"])
@pytest.mark.parametrize("name", OPERATORS)
def test_equals_the_dense_solve(name, with_operator):
    operator = OPERATORS[name]()
    std = (0.5, 0.2) if name == "stack" else 0.5
    likelihood = Likelihood(operator, noise.Gaussian(std))
    y = likelihood.simulate(COMPLEX if name == "fourier" else IMAGE, key=jax.random.key(0))
    # What is not measured must not matter.
    y = jax.tree.map(lambda leaf, m: jnp.where(m > 0, leaf, 7.0), y, operator.measured)
    regulariser = regularisers.Tikhonov(operators.Matrix(L, SHAPE)) if with_operator else None
    solution = tikhonov(likelihood, y, weight=0.7, regulariser=regulariser, rtol=1e-12).check()

    matrix, b = dense(operator), rows(y)
    like = lambda tree: rows(jax.tree.map(lambda leaf, v: jnp.broadcast_to(v, leaf.shape), y, tree))
    levels, kept = like(std), like(operator.measured) > 0
    matrix, b = (matrix / levels[:, None])[kept], (b / levels)[kept]
    if np.iscomplexobj(matrix) and name != "fourier":
        matrix, b = np.concatenate([matrix.real, matrix.imag]), np.concatenate([b.real, b.imag])
    penalty = L.T @ L if with_operator else np.eye(SIZE)
    expected = np.linalg.solve(matrix.conj().T @ matrix + 0.7 * penalty, matrix.conj().T @ b)
    # Residual 1e-12 times a condition number of up to 1e3.
    np.testing.assert_allclose(solution.value.ravel(), expected, atol=1e-8)
    square = 0.5 * np.sum(np.abs(matrix @ expected - b) ** 2)
    parts = 2 if "fourier" in name else 1
    constant = parts * np.sum((np.log(levels) + 0.5 * np.log(2 * np.pi))[kept])
    objective = square + constant + 0.35 * np.real(expected.conj() @ penalty @ expected)
    np.testing.assert_allclose(solution.stats["objective"], objective, rtol=1e-9)


@pytest.mark.usefixtures("x64")
def test_weight_zero_is_the_least_norm_solution():
    likelihood = Likelihood(operators.Matrix(MATRIX, SHAPE), noise.Gaussian(0.1))
    y = RNG.normal(size=20)
    x = tikhonov(likelihood, y, weight=0, rtol=1e-13).check().value
    np.testing.assert_allclose(x.ravel(), np.linalg.pinv(MATRIX) @ y, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_gaussian_regulariser_is_the_posterior_mean():
    factor = RNG.normal(size=(SIZE, 40)) / 6
    prior = oracles.Gaussian(np.full(SHAPE, 3.0), factor @ factor.T)
    likelihood = Likelihood(operators.Matrix(MATRIX, SHAPE), noise.Gaussian(0.5))
    y = RNG.normal(size=20)
    penalty = 0.5 * regularisers.Gaussian(prior) + 0.5 * regularisers.Gaussian(prior)
    x = tikhonov(likelihood, y, weight=1.0, regulariser=penalty, rtol=1e-12).check().value
    # The inverse of the covariance has a condition number of 1e3.
    np.testing.assert_allclose(x, prior.posterior(likelihood, y).mean, atol=1e-7)


def test_a_distant_mean_does_not_cancel_in_float32():
    # The gradient of the penalty at 0 is 1e6 times larger than at the images that matter.
    prior = oracles.Gaussian(np.full(SHAPE, 1000.0, np.float32), 1e-2 * np.eye(SIZE, dtype=np.float32))
    likelihood = Likelihood(operators.Mask(MASK.astype(np.float32)), noise.Gaussian(0.1))
    y = 1000.0 + 0.1 * jnp.asarray(IMAGE, jnp.float32)
    solution = tikhonov(likelihood, y, weight=1.0, regulariser=regularisers.Gaussian(prior), rtol=1e-4).check()
    expected = np.where(MASK, (1000 + np.asarray(y, float)) / 2, 1000)
    # The spacing of float32 at 1000 is 6e-5.
    np.testing.assert_allclose(solution.value, expected, atol=5e-4)


@pytest.mark.usefixtures("x64")
def test_photons_enter_by_their_gaussian_approximation():
    model = noise.TransmissionPoisson(200.0)
    operator = operators.Matrix(np.abs(MATRIX) / SIZE, SHAPE)
    likelihood = Likelihood(operator, model)
    counts = likelihood.simulate(np.abs(IMAGE), key=jax.random.key(0))
    x = tikhonov(likelihood, counts, weight=1.0, rtol=1e-12).check().value
    line, std = (np.asarray(v) for v in model.linearise(counts))
    np.testing.assert_allclose(line, -np.log(counts / 200.0))
    matrix = np.asarray(operator.matrix) / std[:, None]
    expected = np.linalg.solve(matrix.T @ matrix + np.eye(SIZE), matrix.T @ (line / std))
    np.testing.assert_allclose(x.ravel(), expected, atol=1e-8)


def test_correlated_noise(x64):
    factor = np.tril(RNG.normal(size=(20, 20))) / 5 + np.eye(20)
    likelihood = Likelihood(operators.Matrix(MATRIX, SHAPE), noise.CorrelatedGaussian(factor))
    y = RNG.normal(size=20)
    x = tikhonov(likelihood, y, weight=1.0, rtol=1e-12).check().value
    precision = np.linalg.inv(factor @ factor.T)
    expected = np.linalg.solve(MATRIX.T @ precision @ MATRIX + np.eye(SIZE), MATRIX.T @ precision @ y)
    np.testing.assert_allclose(x.ravel(), expected, atol=1e-7)


class Crooked(operators.AbstractLinearOperator):
    """The adjoint has the wrong sign."""

    domain: jax.ShapeDtypeStruct = operators.Identity(SHAPE).domain
    codomain: jax.ShapeDtypeStruct = operators.Identity(SHAPE).codomain

    def __call__(self, x):
        return x

    def adjoint(self, y):
        return -y


def test_breakdown():
    likelihood = Likelihood(Crooked(), noise.Gaussian(0.1))
    solution = tikhonov(likelihood, np.ones(SHAPE), weight=1.0)
    assert str(codes(solution.result)) == "breakdown"
    np.testing.assert_array_equal(solution.value, 0)
    with pytest.raises(RuntimeError, match="breakdown: A quantity that must be positive was not"):
        solution.check()


@pytest.mark.parametrize("operator", [None, np.nan, np.inf])
def test_max_steps_and_nonfinite(operator):
    made = operators.Matrix(MATRIX.astype(np.float32), SHAPE)
    if operator is not None:
        made = operators.FunctionOperator(lambda x: x * operator, SHAPE)
    likelihood = Likelihood(made, noise.Gaussian(0.1))
    solution = tikhonov(likelihood, np.ones(made.codomain.shape, np.float32), weight=1.0, max_steps=2)
    assert str(codes(solution.result)) == ("max_steps_reached" if operator is None else "nonfinite")
    assert np.isfinite(solution.value).all()


def test_zero_data_is_solved_by_zero():
    likelihood = Likelihood(operators.Identity(SHAPE), noise.Gaussian(0.1))
    solution = tikhonov(likelihood, np.zeros(SHAPE), weight=0.0).check()
    np.testing.assert_array_equal(solution.value, 0)
