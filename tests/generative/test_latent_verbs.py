import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from verbs import SHAPE, SIZE, codes, rng_of, tanh_prior

from jaxinv import Implicit, oracles
from jaxinv.generative import Linear, Spherical, encode, interpolate, project, sample

RNG = rng_of(0)
FACTOR = RNG.normal(size=(SIZE, 3))
MEAN = RNG.normal(size=SHAPE)
KEY = jax.random.key(0)
LBFGS = optax.lbfgs()


def linear(dtype=np.float32):
    return oracles.Gaussian.from_factor(MEAN.astype(dtype), FACTOR.astype(dtype)).as_latent()


def test_the_nearest_point_of_a_linear_range():
    x = RNG.normal(size=SHAPE).astype(np.float32)
    solution = project(linear(), x, key=KEY, max_steps=2000, rtol=1e-6)
    z = np.linalg.lstsq(FACTOR, (x - MEAN).ravel())[0]
    nearest = MEAN + (FACTOR @ z).reshape(SHAPE)
    np.testing.assert_allclose(solution.value, nearest, atol=1e-3)
    np.testing.assert_allclose(solution.stats["distance"], np.linalg.norm(x - nearest), rtol=1e-5)


@pytest.mark.slow
def test_encode_inverts():
    with jax.enable_x64(True):
        prior = tanh_prior(0, jnp.float64)
        z = jnp.array([0.3, -0.5, 0.2])
        options = {"key": KEY, "optimiser": LBFGS, "max_steps": 200, "rtol": 1e-10}
        solution = encode(prior, prior.decode(z), restarts=2, **options)
        np.testing.assert_allclose(solution.value, z, atol=1e-6)
        np.testing.assert_allclose(solution.aux["image"], prior.decode(z), atol=1e-6)
        # 1/2 |G z - x|^2 + weight/2 |z|^2.
        flat = linear(np.float64)
        x = jnp.asarray(RNG.normal(size=SHAPE))
        ridge = np.linalg.solve(FACTOR.T @ FACTOR + 2.5 * np.eye(3), FACTOR.T @ np.asarray(x - MEAN).ravel())
        solution = encode(flat, x, weight=2.5, **options)
        np.testing.assert_allclose(solution.value, ridge, atol=1e-6)
        # The image says in what precision.
        single = jax.eval_shape(lambda x: encode(flat, x, key=KEY).value, jax.ShapeDtypeStruct(SHAPE, jnp.float32))
        assert single.dtype == jnp.float32
        implicit = Implicit()
        gradient = jax.grad(lambda x: project(flat, x, differentiate=implicit, **options).value.sum())(x)
        onto = FACTOR @ np.linalg.pinv(FACTOR)
        np.testing.assert_allclose(gradient.ravel(), onto.T @ np.ones(SIZE), atol=1e-6)


def test_project_refuses_and_flags():
    with pytest.raises(
        ValueError, match=r"`x` must be one real image of shape \(6, 5, 1\); got \(2, 6, 5, 1\).*jax.vmap"
    ):
        project(linear(), np.zeros((2, *SHAPE)), key=KEY)
    with pytest.raises(ValueError, match=r"`prior` must be a generative prior.*got str"):
        encode("prior", np.zeros(SHAPE), key=KEY)
    solution = project(linear(), np.full(SHAPE, np.nan, np.float32), key=KEY, max_steps=2)
    assert str(codes(solution.result)) == "nonfinite_measurement"


def test_paths():
    z0, z1 = jnp.array([2.0, 0.0, 0.0]), jnp.array([0.0, 2.0, 0.0])
    images = np.asarray(interpolate(linear(), z0, z1, 5))
    assert images.shape == (5, *SHAPE)
    # A linear generator takes lines to lines.
    line = np.linspace(0, 1, 5)[:, None, None, None]
    np.testing.assert_allclose(images, (1 - line) * images[0] + line * images[4], atol=1e-5)
    np.testing.assert_allclose(images[0], linear().decode(z0), rtol=1e-6)
    arc = jax.jit(jax.vmap(Spherical(), (None, None, 0)))(z0, z1, jnp.linspace(0, 1, 7))
    angles = np.linspace(0, np.pi / 2, 7)
    np.testing.assert_allclose(arc[:, :2], 2 * np.stack([np.cos(angles), np.sin(angles)], 1), atol=1e-6)
    np.testing.assert_allclose(
        interpolate(linear(), z0, z1, 7, kind=Spherical())[3], linear().decode(arc[3]), atol=1e-5
    )
    # Where there is no arc, the line; and everywhere finite gradients.
    others = jnp.stack([z0, -z0, jnp.zeros(3)])
    straight = [Linear()(z0, other, 0.25) for other in others]
    bent, slopes = jax.jit(jax.vmap(lambda z: (Spherical()(z0, z, 0.25), jax.jacobian(Spherical(), 1)(z0, z, 0.25))))(
        others
    )
    np.testing.assert_allclose(bent, straight, atol=1e-6)
    assert np.isfinite(slopes).all()


def test_samples():
    few, many = (sample(linear(), n, key=KEY) for n in (2, 5))
    np.testing.assert_array_equal(few, many[:2])
    expected = linear().decode(linear().sample_latent(key=jax.random.fold_in(KEY, 3)))
    np.testing.assert_allclose(many[3], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: interpolate(linear(), jnp.ones(3), jnp.ones(2), 5),
            r"`z1` must be one latent of shape \(3,\); got \(2,\)",
        ),
        (
            lambda: interpolate(linear(), jnp.ones(3), jnp.ones(3), 1),
            "`num` must be a static integer of at least 2; got 1",
        ),
        (lambda: interpolate(linear(), jnp.ones(3), jnp.ones(3), 5, kind="linear"), r"`Linear\(\)` or `Spherical\(\)`"),
        (lambda: sample(linear(), 0, key=KEY), "`n` must be a static integer of at least 1; got 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
