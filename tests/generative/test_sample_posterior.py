import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from verbs import SHAPE, SIZE, codes, rng_of, square, tanh_prior

from jaxinv import Likelihood, noise, operators, oracles
from jaxinv.generative import FunctionPrior, sample_posterior
from jaxinv.generative._sample_posterior import effective_sample_size as plain_size, split_r_hat as plain_r_hat

effective_sample_size, split_r_hat = jax.jit(plain_size), jax.jit(plain_r_hat)
KEY = jax.random.key(0)
RNG = rng_of(0)
FACTOR = RNG.normal(size=(SIZE, 3))
MEAN = RNG.normal(size=SHAPE)
MATRIX = RNG.normal(size=(20, SIZE)) / SIZE**0.5
Y = RNG.normal(size=20)


def autoregressive(rho, chains, length, count, seed):
    """Draws whose effective sample size is known: length * chains * (1 - rho) / (1 + rho)."""
    noise = np.random.default_rng(seed).normal(size=(chains, length, count))
    draws = np.empty_like(noise)
    draws[:, 0] = noise[:, 0]
    for t in range(1, length):
        draws[:, t] = rho * draws[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return jnp.asarray(draws, jnp.float32)


@pytest.mark.parametrize("rho", [0.0, 0.8, -0.4])
def test_effective_sample_size_of_an_autoregression(rho):
    draws = autoregressive(rho, 4, 2000, 16, 1)
    expected = 8000 * (1 - rho) / (1 + rho)
    # The estimate scatters by 5 to 10 % for each of 16 variables.
    np.testing.assert_allclose(np.median(effective_sample_size(draws)), expected, rtol=0.1)


def test_diagnostics_see_chains_that_disagree():
    draws = autoregressive(0.0, 4, 2000, 16, 2)
    np.testing.assert_allclose(split_r_hat(draws), 1, atol=0.01)
    apart = draws.at[0, :, 1].add(3.0)
    r_hat, ess = split_r_hat(apart), effective_sample_size(apart)
    assert r_hat[1] > 1.3
    assert ess[1] < 50 < ess[0]
    still = jnp.zeros_like(draws)
    assert split_r_hat(still.at[1].set(1.0))[0] == jnp.inf
    np.testing.assert_array_equal(effective_sample_size(still), 0)


def linear(p):
    likelihood = Likelihood(operators.Matrix(p["matrix"], SHAPE), noise.Gaussian(p["std"]))
    prior = oracles.Gaussian.from_factor(p["mean"], p["factor"]).as_latent()
    return likelihood, prior


def parameters(dtype):
    p = {"matrix": MATRIX, "std": 0.5, "mean": MEAN, "factor": FACTOR, "y": Y, "weight": 1.0}
    return {name: jnp.asarray(value, dtype) for name, value in p.items()}


@pytest.mark.slow
def test_moments_of_a_linear_gaussian_posterior():
    p, weight = parameters(jnp.float32), 3.0
    solution = sample_posterior(
        *linear(p), p["y"], key=KEY, num_samples=8000, num_warmup=500, num_chains=8, weight=weight
    ).check()
    z = np.asarray(solution.aux["latents"], np.float64)
    assert solution.value.shape == (8000, *SHAPE)
    np.testing.assert_allclose(solution.value[7].ravel(), MEAN.ravel() + FACTOR @ z[7], atol=1e-4)
    design, b = MATRIX @ FACTOR / 0.5, (Y - MATRIX @ MEAN.ravel()) / 0.5
    covariance = np.linalg.inv(design.T @ design + weight * np.eye(3))
    mean = covariance @ design.T @ b
    ess = np.asarray(solution.stats["ess"])
    assert (ess > 2000).all()
    assert (np.asarray(solution.stats["r_hat"]) < 1.01).all()
    assert int(solution.stats["num_divergences"]) == 0
    assert np.all(np.abs(z.mean(0) - mean) < 4 * np.sqrt(np.diag(covariance) / ess))
    # The squares of NUTS draws mix less well than the draws, whose correlation is negative: their own sample size.
    products = (z - mean)[:, :, None] * (z - mean)[:, None, :]
    chains = jnp.asarray(products.reshape(1000, 8, 9).swapaxes(0, 1))
    error = np.sqrt(products.var(0) / np.asarray(effective_sample_size(chains)).reshape(3, 3))
    assert np.all(np.abs(products.mean(0) - covariance) < 4 * error)


@pytest.mark.slow
def test_more_draws_change_nothing_before_them_and_single_precision_stays():
    with jax.enable_x64(True):

        def draw(p, num_samples):
            options = {"num_samples": num_samples, "num_warmup": 40, "num_chains": 2}
            return sample_posterior(*linear(p), p["y"], key=KEY, weight=p["weight"], **options)

        few, many = (draw(parameters(jnp.float64), number) for number in (20, 40))
        np.testing.assert_allclose(few.value, many.value[:20], atol=1e-10)
        # A problem in single precision stays there.
        out = jax.eval_shape(lambda p: draw(p, 40), parameters(jnp.float32))
        assert out.value.dtype == out.stats["ess"].dtype == out.aux["latents"].dtype == jnp.float32


@pytest.mark.slow
def test_a_bimodal_and_an_impossible_posterior():
    # y = z^2 has two solutions: chains that sit in different ones are seen by R-hat.
    prior = FunctionPrior(lambda z: z**2, square, (1,))
    likelihood = Likelihood(operators.Identity((1,)), noise.Gaussian(0.05))
    solution = sample_posterior(likelihood, prior, jnp.full((1,), 4.0), key=KEY, num_samples=400, num_warmup=200)
    z = np.asarray(solution.aux["latents"])
    np.testing.assert_allclose(np.abs(z), 2, atol=0.1)
    assert (z > 0).any()
    assert (z < 0).any()
    assert solution.stats["r_hat"][0] > 1.1
    nowhere = FunctionPrior(lambda z: jnp.exp(1e4 * (1 + z**2)), square, (1,))
    solution = sample_posterior(likelihood, nowhere, jnp.zeros(1), key=KEY, num_samples=16, num_warmup=20)
    assert str(codes(solution.result)) == "nonfinite"
    np.testing.assert_array_equal(solution.value, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 10}, "10 draws do not come evenly from 4 chains"),
        ({"num_samples": 8}, "at least 4 of each"),
        ({"num_samples": 16, "num_warmup": 0}, "`num_warmup` must be a static integer of at least 1; got 0"),
        ({"num_samples": 16, "start": "prior"}, r"`start` must be FromPrior\(\)"),
    ],
)
def test_bad_input(options, message):
    likelihood = Likelihood(operators.Identity(SHAPE), noise.Gaussian(0.1))
    with pytest.raises(ValueError, match=message):
        sample_posterior(likelihood, tanh_prior(0, jnp.float32), jnp.zeros(SHAPE), key=KEY, **options)


def test_without_blackjax(monkeypatch):
    monkeypatch.setitem(sys.modules, "blackjax", None)
    likelihood = Likelihood(operators.Identity(SHAPE), noise.Gaussian(0.1))
    with pytest.raises(ImportError, match=r"pip install jaxinv\[mcmc\]"):
        sample_posterior(likelihood, tanh_prior(0, jnp.float32), jnp.zeros(SHAPE), key=KEY, num_samples=16)
