import jax
import jax.numpy as jnp
import numpy as np
import pytest
from verbs import SHAPE, SIZE, codes, rng_of

from jaxinv import Likelihood, noise, operators, oracles, regularisers
from jaxinv.generative import (
    Alternating,
    Relaxed,
    Soft,
    choose_weight,
    deviation_weight,
    reconstruct,
    residual_gaussian,
)

RNG = rng_of(0)
FACTOR = RNG.normal(size=(SIZE, 4)).astype(np.float32)
KEY = jax.random.key(0)
STD = 0.3
OPTIONS = {"optimiser": Alternating(), "max_steps": 300, "rtol": 1e-5}
WEIGHTS = jnp.geomspace(0.01, 1e4, 13)


def problem():
    prior = oracles.Gaussian.from_factor(np.zeros(SHAPE, np.float32), FACTOR).as_latent()
    likelihood = Likelihood(operators.Mask(jnp.asarray(RNG.uniform(size=SHAPE) < 0.8)), noise.Gaussian(STD))
    y = likelihood.simulate(prior.decode(jnp.array([1.0, -2.0, 0.5, 1.0])), key=KEY)
    return likelihood, prior, y


def test_the_largest_weight_that_fits():
    likelihood, prior, y = problem()
    solution = choose_weight(likelihood, prior, y, key=KEY, weights=WEIGHTS, factor=1.2, **OPTIONS).check()
    measured = np.asarray(likelihood.operator.measured) > 0
    images = np.asarray(solution.aux["grid"].value)
    discrepancies = np.sum((images - np.asarray(y)[None])[:, measured] ** 2, axis=1) / STD**2 / measured.sum()
    np.testing.assert_allclose(solution.stats["discrepancies"], discrepancies, rtol=1e-4)
    # The misfit grows with the weight, so the choice is the last that is below the level.
    assert (np.diff(discrepancies) > -1e-3).all()
    index = np.flatnonzero(discrepancies <= 1.2**2)[-1]
    assert 0 < index < len(WEIGHTS) - 1
    np.testing.assert_array_equal(solution.stats["weight"], WEIGHTS[index])
    np.testing.assert_array_equal(solution.value, images[index])
    assert bool(solution.stats["fits"])
    # The noise level bounds it from below as well: no weight fits what is well below the noise.
    none = choose_weight(likelihood, prior, y, key=KEY, weights=WEIGHTS, factor=0.1, **OPTIONS)
    assert not bool(none.stats["fits"])
    np.testing.assert_array_equal(none.value, images[np.argmin(discrepancies)])


@pytest.mark.slow
@pytest.mark.parametrize("method", [Relaxed(regularisers.L1(), 5.0), Soft(weight=2.0)], ids=["relaxed", "soft"])
def test_the_weight_of_the_method_is_scaled_along(method):
    likelihood, prior, y = problem()
    solution = choose_weight(likelihood, prior, y, key=KEY, weights=WEIGHTS[3:7], method=method, **OPTIONS)
    weight = float(WEIGHTS[5])
    alone = reconstruct(
        likelihood,
        prior,
        y,
        key=KEY,
        method=type(method)(method.deviation, weight * method.weight),
        weight=weight,
        **OPTIONS,
    )
    np.testing.assert_allclose(solution.aux["grid"].value[2], alone.value, atol=1e-3)


@pytest.mark.slow
def test_codes_and_photons():
    likelihood, prior, y = problem()
    solve = lambda weights, factor: choose_weight(
        likelihood, prior, y, key=KEY, weights=weights, factor=factor, max_steps=3, rtol=0.0
    )
    # A weight that is out of range is not chosen, and does not harm the others.
    solution = solve(jnp.array([jnp.nan, 1.0, -1.0]), 100.0)
    assert str(codes(solution.result)) == "max_steps_reached"
    assert float(solution.stats["weight"]) == 1.0
    assert str(codes(solve(jnp.array([-1.0, -2.0]), 1.0).result)) == "invalid_parameter"
    photons = Likelihood(operators.Identity(SHAPE), noise.TransmissionPoisson(1e4))
    absorbing = oracles.Gaussian.from_factor(np.ones(SHAPE, np.float32), 0.1 * FACTOR).as_latent()
    counts = photons.simulate(absorbing.decode(jnp.ones(4)), key=KEY)
    solution = choose_weight(photons, absorbing, counts, key=KEY, weights=WEIGHTS, factor=1.3, **OPTIONS)
    # One in units of the noise, by its Gaussian approximation.
    assert 0.5 < float(solution.stats["discrepancies"][0]) < 1.5


