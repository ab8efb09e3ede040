"""A problem of a large batch has the steps and the image that it has alone, where conjugate gradients take many steps.

They amplify a difference in the last place to the size of their tolerance, so all of a step must round as it does
alone: odd sizes, levels of noise and weights over several orders of magnitude, the problem's own operator or one for
all, closed over or not. Compiled as users do: the older code generation, which other tests use, contracts products and
sums as it likes.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import production

from jaxinv import Likelihood, classical, diffusion, generative, noise, operators, oracles, regularisers
from jaxinv._sums import dot, exact_sum

SHAPE, PIXELS = (7, 9, 1), 63
MATRIX = np.random.default_rng(0).normal(size=(40, PIXELS)) * 0.93 ** np.arange(PIXELS)
KERNEL = np.random.default_rng(1).uniform(size=(3, 3)) / 9
ANGLES = np.arange(8) * np.pi / 8
FACTOR = np.random.default_rng(2).normal(size=(PIXELS, PIXELS)) / PIXELS**0.5


def convolution(dtype, change=0.0):
    return operators.Convolution(jnp.asarray(KERNEL, dtype) + change, SHAPE)


def parallel(dtype, change=0.0):
    return operators.ParallelBeam(SHAPE, jnp.asarray(ANGLES, dtype) + change)


def matrix(dtype, change=0.0):
    return operators.Matrix(jnp.asarray(MATRIX, dtype) + change, SHAPE)


def stack(dtype, change=0.0):
    return operators.stack([convolution(dtype, change), 0.3 * parallel(dtype)])


def fourier(dtype, change=0.0):
    coils = jnp.asarray(np.random.default_rng(3).normal(size=(2, *SHAPE)), dtype) + change + 0j
    return operators.MultiCoilFourier(jnp.asarray(KERNEL[:1, :1] > 0, dtype)[..., None], coils) @ operators.Real(SHAPE)


def gaussian(dtype):
    return regularisers.Gaussian(oracles.Gaussian(jnp.full(SHAPE, 0.5, dtype), jnp.asarray(FACTOR @ FACTOR.T, dtype)))


# An operator, the noise made from a number of the problem, the regulariser, and whether each has its own operator.
ROWS = {
    "convolution": (convolution, noise.Gaussian, None, False),
    "convolution, own": (convolution, noise.Gaussian, None, True),
    "parallel": (parallel, noise.Gaussian, None, False),
    "parallel, own": (parallel, noise.Gaussian, None, True),
    "matrix": (matrix, noise.Gaussian, None, False),
    "matrix, own": (matrix, noise.Gaussian, None, True),
    "stack": (stack, noise.Gaussian, None, False),
    "gaussian": (convolution, noise.Gaussian, gaussian, False),
    "transmission": (parallel, lambda std: noise.TransmissionPoisson(1 / std**2), None, False),
    "emission": (convolution, lambda std: noise.Poisson(1 / std**2), None, False),
}
# Float32, whose rounding shows first, in the larger batch; float64 in the smaller one for each kind of kernel. What is
# fast is small.
CASES = [
    *(pytest.param(name, "float32", 128, marks=pytest.mark.slow) for name in ROWS),
    ("convolution", "float64", 37),
    pytest.param("parallel, own", "float64", 37, marks=pytest.mark.slow),
    ("matrix", "float32", 37),
]


def precision(dtype):
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


def problems(name, dtype, lanes):
    """The solver of one problem, and a batch of data."""
    make, model, regulariser, own = ROWS[name]
    random = np.random.default_rng(4)
    draw = lambda *sizes: jnp.asarray(random.uniform(*sizes), dtype)
    std, weight = 10 ** draw(-2.5, -1, lanes), 10 ** draw(-1, 2, lanes)
    change, x = 0.01 * draw(0, 1, lanes), draw(0, 1, (lanes, *SHAPE))
    operator, penalty = make(dtype), regulariser and regulariser(dtype)

    def likelihood(std, change):
        return Likelihood(make(dtype, change) if own else operator, model(std))

    def simulate(std, change, x, key):
        return likelihood(std, change).simulate(x, key=key)

    def solve(problem):
        std, change, weight, y = problem
        return classical.tikhonov(likelihood(std, change), y, weight=weight, regulariser=penalty)

    y = jax.jit(jax.vmap(simulate))(std, change, x, jax.random.split(jax.random.key(0), lanes))
    return solve, (std, change, weight, y)


def assert_equal(solution, other, dtype):
    np.testing.assert_array_equal(solution.stats["num_steps"], other.stats["num_steps"])
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(solution.value, other.value, rtol=0, atol=tolerance * np.max(np.abs(other.value)))


def check_batch(solve, batch, dtype):
    """A problem of the batch, one in twelve, has the steps and the value that it has alone."""
    together, alone = jax.device_get(production(jax.vmap(solve))(batch)), production(solve)
    assert np.max(together.stats["num_steps"]) >= 20
    lanes = len(together.value)
    for i in range(0, lanes, lanes // 12):
        one = jax.device_get(alone(jax.tree.map(lambda leaf, i=i: leaf[i], batch)))
        assert_equal(jax.tree.map(lambda leaf, i=i: leaf[i], together), one, dtype)


@pytest.mark.parametrize(("name", "dtype", "lanes"), CASES)
def test_a_large_batch_equals_a_loop(name, dtype, lanes):
    with precision(dtype):
        check_batch(*problems(name, dtype, lanes), dtype)


LARGE = (23, 21, 1)
WEIGHTS = np.random.default_rng(6).normal(size=(4, 483)) / 2


def latent(dtype):
    product = lambda z: jnp.matmul(z, jnp.asarray(WEIGHTS, dtype), precision=jax.lax.Precision.HIGHEST)
    return generative.FunctionPrior(lambda z: jnp.tanh(product(z)).reshape(LARGE), lambda z: 0.5 * jnp.sum(z**2), (4,))


def score(dtype):
    """The score of white noise around one image."""
    process = diffusion.VP()
    mean = jnp.asarray(WEIGHTS[0], dtype).reshape(LARGE)

    def function(t, x):
        scale, std = process.marginal(t)
        return (scale * mean - x) / (0.3 * scale**2 + std**2)

    return diffusion.Score(function, process)


def gaussian_score(dtype):
    """The score of a Gaussian of low rank, whose matrices a batch multiplies by another routine than one image."""
    factor = jnp.asarray(np.random.default_rng(9).normal(size=(WEIGHTS.shape[1], 20)) / 3, dtype)
    mean, diagonal = jnp.asarray(WEIGHTS[0], dtype).reshape(LARGE), jnp.asarray(0.05, dtype)
    return oracles.Gaussian.from_factor(mean, factor, diagonal).score(diffusion.VP())


# What solves a problem, given its likelihood, measurement, weight, key and dtype; the images have so many pixels that
# their sums have other orders in a batch.
VERBS = {
    "tv": lambda likelihood, y, weight, key, dtype: classical.tv(likelihood, y, weight=weight, max_steps=300),
    "ista": lambda likelihood, y, weight, key, dtype: classical.ista(likelihood, y, weight=weight, max_steps=300),
    "fista": lambda likelihood, y, weight, key, dtype: classical.fista(likelihood, y, weight=weight, max_steps=300),
    "reconstruct": lambda likelihood, y, weight, key, dtype: generative.reconstruct(
        likelihood, latent(dtype), y, key=key, weight=weight
    ),
    "DDIM": lambda likelihood, y, weight, key, dtype: diffusion.sample(
        score(dtype), LARGE, key=key, method=diffusion.DDIM(20)
    ),
    "DPS": lambda likelihood, y, weight, key, dtype: diffusion.posterior_sample(
        likelihood, score(dtype), y, key=key, method=diffusion.DPS(20)
    ),
    # Conjugate gradients amplify a difference in the last place of the denoiser to a hundredth of the image.
    "PiGDM": lambda likelihood, y, weight, key, dtype: diffusion.posterior_sample(
        likelihood, gaussian_score(dtype), y, key=key, method=diffusion.PiGDM(20)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype", "lanes"),
    [
        ("tv", "float32", 128),
        ("ista", "float32", 37),
        ("fista", "float64", 37),
        ("reconstruct", "float32", 37),
        ("reconstruct", "float64", 37),
        ("DDIM", "float32", 128),
        ("DPS", "float64", 37),
        ("PiGDM", "float32", 37),
    ],
)
def test_other_verbs_in_a_large_batch(name, dtype, lanes):
    random = np.random.default_rng(4)
    with precision(dtype):
        draw = lambda *sizes: jnp.asarray(random.uniform(*sizes), dtype)
        std, weight = 10 ** draw(-2.5, -1, lanes), 10 ** draw(-1, 2, lanes)
        operator = operators.Convolution(jnp.asarray(KERNEL, dtype), LARGE)
        y = jax.vmap(operator)(draw(0, 1, (lanes, *LARGE))) + 0.05 * draw(-1, 1, (lanes, *LARGE))

        def solve(problem):
            std, weight, y, key = problem
            return VERBS[name](Likelihood(operator, noise.Gaussian(std)), y, weight, key, dtype)

        check_batch(solve, (std, weight, y, jax.random.split(jax.random.key(1), lanes)), dtype)


@pytest.mark.slow
def test_the_size_of_a_chunk_does_not_matter():
    solve, batch = problems("convolution", "float32", 37)
    whole = production(jax.vmap(solve))(batch)
    for size in (5, 8):
        chunk = jax.tree.map(lambda leaf, size=size: leaf[3 : 3 + size], batch)
        part = jax.tree.map(lambda leaf, size=size: leaf[3 : 3 + size], whole)
        assert_equal(production(jax.vmap(solve))(chunk), part, "float32")


@pytest.mark.parametrize("name", [pytest.param("convolution", marks=pytest.mark.slow), "matrix"])
def test_closed_over_or_an_argument(name):
    solve, batch = problems(name, "float32", 3)
    problem = jax.tree.map(lambda leaf: leaf[1], batch)
    closed = production(lambda y: solve((*problem[:3], y)))(problem[3])
    assert_equal(closed, production(solve)(problem), "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_do_not_depend_on_the_order(dtype):
    random = np.random.default_rng(5)
    with precision(dtype):
        for size in (1, 7, 5000):
            for terms in (random.normal(size=size) * 10.0 ** random.integers(-8, 8, size), np.zeros(size)):
                x = jnp.asarray(terms, dtype)
                total = exact_sum(x)
                np.testing.assert_array_equal(exact_sum(jnp.asarray(random.permutation(np.asarray(x)))), total)
                exact = np.sum(np.asarray(x, np.longdouble))
                assert abs(float(total) - exact) <= 4 * float(jnp.finfo(dtype).eps) * max(
                    abs(exact), np.abs(x).max(initial=0)
                )
        a, b = jnp.asarray(random.normal(size=(2, 11)), dtype)
        np.testing.assert_allclose(jax.grad(dot)(a, b), b, rtol=1e-6)
        np.testing.assert_allclose(dot(a + 1j * b, b + 1j * a), 2 * jnp.sum(a * b), rtol=1e-5)
        for bad in (np.inf, np.nan):
            assert np.isnan(exact_sum(jnp.asarray([1.0, bad], dtype)))
        # A sum that overflows, and an inner product whose products do, are no number.
        large = jnp.full(7, jnp.finfo(dtype).max / 2, dtype)
        assert not np.isfinite(exact_sum(large))
        assert not np.isfinite(dot(large, large))
        np.testing.assert_allclose(exact_sum(large / 1e3), jnp.sum(large / 1e3), rtol=1e-6)
