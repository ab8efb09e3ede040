"""The likelihood counts measured entries, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import Likelihood, noise, operators

SHAPE = (3, 4, 1)
KEPT = np.array([0, 2, 3, 7, 10])


# Compiled whole: operation by operation they take seconds to compile.
value_and_gradient = jax.jit(jax.value_and_grad(lambda x, likelihood, y: likelihood.negative_log_likelihood(x, y)))
nll = jax.jit(lambda likelihood, x, y: likelihood.negative_log_likelihood(x, y))
simulate = jax.jit(lambda likelihood, x, key: likelihood.simulate(x, key=key))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def masked_and_rows():
    """The same problem twice: a mask over all rows of a matrix, and the matrix of the kept rows."""
    matrix = np.abs(normal(12, 12))
    mask = np.zeros(12)
    mask[KEPT] = 1
    return operators.Mask(mask) @ operators.Matrix(matrix, SHAPE), operators.Matrix(matrix[KEPT], SHAPE)


def factor():
    return normal(12, 12, seed=5) + 3 * np.eye(12)


def marginal():
    covariance = (factor() @ factor().T)[np.ix_(KEPT, KEPT)]
    return np.linalg.cholesky(covariance)


# Noise on all entries, and its marginal on the kept ones.
PAIRS = {
    "Gaussian": lambda: (noise.Gaussian(0.7), noise.Gaussian(0.7)),
    "Gaussian per entry": lambda: (noise.Gaussian(np.arange(1.0, 13)), noise.Gaussian(np.arange(1.0, 13)[KEPT])),
    "CorrelatedGaussian": lambda: (noise.CorrelatedGaussian(factor()), noise.CorrelatedGaussian(marginal())),
    "Poisson": lambda: (noise.Poisson(3.0), noise.Poisson(3.0)),
    "TransmissionPoisson": lambda: (noise.TransmissionPoisson(90.0), noise.TransmissionPoisson(90.0)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_mask_equals_the_matrix_of_the_kept_rows(name):
    with jax.enable_x64(True):
        (masked, rows), (all_noise, some_noise) = masked_and_rows(), PAIRS[name]()
        x, y = np.abs(normal(*SHAPE, seed=1)) / 4, np.round(10 * np.abs(normal(12, seed=2)))
        value, gradient = value_and_gradient(x, Likelihood(masked, all_noise), y)
        expected, slope = value_and_gradient(x, Likelihood(rows, some_noise), y[KEPT])
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-9 * np.abs(slope).max())
        # Whatever stands where nothing was measured does not matter, to value and gradient.
        for junk in (np.nan, np.inf, 1e30):
            spoilt = np.where(np.isin(np.arange(12), KEPT), y, junk)
            again, slope = value_and_gradient(x, Likelihood(masked, all_noise), spoilt)
            np.testing.assert_allclose(again, value, rtol=1e-12)
            np.testing.assert_allclose(slope, gradient, rtol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_simulate_is_zero_where_nothing_is_measured(name, key):
    (masked, _), (model, _) = masked_and_rows(), PAIRS[name]()
    y = simulate(Likelihood(masked, model), np.full(SHAPE, 0.2, np.float32), key)
    assert y.shape == (12,)
    hidden = np.setdiff1d(np.arange(12), KEPT)
    np.testing.assert_array_equal(y[hidden], 0)
    assert np.abs(np.asarray(y)[KEPT]).max() > 0


def test_a_weight_is_measured_as_one_is():
    # Weights scale the operator, not the evidence: an entry with weight 1/2 counts once.
    weights = np.array([0.0, 0.5, 2.0])
    x, y = jnp.ones(3), jnp.array([9.0, 1.0, 1.0])
    value = Likelihood(operators.Mask(weights), noise.Gaussian(1.0)).negative_log_likelihood(x, y)
    np.testing.assert_allclose(value, 0.5 * (0.5**2 + 1) + np.log(2 * np.pi), rtol=1e-6)


def test_a_stack_is_the_sum_of_its_likelihoods(key):
    coarse, fine = operators.Downsample((4, 4, 1), 2), operators.Mask(normal(4, 4, 1) > 0)
    both = Likelihood(operators.stack([coarse, fine]), noise.Gaussian((0.1, 0.2)))
    x = normal(4, 4, 1, seed=1).astype(np.float32)
    y = simulate(both, x, key)
    parts = [Likelihood(coarse, noise.Gaussian(0.1)), Likelihood(fine, noise.Gaussian(0.2))]
    expected = sum(nll(part, x, leaf) for part, leaf in zip(parts, y, strict=True))
    np.testing.assert_allclose(nll(both, x, y), expected, rtol=1e-5)
    np.testing.assert_array_equal(np.where(np.asarray(fine.mask) > 0, 0, y[1]), 0)


def test_vmap_over_images_keys_operators_and_noise_equals_a_loop(key):
    masks, stds = jnp.asarray(normal(3, *SHAPE) > 0, float), jnp.array([0.1, 0.5, 2.0])
    images, keys = jnp.asarray(normal(3, *SHAPE, seed=1), float), jax.random.split(key, 3)

    def problem(mask, std, x, k):
        likelihood = Likelihood(operators.Mask(mask), noise.Gaussian(std))
        y = likelihood.simulate(x, key=k)
        return y, likelihood.negative_log_likelihood(x, y)

    together = jax.jit(jax.vmap(problem))(masks, stds, images, keys)
    built = jax.vmap(lambda m, s: Likelihood(operators.Mask(m), noise.Gaussian(s)))(masks, stds)
    again = jax.vmap(simulate)(built, images, keys)
    for i in range(3):
        y, value = jax.jit(problem)(masks[i], stds[i], images[i], keys[i])
        np.testing.assert_allclose(together[0][i], y, rtol=1e-6)
        np.testing.assert_allclose(again[i], y, rtol=1e-6)
        np.testing.assert_allclose(together[1][i], value, rtol=1e-5)


def test_one_trace_for_new_data_masks_and_noise_levels(key):
    traces = []

    @jax.jit
    def value(likelihood, x, y):
        traces.append(1)
        return likelihood.negative_log_likelihood(x, y)

    for std, mask in ((0.1, np.ones(SHAPE)), (3.0, np.zeros(SHAPE))):
        value(Likelihood(operators.Mask(mask), noise.Gaussian(std)), jnp.ones(SHAPE), jnp.ones(SHAPE))
    assert len(traces) == 1


def test_a_likelihood_of_magnitudes(key):
    operator = operators.Magnitude(operators.MaskedFourier(jnp.ones(SHAPE)))
    likelihood = Likelihood(operator, noise.Gaussian(0.1))
    x = (normal(*SHAPE) + 1j * normal(*SHAPE, seed=1)).astype(np.complex64)
    y = simulate(likelihood, x, key)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(nll(likelihood, x * np.complex64(np.exp(0.7j)), y), nll(likelihood, x, y), rtol=1e-4)


def test_counts_may_be_integers(key):
    # A detector file holds integers; they are measurements, not 8-bit images.
    likelihood = Likelihood(operators.Identity((4, 4, 1)), noise.Poisson(10.0))
    counts = np.asarray(simulate(likelihood, np.ones((4, 4, 1), np.float32), key))
    x = np.full((4, 4, 1), 0.9, np.float32)
    np.testing.assert_array_equal(nll(likelihood, x, counts.astype(int)), nll(likelihood, x, counts))
