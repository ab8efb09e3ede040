import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from verbs import SHAPE, SIZE, codes, rng_of

from jaxinv import Likelihood, noise, operators, regularisers
from jaxinv.classical import tv
from jaxinv.regularisers import Anisotropic, Isotropic, Smoothed

RNG = rng_of(0)
Y = RNG.normal(size=SHAPE).cumsum(0)
MATRIX = np.eye(SIZE) + 0.05 * RNG.normal(size=(SIZE, SIZE))
TIGHT = {"rtol": 1e-11, "max_steps": 50_000}


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def denoise(y, weight, std=0.5, **options):
    likelihood = Likelihood(operators.Identity(np.shape(y)), noise.Gaussian(std))
    return tv(likelihood, y, weight=weight, **options)


def differences(shape):
    """Forward differences along height, then width, as a matrix; rows across the border are zero."""
    h, w, _ = shape
    index = np.arange(h * w).reshape(h, w)
    matrix = np.zeros((2, h, w, h * w))
    for i in range(h):
        for j in range(w):
            for axis, (a, b) in enumerate([(i + 1, j), (i, j + 1)]):
                if a < h and b < w:
                    matrix[axis, i, j, index[a, b]] += 1
                    matrix[axis, i, j, index[i, j]] -= 1
    return matrix.reshape(2 * h * w, h * w)


def reference(matrix, b, weight, isotropic, shape=SHAPE):
    """The minimiser of `1/2 |matrix x - b|^2 + weight TV(x)` for a square matrix, with its duality gap.

    Independent of the library: numpy, accelerated projected gradient on the dual alone.
    """
    d = differences(shape)
    a = np.linalg.solve(matrix.T, d.T)
    step = 1 / np.linalg.norm(a, 2) ** 2

    def project(p):
        if not isotropic:
            return np.clip(p, -weight, weight)
        q = p.reshape(2, -1)
        return (q / np.maximum(1, np.sqrt((q**2).sum(0)) / weight)).ravel()

    p = ahead = np.zeros(d.shape[0])
    t = 1.0
    for _ in range(20_000):
        new = project(ahead - step * a.T @ (a @ ahead - b))
        t_new = (1 + np.sqrt(1 + 4 * t * t)) / 2
        ahead, p, t = new + (t - 1) / t_new * (new - p), new, t_new
    x = np.linalg.solve(matrix, b - a @ p)
    dual = 0.5 * b @ b - 0.5 * np.sum((b - a @ p) ** 2)
    variation = d @ x
    variation = np.sqrt((variation.reshape(2, -1) ** 2).sum(0)).sum() if isotropic else np.abs(variation).sum()
    return x, dual, 0.5 * np.sum((matrix @ x - b) ** 2) + weight * variation


@pytest.mark.parametrize("kind", [Isotropic(), Anisotropic(), Smoothed(1e-9)], ids=repr)
@pytest.mark.parametrize("weight", [1.0, 5.0])
@pytest.mark.parametrize("shape", [(2, 1, 1), pytest.param((1, 2, 1), marks=pytest.mark.slow)])
def test_two_pixels(shape, weight, kind):
    # Each moves by weight std^2 towards the other, until they meet.
    y = np.array([1.0, 3.0]).reshape(shape)
    x = denoise(y, weight, kind=kind, **TIGHT).check().value.ravel()
    move = min(weight * 0.25, 1.0)
    # The last steps of a first-order method: ten digits of relative change are some seven of error.
    np.testing.assert_allclose(x, [1 + move, 3 - move], atol=1e-6)


@pytest.mark.parametrize("kind", [Isotropic(), Anisotropic()], ids=repr)
def test_a_staircase_in_one_dimension(kind):
    y = (np.repeat([0.0, 2.0, 1.0], 8) + 0.3 * RNG.normal(size=24)).reshape(24, 1, 1)
    weight, std = 2.0, 0.5
    x = denoise(y, weight, std, kind=kind, **TIGHT).check().value.ravel()
    # The dual is a least-squares problem in a box, which scipy solves by active sets.
    d = np.diff(np.eye(24), axis=0)
    bound = weight * std**2
    p = scipy.optimize.lsq_linear(d.T, y.ravel(), (-bound, bound), method="bvls", tol=1e-14).x
    expected = y.ravel() - d.T @ p
    np.testing.assert_allclose(x, expected, atol=1e-6)
    assert np.sum(np.abs(np.diff(expected)) > 1e-6) < 10


@pytest.mark.parametrize("isotropic", [True, False], ids=["isotropic", "anisotropic"])
@pytest.mark.parametrize("matrix", [np.eye(SIZE), MATRIX], ids=["identity", "matrix"])
def test_against_a_certified_reference(matrix, isotropic):
    std, weight = 0.5, 1.5
    likelihood = Likelihood(operators.Matrix(matrix, SHAPE), noise.Gaussian(std))
    kind = Isotropic() if isotropic else Anisotropic()
    y = matrix @ Y.ravel()
    solution = tv(likelihood, y, weight=weight, kind=kind, **TIGHT).check()
    x, dual, primal = reference(matrix / std, y / std, weight, isotropic)
    assert primal - dual < 1e-8 * primal
    constant = SIZE * np.log(std * np.sqrt(2 * np.pi))
    objective = solution.stats["objective"] - constant
    # Never below the dual bound; above it by the tolerance of the solve.
    assert dual * (1 - 1e-12) <= objective <= primal * (1 + 1e-7)
    np.testing.assert_allclose(solution.value.ravel(), x, atol=1e-4 * np.abs(x).max())


