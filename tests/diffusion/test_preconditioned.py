import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import diffusion, oracles
from jaxinv.diffusion import Preconditioned

PROCESSES = [diffusion.VP(), diffusion.SubVP(), diffusion.VE(), diffusion.FlowMatching()]
SHAPE = (2, 3, 1)


def _factors():
    return jax.random.normal(jax.random.key(5), (9, 4)), jax.random.normal(jax.random.key(6), (4, *SHAPE))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_the_target_splits_into_image_and_noise(process, whole):
    with jax.enable_x64(True):
        process = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), process)
        image, noise = jax.random.normal(jax.random.key(0), (2, *SHAPE))
        parametrisation = Preconditioned(0.3, jnp.linspace(0.2, 2, 3)[:, None])
        if whole:
            # The images span 4 of 6 dimensions, and the image must lie there, so take one of them.
            images = jnp.einsum("nr,rhwc->nhwc", *_factors())
            parametrisation, image = Preconditioned.from_samples(images), images[0]

        @jax.jit
        def both(t):
            scale, std = process.marginal(t)
            output = parametrisation.target(process, t, image, noise)
            return parametrisation.split(process, t, scale * image + std * noise, output)

        for t in (0.01, 0.5, 0.95):
            for found, expected in zip(both(t), (image, noise), strict=True):
                # float64; the variance-exploding process divides an image by its std of 50.
                np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("process", PROCESSES[::3], ids=lambda p: type(p).__name__)
def test_nothing_is_the_gaussian_and_everything_of_order_one(process):
    mean, std = 0.4 * jnp.ones(SHAPE), jnp.array([0.5, 1.0, 2.0])[None, :, None] * jnp.ones(SHAPE)
    parametrisation = Preconditioned(mean, std)
    x, t = jax.random.normal(jax.random.key(0), SHAPE), 0.3
    exact = oracles.Gaussian(mean, jnp.diag(jnp.ravel(std) ** 2)).denoiser(process)(t, x)
    zero = jax.jit(lambda t, x: parametrisation.split(process, t, x, jnp.zeros_like(x)))(t, x)[0]
    np.testing.assert_allclose(zero, exact, rtol=1e-5, atol=1e-5)  # float32, order 1
    images, noise = (jax.random.normal(key, (4000, *SHAPE)) for key in jax.random.split(jax.random.key(1)))
    targets = jax.vmap(lambda i, n: parametrisation.target(process, t, mean + std * i, n))(images, noise)
    # The variance of 4000 draws has a standard error of .022.
    np.testing.assert_allclose(targets.var(0), 1, atol=0.1)


def test_float32_under_x64():
    with jax.enable_x64(True):
        x, process = jnp.ones(SHAPE, jnp.float32), jax.tree.map(lambda leaf: leaf.astype(jnp.float32), PROCESSES[0])
        parts = Preconditioned(np.float64(0.0), 1.0).split(process, jnp.float32(0.5), x, x)
        assert [part.dtype for part in parts] == [jnp.float32] * 2


@pytest.mark.parametrize("std", [0.0, -1.0, [1.0, float("nan")]])
def test_std_must_be_positive(std):
    with pytest.raises(ValueError, match="`std` must be finite and positive"):
        Preconditioned(0.0, std)


def test_from_samples_starts_from_the_gaussian_of_the_samples():
    process, images = PROCESSES[0], jnp.einsum("nr,rhwc->nhwc", *_factors()) + 0.5
    parametrisation, prior = Preconditioned.from_samples(images), oracles.Gaussian.from_samples(images)
    x, t = jax.random.normal(jax.random.key(0), SHAPE), 0.3
    image, noise = jax.jit(lambda t, x: parametrisation.split(process, t, x, jnp.zeros_like(x)))(t, x)
    np.testing.assert_allclose(image, prior.denoiser(process)(t, x), rtol=1e-4, atol=1e-4)  # float32, order 1
    scale, std = process.marginal(t)
    np.testing.assert_allclose(scale * image + std * noise, x, rtol=1e-4, atol=1e-4)
    # A unit of output is a standard deviation of what the Gaussian leaves open.
    shift = jax.jacobian(lambda output: parametrisation.split(process, t, x, output)[0])(jnp.zeros_like(x))
    root = -shift.reshape(x.size, x.size)
    np.testing.assert_allclose(root @ root.T, prior.denoiser(process).covariance(t, x), rtol=1e-3, atol=1e-4)
