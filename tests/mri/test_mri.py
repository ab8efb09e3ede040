"""Coil maps of simulated coils, the noise of coils, and complex images under real priors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import Likelihood, data, diffusion, mri, noise, operators, oracles

SIZE, COILS = 48, 6


@pytest.fixture(scope="module")
def scan():
    """A phantom with a phase, smooth maps of unit sum of squares, and its whole k-space."""
    row, column = np.meshgrid(np.linspace(-1, 1, SIZE), np.linspace(-1, 1, SIZE), indexing="ij")
    turn = 2 * np.pi * np.arange(COILS) / COILS
    maps = np.stack(
        [np.exp(-0.7 * ((row - np.cos(a)) ** 2 + (column - np.sin(a)) ** 2) + 1j * (a + 0.5 * row)) for a in turn]
    )
    maps = (maps / np.sqrt(np.sum(np.abs(maps) ** 2, axis=0)))[..., None].astype(np.complex64)
    image = np.asarray(data.shepp_logan(SIZE)) * np.exp(0.3j * column)[..., None]
    kspace = operators.MultiCoilFourier(jnp.ones((SIZE, SIZE, 1)), maps)(jnp.asarray(image, jnp.complex64))
    return jnp.asarray(image), jnp.asarray(maps), kspace


def angles(found, true, inside):
    """The sine of the angle between maps and true maps, at the pixels of the object."""
    product = jnp.abs(jnp.sum(jnp.conj(found) * true, axis=0)) / jnp.sqrt(jnp.sum(jnp.abs(found) ** 2, axis=0))
    return jnp.sqrt(jnp.maximum(1 - product**2, 0))[inside]


@pytest.mark.parametrize(
    ("method", "largest"), [(mri.ESPIRiT(calibration=20, kernel=5), 0.01), (mri.LowResolution(calibration=20), 0.1)]
)
def test_maps_of_simulated_coils(scan, method, largest):
    image, true, kspace = scan
    found = mri.coil_maps(kspace, method=method)
    # The skull, whose edge is sharp, has the low resolution's worst pixels.
    inside = jnp.abs(image) > 0.1
    error = angles(found, true, inside)
    assert float(jnp.median(error)) < largest
    np.testing.assert_allclose(jnp.sum(jnp.abs(found) ** 2, axis=0)[inside], 1, atol=1e-5)
    if isinstance(method, mri.ESPIRiT):
        assert float(jnp.max(error)) < 5 * largest
        assert float(jnp.max(jnp.abs(found[0].imag))) < 1e-5


def test_whitened_noise_is_white():
    mixing = np.random.default_rng(0).normal(size=(3, 3)) + 1j * np.random.default_rng(1).normal(size=(3, 3))
    white = jax.random.normal(jax.random.key(0), (2, 3, 64, 64, 1))
    noisy = jnp.einsum("kl,lhwc->khwc", jnp.asarray(mixing, jnp.complex64), white[0] + 1j * white[1])
    covariance = mri.noise_covariance(noisy, outside=0.0)
    # 4096 draws: a standard error of 1.6 %.
    np.testing.assert_allclose(
        covariance, 2 * mixing @ mixing.conj().T, atol=0.08 * np.abs(mixing @ mixing.conj().T).max()
    )
    whitened = mri.prewhiten(noisy, covariance)
    np.testing.assert_allclose(mri.noise_covariance(whitened, outside=0.0), 2 * np.eye(3), atol=1e-4)
    assert abs(float(jnp.std(whitened.real)) - 1) < 0.05


def test_fewer_coils_keep_the_signal(scan):
    _, _, kspace = scan
    few, matrix = mri.compress_coils(kspace, 4)
    np.testing.assert_allclose(matrix @ jnp.conj(matrix.T), np.eye(4), atol=1e-5)
    singular = np.linalg.svd(np.asarray(kspace).reshape(COILS, -1), compute_uv=False)
    np.testing.assert_allclose(jnp.sum(jnp.abs(few) ** 2), np.sum(singular[:4] ** 2), rtol=1e-4)


@pytest.mark.slow
def test_a_complex_posterior_under_a_real_prior():
    # A linear-Gaussian problem, whose posterior is known.
    mask = (np.random.default_rng(0).uniform(size=(4, 4, 1)) < 0.6).astype(np.float32)
    operator = operators.MaskedFourier(mask) @ operators.RealAndImaginary((4, 4, 1))
    likelihood = Likelihood(operator, noise.Gaussian(0.3))
    factor = np.random.default_rng(1).normal(size=(32, 40)) / 6
    prior = oracles.Gaussian(jnp.zeros((4, 4, 2)), jnp.asarray(factor @ factor.T, jnp.float32))
    y = likelihood.simulate(prior.sample(1, key=jax.random.key(0))[0], key=jax.random.key(1))
    exact = prior.posterior(likelihood, y)
    for method in (diffusion.MomentMatching(50), diffusion.DPS(4)):
        solution = diffusion.posterior_sample(
            likelihood, prior.score(diffusion.VP()), y, key=jax.random.key(2), method=method, num_samples=200
        )
        assert solution.check().value.shape == (200, 4, 4, 2)
        if isinstance(method, diffusion.MomentMatching):
            deviation = jnp.sqrt(jnp.diagonal(exact.covariance)).reshape(4, 4, 2)
            z = (jnp.mean(solution.value, axis=0) - exact.mean) / (deviation / 200**0.5)
            # Thirty-two means of 200 samples, and the bias of fifty steps.
            assert float(jnp.max(jnp.abs(z))) < 5


def test_what_is_no_number_is_nan():
    kspace = jax.random.normal(jax.random.key(0), (2, 12, 12, 1)) + 0j
    method = mri.LowResolution(calibration=4)
    maps = jax.jit(lambda kspace: mri.coil_maps(kspace, method=method))
    assert np.isfinite(maps(kspace)).all()
    assert np.isnan(maps(kspace.at[0, 6, 6, 0].set(jnp.nan))).all()
    assert np.isnan(mri.noise_covariance(jnp.zeros_like(kspace))).all()
    assert np.isfinite(mri.prewhiten(kspace, jnp.array([[1.0, 0.5], [0.5, 1.0]]))).all()
    assert np.isnan(mri.prewhiten(kspace, jnp.array([[1.0, 0.5], [0.0, 1.0]]))).all()


def test_bad_input(scan):
    _, _, kspace = scan
    for wrong, message in (
        (kspace[..., 0], "Add the channel axis"),
        (kspace.real, "takes complex k-space"),
        (kspace.at[0, 0, 0, 0].set(jnp.nan), "not finite"),
        (kspace[:, :10, :10], "`calibration` is 24, more than k-space has"),
    ):
        with pytest.raises(ValueError, match=message):
            mri.coil_maps(wrong)
    with pytest.raises(ValueError, match=r"must have shape \(6, 6\)"):
        mri.prewhiten(kspace, jnp.eye(3))
    with pytest.raises(ValueError, match="`num_coils` is 9, of 6 coils"):
        mri.compress_coils(kspace, 9)
    with pytest.raises(ValueError, match="`kernel` 9 must be at most"):
        mri.ESPIRiT(calibration=8, kernel=9)