@pytest.mark.slow
def test_the_default_tolerance_is_good_enough():
    # An objective within 1e-3 of the optimum, in float32 as in float64.
    dual, primal = reference(2 * np.eye(SIZE), 2 * Y.ravel(), 1.5, True)[1:]
    for dtype in (np.float32, np.float64):
        mask = operators.Mask(np.ones(SHAPE, dtype))
        solution = tv(Likelihood(mask, noise.Gaussian(0.5)), Y.astype(dtype), weight=1.5).check()
        objective = solution.stats["objective"] - SIZE * np.log(0.5 * np.sqrt(2 * np.pi))
        assert dual * (1 - 1e-5) <= objective <= primal * (1 + 1e-3)
        assert solution.value.dtype == dtype


def test_smoothed_against_scipy():
    matrix = RNG.normal(size=(20, SIZE))
    std, weight, eps = 0.5, 3.0, 0.1
    y, d = matrix @ Y.ravel(), differences(SHAPE)
    likelihood = Likelihood(operators.Matrix(matrix, SHAPE), noise.Gaussian(std))
    solution = tv(likelihood, y, weight=weight, kind=Smoothed(eps), rtol=1e-12, max_steps=50_000).check()

    def objective(x):
        residual, g = (matrix @ x - y) / std, (d @ x).reshape(2, -1)
        root = np.sqrt((g**2).sum(0) + eps**2)
        gradient = matrix.T @ residual / std + weight * d.T @ (g / root).ravel()
        return 0.5 * residual @ residual + weight * np.sum(root - eps), gradient

    best = scipy.optimize.minimize(
        objective, Y.ravel(), jac=True, method="BFGS", options={"gtol": 1e-6, "maxiter": 5000}
    )
    constant = 20 * np.log(std * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(solution.stats["objective"] - constant, best.fun, rtol=1e-8)
    np.testing.assert_allclose(solution.value.ravel(), best.x, atol=1e-4)


def test_the_unit_of_the_image_does_not_matter():
    # A power of two, so that nothing is rounded differently.
    plain, scaled = denoise(Y, 2.0, 0.5), denoise(1024 * Y, 2.0 / 1024, 0.5 * 1024)
    assert int(plain.stats["num_steps"]) == int(scaled.stats["num_steps"])
    np.testing.assert_allclose(scaled.value, 1024 * plain.value, rtol=1e-10)


def test_the_size_of_the_operator_does_not_matter():
    plain = Likelihood(operators.Identity(SHAPE), noise.Gaussian(0.5))
    large = Likelihood(1e3 * operators.Identity(SHAPE), noise.Gaussian(500.0))
    a, b = tv(plain, Y, weight=2.0), tv(large, 1e3 * Y, weight=2.0)
    # The norm is an estimate by the same power iteration, up to rounding.
    np.testing.assert_allclose(a.value, b.value, rtol=1e-8)


def test_a_known_norm():
    known = denoise(Y, 2.0, norm=1.0, **TIGHT).check()
    np.testing.assert_allclose(known.value, denoise(Y, 2.0, **TIGHT).value, atol=1e-6)


def test_weight_zero_is_least_squares():
    np.testing.assert_allclose(denoise(Y, 0.0, **TIGHT).check().value, Y, atol=1e-6)


def test_a_large_weight_gives_the_mean_of_each_channel():
    y = np.concatenate([Y, 2 * Y + 1], axis=2)
    x = denoise(y, 1e3, **TIGHT).value
    np.testing.assert_allclose(x, np.broadcast_to(y.mean((0, 1)), y.shape), atol=1e-4)


def test_a_complex_image_of_one_phase():
    phase = np.exp(0.7j)
    operator = (1 + 0j) * operators.Identity(SHAPE)
    x = tv(Likelihood(operator, noise.Gaussian(0.5)), phase * Y, weight=2.0, **TIGHT).check().value
    np.testing.assert_allclose(x, phase * denoise(Y, 2.0, **TIGHT).value, atol=1e-6)


def test_an_inpainted_hole_of_a_constant_image():
    mask = np.ones(SHAPE)
    mask[2:4, 2:4] = 0
    likelihood = Likelihood(operators.Mask(mask), noise.Gaussian(0.1))
    x = tv(likelihood, jnp.full(SHAPE, 2.0), weight=1.0, **TIGHT).check().value
    np.testing.assert_allclose(x, 2.0, atol=1e-5)


def test_max_steps():
    assert str(codes(denoise(Y, 2.0, max_steps=3).result)) == "max_steps_reached"


def test_the_kind_is_the_regularisers():
    x = denoise(Y, 2.0, kind=Smoothed(0.3))
    penalty = regularisers.TV(Smoothed(0.3))
    likelihood = Likelihood(operators.Identity(SHAPE), noise.Gaussian(0.5))
    expected = likelihood.negative_log_likelihood(x.value, Y) + 2.0 * penalty(x.value)
    np.testing.assert_allclose(x.stats["objective"], expected, rtol=1e-12)