def test_weights_are_a_list():
    likelihood, prior, y = problem()
    for weights in (1.0, jnp.ones((2, 2)), jnp.arange(3), jnp.zeros(0)):
        with pytest.raises(ValueError, match=r"`weights` must be real numbers in one array of shape \(n,\)"):
            choose_weight(likelihood, prior, y, key=KEY, weights=weights)


def test_residual_gaussian():
    _, prior, _ = problem()
    rng = rng_of(3)
    mixing = rng.normal(size=(SIZE, SIZE)).astype(np.float32)
    images = (rng.normal(size=(200, SIZE)).astype(np.float32) @ mixing + 1).reshape(-1, *SHAPE)
    flat = images.reshape(200, -1)
    # The encoder of a linear generator projects.
    residuals = flat - flat @ (FACTOR @ np.linalg.pinv(FACTOR)).T
    full = residual_gaussian(prior, images, rank=SIZE)
    np.testing.assert_allclose(full.mean.ravel(), residuals.mean(0), atol=1e-4)
    np.testing.assert_allclose(full.covariance, np.cov(residuals.T), atol=1e-4 * np.cov(residuals.T).max())
    few = residual_gaussian(prior, images, rank=3)
    # What is left is on the diagonal: the variances stay, and with them the trace.
    np.testing.assert_allclose(few.variance.ravel(), residuals.var(0, ddof=1), rtol=1e-4)
    assert few.factor.shape == (SIZE, 3)
    top = np.linalg.svd(residuals - residuals.mean(0))[2][:3]
    np.testing.assert_allclose(
        np.abs(np.linalg.svd(few.factor.T @ top.T)[1] / np.linalg.norm(few.factor, axis=0)), 1, rtol=1e-3
    )
    latents = flat @ np.linalg.pinv(FACTOR).T
    given = residual_gaussian(prior, images, rank=3, latents=latents)
    np.testing.assert_allclose(given.variance, few.variance, rtol=1e-3)


def test_the_weight_of_a_deviation():
    _, prior, _ = problem()
    images = rng_of(3).normal(size=(20, *SHAPE)).astype(np.float32)
    latents = rng_of(4).normal(size=(20, 4)).astype(np.float32)
    missed = images.reshape(20, -1) - latents @ FACTOR.T
    # The estimates of the largest likelihood of a Gaussian and of a Laplacian; and Stein's identity.
    for deviation, size in (
        (regularisers.Tikhonov(), np.mean(missed**2)),
        (2 * regularisers.L1(), 2 * np.mean(np.abs(missed))),
        (regularisers.Huber(0.7), np.mean(np.minimum(missed**2, 0.7 * np.abs(missed)))),
    ):
        weight = deviation_weight(prior, images, deviation, latents=latents)
        np.testing.assert_allclose(weight, 1 / size, rtol=1e-4)
    nothing = np.zeros((2, *SHAPE), np.float32)
    assert np.isnan(deviation_weight(prior, nothing, latents=np.zeros((2, 4), np.float32)))
    with pytest.raises(ValueError, match="one of `jaxinv.regularisers`; got 'l1'"):
        deviation_weight(prior, images, "l1")
    with pytest.raises(ValueError, match="at least two images"):
        deviation_weight(prior, images[:1])


@pytest.mark.parametrize(
    ("images", "rank", "message"),
    [
        (np.zeros((5, 3, 3, 1)), 2, r"\(n, 6, 5, 1\); got \(5, 3, 3, 1\)"),
        (np.zeros((1, *SHAPE)), 1, "at least two images"),
        (np.zeros((5, *SHAPE)), 5, "integer from 1 to 4, for 5 images of 30 pixels; got 5"),
        (np.full((5, *SHAPE), np.nan), 2, "image 0 is not"),
    ],
)
def test_residual_gaussian_refuses(images, rank, message):
    with pytest.raises(ValueError, match=message):
        residual_gaussian(problem()[1], images, rank=rank)
