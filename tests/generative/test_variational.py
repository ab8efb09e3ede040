"""The variational posterior of a latent against the closed form of its optimum, and the check of the range."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from verbs import SHAPE, SIZE, codes, rng_of, tanh_prior

from jaxinv import Likelihood, generative, noise, operators, oracles

KEY = jax.random.key(0)
RNG = rng_of(0)
FACTOR = RNG.normal(size=(SIZE, 3))
MEAN = RNG.normal(size=SHAPE)
MATRIX = RNG.normal(size=(20, SIZE)) / SIZE**0.5
STD = 0.5
PRIOR = oracles.Gaussian.from_factor(jnp.asarray(MEAN, jnp.float32), jnp.asarray(FACTOR, jnp.float32)).as_latent()
LIKELIHOOD = Likelihood(operators.Matrix(jnp.asarray(MATRIX, jnp.float32), SHAPE), noise.Gaussian(STD))
Y = jnp.asarray(MATRIX @ (MEAN.ravel() + FACTOR @ RNG.normal(size=3)) + STD * RNG.normal(size=20), jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("family", [generative.MeanFieldGaussian(), generative.MeanFieldUniform()], ids=type)
def test_optimum_of_a_gaussian_posterior(family):
    solution = generative.variational_posterior(
        LIKELIHOOD, PRIOR, Y, key=KEY, num_samples=4000, family=family, num_steps=1500
    ).check()
    design = MATRIX @ FACTOR
    precision = np.eye(3) + design.T @ design / STD**2
    mean = np.linalg.solve(precision, design.T @ (np.asarray(Y) - MATRIX @ MEAN.ravel()) / STD**2)
    # Of independent variables: narrower than the marginals of the posterior.
    std = np.diag(precision) ** -0.5
    assert np.any(std < 0.95 * np.diag(np.linalg.inv(precision)) ** 0.5)
    # The gradient's noise, of eight draws, has shrunk with the step size.
    np.testing.assert_allclose(solution.aux["mean"], mean, atol=0.06 * std.max())
    np.testing.assert_allclose(solution.aux["std"], std, rtol=0.03)
    # Standard errors of 4000 draws, and three percent of the deviation.
    draws = np.asarray(solution.aux["latents"])
    np.testing.assert_allclose(draws.std(0) / std, 1, atol=0.03 + 4 / 8000**0.5)
    images = MEAN.ravel()[None] + draws @ FACTOR.T
    np.testing.assert_allclose(solution.value.reshape(4000, -1), images, rtol=1e-4, atol=1e-4)
    # log p(y) less the divergence of q, which is known for the Gaussian; the energy lacks its constant.
    covariance = design @ design.T + STD**2 * np.eye(20)
    residual = np.asarray(Y) - MATRIX @ MEAN.ravel()
    logs = np.linalg.slogdet(covariance)[1] + residual @ np.linalg.solve(covariance, residual)
    evidence = -0.5 * (logs + 20 * np.log(2 * np.pi))
    divergence = 0.5 * (np.sum(np.log(np.diag(precision))) - np.linalg.slogdet(precision)[1])
    bound = evidence - divergence + 1.5 * np.log(2 * np.pi)
    bound += 3 * (family.entropy - generative.MeanFieldGaussian().entropy)
    assert abs(solution.stats["elbo"] - bound) < 4 * solution.stats["elbo_error"] + 0.01


@pytest.mark.slow
def test_batches_codes_and_optimisers():
    prior = tanh_prior(0, jnp.float32)
    likelihood = Likelihood(operators.Identity(SHAPE), noise.Gaussian(0.3))
    call = lambda y, weight: generative.variational_posterior(
        likelihood, prior, y, key=KEY, num_samples=5, num_steps=50, restarts=2, weight=weight
    )
    y = likelihood.simulate(prior.decode(jnp.ones(3)), key=KEY)
    ys = jnp.stack([y, y + 0.1, y.at[0].set(jnp.nan), y])
    weights = jnp.array([1.0, 2.0, 1.0, -1.0])
    many = jax.jit(jax.vmap(call))(ys, weights)
    assert list(codes(many.result)) == ["successful", "successful", "nonfinite_measurement", "invalid_parameter"]
    assert np.all(many.value[2:] == 0)
    for i in range(2):
        np.testing.assert_allclose(many.value[i], call(ys[i], weights[i]).value, rtol=1e-4, atol=1e-4)
    more = generative.variational_posterior(likelihood, prior, y, key=KEY, num_samples=9, num_steps=50, restarts=2)
    # The restart is chosen by more draws; its draws are the same.
    np.testing.assert_allclose(more.aux["latents"][:5], many.aux["latents"][0], rtol=1e-3, atol=1e-3)
    other = generative.variational_posterior(
        likelihood, prior, y, key=KEY, num_samples=5, num_steps=300, restarts=2, optimiser=optax.adamw(0.02)
    )
    assert other.stats["elbo"] > many.stats["elbo"][0] - 3


@pytest.mark.slow
def test_range():
    check = jax.jit(jax.vmap(lambda y: generative.check_range(LIKELIHOOD, PRIOR, y, key=KEY, restarts=1)))
    truths = jax.vmap(lambda key: LIKELIHOOD.simulate(PRIOR.decode(jax.random.normal(key, (3,))), key=key))
    inside = truths(jax.random.split(KEY, 40))
    away = 4 * STD * jnp.asarray(RNG.choice([-1, 1], size=(1, 20)), jnp.float32)
    found = check(jnp.concatenate([inside, inside + away, jnp.full((1, 20), jnp.nan)]))
    # The fit of three latents makes the misfit smaller: less than one in a hundred fails.
    assert np.sum(found.passed[:40]) >= 38
    assert not np.any(found.passed[40:])
    one = generative.check_range(LIKELIHOOD, PRIOR, inside[0] + away[0], key=KEY, restarts=1)
    assert "no image of the range explains y" in str(one)
    # The misfit is that of least squares.
    design = MATRIX @ FACTOR
    residual = np.asarray(inside[0] + away[0]) - MATRIX @ MEAN.ravel()
    left = residual - design @ np.linalg.lstsq(design, residual)[0]
    expected = np.sum(left**2) / (2 * STD**2) + 20 * np.log(STD * (2 * np.pi) ** 0.5)
    np.testing.assert_allclose(one.misfit, expected, rtol=1e-3)


def test_bad_input():
    call = lambda **options: generative.variational_posterior(LIKELIHOOD, PRIOR, Y, key=KEY, **options)
    with pytest.raises(ValueError, match="`num_draws`"):
        call(num_draws=0)
    with pytest.raises(ValueError, match=r"`family` must be.*MeanFieldGaussian"):
        call(family="uniform")
    with pytest.raises(ValueError, match="optax"):
        call(optimiser=0.1)
