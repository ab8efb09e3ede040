"""Regularisers against their definitions, and by the check that is there for everybody's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import operators, oracles, regularisers, testing
from jaxinv.regularisers import TV, Anisotropic, Isotropic, Smoothed, image_gradient, image_gradient_adjoint
from jaxinv.testing import _splits as splits

SHAPE = (2, 3, 1)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def gaussian(singular=False):
    factor = normal(6, 6, seed=3)
    if singular:
        factor[:, 3:] = 0
    # Compiled whole, as operation by operation it takes a second to compile; but its rank must be known for its shape.
    make = oracles.Gaussian if singular else jax.jit(lambda mean, covariance: oracles.Gaussian(mean, covariance))
    return make(normal(*SHAPE, seed=4), factor @ factor.T)


PROXIMAL = {
    "L1": lambda: regularisers.L1(),
    "Tikhonov": lambda: regularisers.Tikhonov(),
    "Gaussian": lambda: regularisers.Gaussian(gaussian()),
    "3 L1": lambda: 3 * regularisers.L1(),
    "Huber": lambda: regularisers.Huber(0.8),
    "group L1": lambda: regularisers.GroupL1(1),
    "nuclear norm": lambda: regularisers.NuclearNorm(1),
}


def test_prox_of_a_singular_gaussian_is_the_limit():
    with jax.enable_x64(True):
        prior, x = gaussian(singular=True), normal(*SHAPE)
        covariance = np.asarray(prior.factor @ prior.factor.T)
        mean = np.asarray(prior.mean)
        for step in (0.1, 2.0):
            shrunk = covariance @ np.linalg.solve(covariance + step * np.eye(6), (x - mean).ravel())
            found = regularisers.Gaussian(prior).prox(jnp.asarray(x), step)
            np.testing.assert_allclose(found, mean + shrunk.reshape(SHAPE), atol=1e-10)
        at = mean + (covariance @ normal(6, seed=8)).reshape(SHAPE)
        expected = 0.5 * (at - mean).ravel() @ np.linalg.pinv(covariance) @ (at - mean).ravel()
        np.testing.assert_allclose(regularisers.Gaussian(prior)(jnp.asarray(at)), expected, rtol=1e-8)


def test_gaussian_is_the_negative_log_density_up_to_a_constant():
    with jax.enable_x64(True):
        prior = gaussian()
        x, w = jnp.asarray(normal(*SHAPE)), jnp.asarray(normal(*SHAPE, seed=1))
        regulariser = regularisers.Gaussian(prior)
        expected = prior.log_prob(w) - prior.log_prob(x)
        np.testing.assert_allclose(regulariser(x) - regulariser(w), expected, rtol=1e-8)


SMOOTH = {
    "Tikhonov blurred": lambda: regularisers.Tikhonov(operators.Convolution(normal(2, 2), SHAPE)),
    "Tikhonov of a stack": lambda: regularisers.Tikhonov(
        operators.stack([operators.Identity(SHAPE), operators.Convolution(normal(2, 2), SHAPE)])
    ),
    "TV isotropic": lambda: TV(),
    "TV anisotropic": lambda: TV(Anisotropic()),
    "TV smoothed": lambda: TV(Smoothed(0.1)),
    "Gaussian, singular": lambda: regularisers.Gaussian(gaussian(singular=True)),
    "undecimated Haar": lambda: regularisers.Wavelets(1, 1, True),
    "sum": lambda: 2 * regularisers.L1() + TV(Smoothed(0.3)) * 0.5,
}


# A height and width that its levels halve.
EVEN = {"Haar": lambda: regularisers.Wavelets(1, 1)}


def _checked():
    for name in [*PROXIMAL, *EVEN, *SMOOTH]:
        yield name, "float64"
        if not name.startswith("Gaussian"):  # a Gaussian prior is on real images
            yield pytest.param(name, "complex128", marks=[pytest.mark.slow] * (name not in ("L1", "TV isotropic")))
        yield pytest.param(name, "float32", marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "dtype"), list(_checked()))
def test_the_check_for_everybody(name, dtype, key):
    with jax.enable_x64(dtype != "float32"):
        shape = (2, 4, 1) if name in EVEN else SHAPE
        x = normal(*shape) + (1j * normal(*shape, seed=1) if dtype == "complex128" else 0)
        regulariser = (PROXIMAL | EVEN | SMOOTH)[name]()
        # The prox of a singular Gaussian is a limit, see below.
        prox = True if name in PROXIMAL | EVEN else False if name.startswith("Gaussian") else None
        testing.check_regulariser(regulariser, x.astype(dtype), key=key, prox=prox)


CONSTRAINTS = {
    "NonNegative": lambda: regularisers.NonNegative(),
    "Box": lambda: regularisers.Box(-0.5, np.linspace(0, 1, 6).reshape(SHAPE)),
}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints(name, key):
    with jax.enable_x64(True):
        constraint = CONSTRAINTS[name]()
        testing.check_regulariser(constraint, normal(*SHAPE), key=key)
        assert (3 * constraint).is_constraint
    with pytest.raises(ValueError, match="real images"):
        constraint.prox(jnp.ones(SHAPE, complex), 1.0)


def test_generalised_variation(key):
    # Its value is that of a minimisation, of limited accuracy: against the affine images, which cost nothing, the
    # bound by total variation, and the derivative along which it grows.
    with jax.enable_x64(True):
        tgv, rows = regularisers.TGV(1.5), np.arange(5.0)[:, None, None]
        affine = rows + 0.5 * np.arange(4.0)[None, :, None]
        value = jax.jit(lambda x: (tgv(x), tgv.gradient(x), TV()(x)))
        assert value(affine)[0] < 1e-6 < value(affine)[2]
        x = normal(5, 4, 1)
        found, gradient, variation = value(x)
        assert 0 < found <= variation
        # Positively homogeneous, so its derivative in the direction of the image is the value.
        np.testing.assert_allclose(jnp.sum(gradient * x), found, rtol=2e-2)
        np.testing.assert_allclose(value(x + 3 * affine)[0], found, rtol=1e-3)
        splits.check_splits(tgv, x, np.random.default_rng(0))


def test_total_variation_by_hand():
    step = np.zeros((4, 5, 1), np.float32)
    step[:, 3:] = 2.0
    value = jax.jit(lambda regulariser, x: regulariser(x))
    for kind in (Isotropic(), Anisotropic()):
        np.testing.assert_allclose(value(TV(kind), step), 4 * 2.0, rtol=1e-6)
    corner = np.zeros((3, 3, 1), np.float32)
    corner[0, 0] = 3.0  # one pixel with a step of 3 in both directions
    np.testing.assert_allclose(value(TV(), corner), 3 * np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(value(TV(Anisotropic()), corner), 6, rtol=1e-6)
    np.testing.assert_allclose(value(TV(Smoothed(4.0)), corner), np.sqrt(18 + 16) - 4, rtol=1e-5)
    np.testing.assert_allclose(value(TV(), np.tile(corner, 2)), 2 * value(TV(), corner), rtol=1e-6)
    np.testing.assert_allclose(value(TV(Smoothed(1e-4)), corner), value(TV(), corner), rtol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 2), (3, 1, 1), (5, 4, 2)])
def test_image_gradient_and_its_adjoint(shape):
    with jax.enable_x64(True):
        x, dual = normal(*shape), normal(2, *shape, seed=1)
        forward = image_gradient(jnp.asarray(x))
        np.testing.assert_allclose(forward[0, :-1, ..., 0], np.diff(x[..., 0], axis=0), atol=1e-14)
        np.testing.assert_allclose(forward[1, :, :-1], np.diff(x, axis=1), atol=1e-14)
        np.testing.assert_array_equal(forward[0, -1], 0)
        np.testing.assert_array_equal(forward[1, :, -1], 0)
        np.testing.assert_allclose(
            np.vdot(forward, dual), np.vdot(x, image_gradient_adjoint(jnp.asarray(dual))), atol=1e-12
        )


def test_the_norm_of_the_image_gradient_is_below_the_root_of_8(key):
    with jax.enable_x64(True):
        size = operators.norm(operators.FunctionOperator(image_gradient, (32, 32, 1)), key=key)
        assert 7.9 < size**2 < 8


def test_projections_are_onto_the_dual_ball():
    dual = jnp.asarray(normal(2, 3, 4, 1), jnp.float32)
    inside = Isotropic().project(dual, jnp.float32(0.5))
    modulus = np.sqrt((np.asarray(dual) ** 2).sum(0))
    np.testing.assert_allclose(np.sqrt((inside**2).sum(0)), np.minimum(modulus, 0.5), rtol=1e-5)
    np.testing.assert_allclose(Anisotropic().project(dual, jnp.float32(0.5)), np.clip(dual, -0.5, 0.5), rtol=1e-6)


def test_sums_scalings_and_what_they_are():
    x, tikhonov, l1 = jnp.asarray(normal(*SHAPE), jnp.float32), regularisers.Tikhonov(), regularisers.L1()
    np.testing.assert_allclose((2 * tikhonov + l1 * 3)(x), 2 * tikhonov(x) + 3 * l1(x), rtol=1e-6)
    np.testing.assert_allclose((2 * l1).prox(x, 0.1), l1.prox(x, 0.2), rtol=1e-6)
    table = [
        (tikhonov, True, True),
        (l1, False, False),
        (TV(), False, False),
        (TV(Smoothed(0.1)), False, True),
        (2 * tikhonov, True, True),
        (tikhonov + l1, False, False),
        (tikhonov + TV(Smoothed(0.1)), False, True),
        (regularisers.Gaussian(gaussian()) + tikhonov, True, True),
    ]
    for regulariser, quadratic, is_smooth in table:
        assert (regulariser.is_quadratic, regulariser.is_smooth) == (quadratic, is_smooth)


def test_a_weight_sweep_is_one_vmap():
    x, factors = jnp.asarray(normal(*SHAPE), jnp.float32), jnp.array([0.0, 1.0, 3.0])
    sweep = jax.vmap(lambda f: f * regularisers.L1())(factors)
    values = jax.vmap(lambda regulariser: regulariser(x))(sweep)
    np.testing.assert_allclose(values, factors * regularisers.L1()(x), rtol=1e-6)
    gradient = jax.grad(lambda regulariser: regulariser(x))(2 * regularisers.L1())
    np.testing.assert_allclose(gradient.factor, regularisers.L1()(x), rtol=1e-6)


def test_single_precision_stays_single_under_x64():
    with jax.enable_x64(True):
        x = jnp.asarray(normal(*SHAPE), jnp.float32)
        for regulariser in [make() for make in PROXIMAL.values()] + [SMOOTH[n]() for n in ("TV smoothed", "sum")]:
            assert jax.eval_shape(regulariser, x).dtype == jnp.float32
        for make in PROXIMAL.values():
            assert jax.eval_shape(make().prox, x, jnp.asarray(0.1, "f8")).dtype == jnp.float32


class Pseudo(regularisers.AbstractRegulariser):
    """A regulariser from outside the package: the number of entries that are not 0."""

    smooth: bool = False

    def __call__(self, x):
        return jnp.sum((x != 0).astype(x.dtype))

    def prox(self, x, step):
        return jnp.where(x**2 > 2 * step, x, 0)

    @property
    def is_quadratic(self):
        return False

    @property
    def is_smooth(self):
        return self.smooth


@jax.jit
def limit(proximal, x, step):
    """What the map gives at once, or after many steps of its dual."""
    start = (x, proximal.init(x))
    num_steps = 1 if start[1] is None else 500
    return jax.lax.fori_loop(0, num_steps, lambda i, carry: proximal(x, step, carry[1]), start)[0]


@pytest.mark.parametrize(
    ("regulariser", "closed"),
    [
        (regularisers.L1(), True),
        (regularisers.Tikhonov(), True),
        (regularisers.Gaussian(gaussian()), True),
        (Pseudo(), True),
        (Pseudo(smooth=True), None),
        (regularisers.TV(), False),
        (regularisers.TV(regularisers.Smoothed(0.1)), None),
        (regularisers.Tikhonov(operators.Identity(SHAPE)), None),
        (regularisers.L1() + regularisers.L1(), None),
    ],
    ids=["L1", "Tikhonov", "Gaussian", "own", "own, smooth", "TV", "smoothed TV", "Tikhonov of an operator", "sum"],
)
def test_proximal_maps(regulariser, closed):
    x = jnp.asarray(normal(*SHAPE), jnp.float32)
    weight, step = jnp.float32(0.7), jnp.float32(0.3)
    proximal = (2 * regulariser).proximal_map(weight)
    assert (proximal is None) == (closed is None)
    if proximal is None:
        return
    state = proximal.init(x)
    assert (state is None) == closed
    found = limit(proximal, x, step)
    # The map of 2 weight R: for total variation as in `test_prox`, from another step and weight of the same product.
    other = regulariser.proximal_map(jnp.float32(1.0))
    again = limit(other, x, 2 * step * weight)
    np.testing.assert_allclose(found, again, atol=1e-4)


def test_the_gaussian_factor_has_the_energy():
    with jax.enable_x64(True):
        prior, w = gaussian(), jnp.asarray(normal(6, seed=3))
        regulariser = 3 * regularisers.Gaussian(prior)
        mean, factor = regulariser.gaussian_factor(jnp.asarray(0.5))
        u = mean + (factor @ w[: factor.shape[1]]).reshape(SHAPE)
        np.testing.assert_allclose(0.5 * regulariser(u), 0.5 * jnp.sum(w[: factor.shape[1]] ** 2), rtol=1e-8)
        assert regularisers.L1().gaussian_factor(jnp.asarray(1.0)) is None


EVERY = PROXIMAL | {
    "Box": lambda: regularisers.Box(0.0, 0.5),
    "NonNegative": lambda: regularisers.NonNegative(),
    "Wavelets": lambda: regularisers.Wavelets(1, 1),
    "TV": TV,
    "TGV": lambda: regularisers.TGV(),
}


def shape_for(name):
    return (2, 4, 1) if name == "Wavelets" else SHAPE


@pytest.mark.parametrize("name", EVERY)
def test_the_dtype_of_an_image(name):
    penalty, shape = EVERY[name](), shape_for(name)
    closed = name not in ("TV", "TGV")
    for dtype in (jnp.float16, jnp.bfloat16):
        struct, step = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct((), dtype)
        answers = [jax.eval_shape(lambda x: (penalty(x), penalty.gradient(x)), struct)]
        if closed:
            answers.append(jax.eval_shape(lambda x, s: penalty.prox(x, s), struct, step))
        assert {leaf.dtype.name for leaf in jax.tree.leaves(answers)} == {"float32"}
    # Differences and squares of 8-bit images wrap round.
    pixels = np.full(shape, 200, np.uint8)
    calls = [lambda: penalty(pixels), lambda: penalty.gradient(pixels)] + [lambda: penalty.prox(pixels, 1.0)] * closed
    for call in calls:
        with pytest.raises(ValueError, match="takes an image of a floating or complex dtype; got uint8"):
            call()


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("Box", "NonNegative", "TV", "TGV")])
def test_the_step_of_a_prox(name):
    penalty, x = EVERY[name](), np.ones(shape_for(name), np.float32)
    for step, message in ((-1.0, "must not be negative; got -1"), (np.nan, "got nan"), (np.ones(2), r"shape \(2,\)")):
        with pytest.raises(ValueError, match=message):
            penalty.prox(x, step)
    with pytest.raises(ValueError, match="Numbers are expected"):
        penalty.prox(x, "a")
    assert np.isnan(jax.jit(lambda s: penalty.prox(x, s))(-1.0)).all()


def test_what_has_no_such_axis():
    for penalty in (regularisers.GroupL1(3), regularisers.NuclearNorm(-4)):
        with pytest.raises(ValueError, match=r"the axis .* is none of those of an image of shape \(2, 3, 1\)"):
            penalty(np.ones(SHAPE))
    for call in (image_gradient, image_gradient_adjoint):
        with pytest.raises(ValueError, match=r"got \(2, 3\)"):
            call(np.ones((2, 3)))
