"""The deep image prior, with networks small enough to follow by hand."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from dip_problems import BASIS, KEY, MATRIX, RNG, SHAPE, STD, Linear, Squashed, Wave, Y, compressed, linear, pixels
from flax import nnx
from verbs import codes

from jaxinv import Implicit, Likelihood, Unrolled, classical, dip, models, noise, operators, regularisers

RATE = 2e-3
SGD = optax.sgd(RATE)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def solve(num_steps, network=None, likelihood=None, y=Y, **options):
    network = linear() if network is None else network
    options = {"frozen": ("basis",), "optimiser": SGD, **options} if isinstance(network, Linear) else options
    likelihood = compressed() if likelihood is None else likelihood
    return dip.reconstruct(likelihood, network, y, key=KEY, num_steps=num_steps, **options)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("steps", [1, 60])
def test_a_linear_decoder_is_a_spectral_filter(steps):
    solution = solve(steps).check()
    u, s, vt = np.linalg.svd(MATRIX @ BASIS / STD, full_matrices=False)
    filtered = (1 - (1 - RATE * s**2) ** steps) / s * (u.T @ (Y / STD))
    expected = BASIS @ (vt.T @ filtered)
    np.testing.assert_allclose(solution.value.ravel(), expected, atol=1e-10)
    residual = Y - MATRIX @ expected
    constant = 8 * np.log(STD * np.sqrt(2 * np.pi))
    objective = 0.5 * np.sum(residual**2) / STD**2 + constant
    np.testing.assert_allclose(solution.stats["objective"], objective, rtol=1e-10)
    np.testing.assert_allclose(solution.stats["history"]["objective"][-1], objective, rtol=1e-10)
    assert (int(solution.stats["num_steps"]), int(solution.stats["step"])) == (steps, steps)
    np.testing.assert_array_equal(solution.stats["history"]["step"], np.arange(steps + 1))


def by_hand(steps, jitter, ema, regulariser=None, weight=0.0, y=None):
    """Images by plain gradient descent on `Wave`, their objectives, and the average."""
    theta, average = jnp.ones(SHAPE), None
    images, objectives = [], []
    step_key, rate = jax.random.fold_in(KEY, 2), 0.1
    z0 = jnp.asarray(Z0)
    penalty = (lambda x: 0.0) if regulariser is None else lambda x: weight * regulariser(x)

    @jax.jit
    def step(theta, k):
        drawn = jitter * jax.random.normal(jax.random.fold_in(step_key, k), SHAPE) * (k < steps)
        image = lambda theta: theta * jnp.sin(z0 + drawn)
        loss = lambda theta: pixels().negative_log_likelihood(image(theta), y) + penalty(image(theta))
        value, gradient = jax.value_and_grad(loss)(theta)
        return image(theta), value, theta - rate * gradient

    for k in range(steps + 1):
        image, value, theta = step(theta, k)
        images.append(np.asarray(image))
        objectives.append(float(value))
        average = images[-1] if average is None else ema * average + (1 - ema) * images[-1]
    return images, objectives, average


Z0 = RNG.normal(size=SHAPE)
PIXELS = RNG.normal(size=SHAPE)
DESCENT = optax.sgd(0.1)


@pytest.mark.usefixtures("x64")
def test_jitter_average_and_regulariser():
    jitter, ema, weight = 0.2, 0.7, 0.3
    reference, tv = 0.9 * PIXELS, regularisers.TV(regularisers.Anisotropic())
    solution = solve(
        6,
        Wave(jnp.ones(SHAPE)),
        pixels(),
        PIXELS,
        start=dip.From(Z0),
        optimiser=DESCENT,
        jitter=jitter,
        ema=ema,
        regulariser=tv,
        weight=weight,
        reference=reference,
        stride=2,
    ).check()
    images, objectives, average = by_hand(6, jitter, ema, tv, weight, PIXELS)
    np.testing.assert_allclose(solution.value, average, rtol=1e-12)
    np.testing.assert_allclose(solution.aux["last"], images[-1], rtol=1e-12)
    np.testing.assert_array_equal(solution.aux["input"], Z0)
    history = solution.stats["history"]
    np.testing.assert_array_equal(history["step"], [0, 2, 4, 6])
    np.testing.assert_allclose(history["objective"], objectives[::2], rtol=1e-12)
    np.testing.assert_allclose(history["psnr"][-1], -10 * np.log10(np.mean((average - reference) ** 2)), rtol=1e-12)
    trained = solution.aux["network"](jnp.asarray(Z0)[None])[0]
    np.testing.assert_allclose(trained, images[-1], rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "kind", [pytest.param(noise.Poisson(20.0), marks=pytest.mark.slow), noise.TransmissionPoisson(50.0)]
)
def test_counts(kind):
    """One step of gradient descent on the exact likelihood of counts."""
    likelihood = Likelihood(operators.Identity(SHAPE), kind)
    y = likelihood.simulate(jnp.full(SHAPE, 0.7), key=KEY)
    solution = solve(1, Wave(jnp.ones(SHAPE)), likelihood, y, start=dip.From(jnp.ones(SHAPE)), optimiser=SGD).check()
    nll = lambda theta: likelihood.negative_log_likelihood(theta * jnp.sin(1.0), y)
    theta = np.ones(SHAPE) - RATE * np.asarray(jax.jit(jax.grad(nll))(jnp.ones(SHAPE)))
    np.testing.assert_allclose(solution.value, theta * np.sin(1.0), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_lbfgs_reaches_least_squares():
    solution = solve(40, optimiser=optax.lbfgs()).check()
    theta = np.linalg.lstsq(MATRIX @ BASIS, Y, rcond=None)[0]
    np.testing.assert_allclose(solution.value.ravel(), BASIS @ theta, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_unrolled_gradient_equals_finite_differences():
    def value(y):
        return jnp.sum(solve(5, y=y, differentiate=Unrolled()).value ** 2)

    direction, h, both = RNG.normal(size=8), 1e-5, jax.jit(jax.value_and_grad(value))
    difference = (both(Y + h * direction)[0] - both(Y - h * direction)[0]) / (2 * h)
    # Central differences of a quadratic: rounding only.
    np.testing.assert_allclose(np.vdot(both(Y)[1], direction), difference, rtol=1e-7)


def test_a_run_that_diverges_keeps_its_best_image():
    solution = solve(100, linear(0.1), optimiser=optax.sgd(1.0), y=np.asarray(Y, np.float32))
    assert str(codes(solution.result)) == "diverged"
    # The first step already overshoots: the start is the best.
    assert int(solution.stats["step"]) == 0
    assert int(solution.stats["num_steps"]) < 100
    np.testing.assert_allclose(solution.value.ravel(), BASIS @ np.full(5, 0.1), rtol=1e-5)


class Cliff(eqx.Module):
    """Infinite beyond 1."""

    theta: jax.Array

    def __call__(self, z0):
        image = jnp.where(self.theta > 1, jnp.inf, self.theta)
        return jnp.broadcast_to(image[None, None, None, None], (z0.shape[0], *SHAPE))


def test_an_infinite_image_ends_the_run():
    # Steps of .15 from 0 towards 2: the seventh is beyond 1.
    solution = solve(
        50, Cliff(jnp.zeros(())), pixels(), np.full(SHAPE, 2.0, np.float32), optimiser=optax.sign_sgd(0.15)
    )
    assert str(codes(solution.result)) == "nonfinite"
    np.testing.assert_allclose(solution.value, 0.9, rtol=1e-5)
    assert np.isfinite(solution.stats["objective"])


def test_an_invalid_reference():
    reference = np.full(SHAPE, np.nan, np.float32)
    solution = solve(2, Wave(jnp.ones(SHAPE)), pixels(), np.ones(SHAPE, np.float32), reference=reference)
    assert str(codes(solution.result)) == "invalid_parameter"
    np.testing.assert_array_equal(solution.value, 0)


def test_starts():
    shape = (12, 12, 1)
    operator = operators.ParallelBeam(shape, np.linspace(0, np.pi, 8, endpoint=False, dtype=np.float32))
    x = np.zeros(shape, np.float32)
    x[3:8, 4:9] = 0.02
    likelihood = Likelihood(operator, noise.TransmissionPoisson(1e6))

    @jax.jit
    def inputs(x):
        y = likelihood.simulate(x, key=KEY)
        lines, _ = likelihood.noise.linearise(y)
        make = lambda start, shape=shape: start.input(likelihood, y, shape, key=KEY)
        back = operator.adjoint(lines)
        scale = jnp.sum(back**2) / jnp.sum(operator(back) ** 2)
        by_hand = classical.fbp(operator, lines).value, scale * back, x
        starts = dip.FromFBP(), dip.FromAdjoint(), dip.From(x)
        return by_hand, [make(start) for start in starts], make(dip.FromNoise(5, std=2.0), None)

    by_hand, made, drawn = inputs(x)
    for got, expected in zip(made, by_hand, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    assert drawn.shape == (12, 12, 5)
    # 720 normal values: the standard deviation is known to 2.6 %.
    np.testing.assert_allclose(np.std(drawn), 2.0, rtol=0.15)


BAD = {
    "an image of another shape": (
        {"network": lambda: models.DeepDecoder((5, 5, 1), layers=1, channels=2, rngs=nnx.Rngs(0))},
        r"\(1, 5, 5, 1\).*\(4, 3, 1\)",
    ),
    "no network": ({"network": lambda: 3}, "cannot be called"),
    "no weights": ({"network": lambda: lambda z: z}, "no weights"),
    "an input of another shape": ({"start": dip.From(np.zeros((7, 7, 1)))}, r"\(7, 7, 1\).*takes \(4, 3, 2\)"),
    "other channels": ({"start": dip.FromNoise(3)}, r"input_shape=\(4, 3, 3\)"),
    "FBP of another operator": ({"start": dip.FromFBP()}, "ParallelBeam"),
    "a start that is none": ({"start": "noise"}, r"FromNoise\(\)"),
    "a rule that is none": ({"stopping": 100}, r"FixedSteps\(\)"),
    "a method that is none": ({"method": "admm"}, r"Plain\(\)"),
    "a constraint that is none": ({"constraint": regularisers.L1()}, "`constraint` must be"),
    "a recipe that is none": ({"recipe": {"jitter": 0.1}}, r"dip\.photograph\(\)"),
    "no number of steps": ({"num_steps": None}, "recipe"),
    "implicit": ({"differentiate": Implicit()}, "before a minimum"),
    "a way to differentiate that is none": ({"differentiate": "implicit"}, "`differentiate`"),
    "held out, and seen": ({"stopping": dip.HeldOut(), "start": dip.FromAdjoint()}, "FromNoise"),
    "no steps": ({"num_steps": 0}, "num_steps"),
    "no stride": ({"stride": 0}, "stride"),
    "optimiser": ({"optimiser": 0.1}, "optax"),
    "regulariser": ({"regulariser": "tv"}, "regularisers"),
    "reference": ({"reference": np.zeros((4, 4, 1))}, r"\(4, 3, 1\).*\(4, 4, 1\)"),
    "frozen: nothing of this name": ({"frozen": ("encoder",)}, "encoder"),
    "frozen: everything": ({"frozen": ("",)}, "leave others"),
    "frozen: a string": ({"frozen": "down"}, "tuple"),
    "measurement": ({"y": np.zeros((3, 3, 1))}, r"\(4, 3, 1\).*\(3, 3, 1\)"),
    "ADMM without a regulariser": ({"method": dip.ADMM(1.0)}, "proximal"),
    "self-guided from a small input": ({"method": dip.SelfGuided()}, r"\(4, 3, 1\).*\(4, 3, 2\)"),
}


@pytest.mark.parametrize(("options", "match"), BAD.values(), ids=BAD)
def test_bad_input(options, match):
    make = lambda: models.SkipUNet(SHAPE, input_shape=(4, 3, 2), scales=1, channels=2, rngs=nnx.Rngs(0))
    options = {"num_steps": 2, "key": KEY, "y": np.zeros(SHAPE, np.float32), **options}
    network, y = options.pop("network", make)(), options.pop("y")
    with pytest.raises(ValueError, match=match):
        dip.reconstruct(pixels(), network, y, **options)


@pytest.mark.slow
def test_networks_of_other_libraries_and_frozen_weights():
    network = models.SkipUNet(SHAPE, scales=1, channels=2, rngs=nnx.Rngs(0))
    solution = dip.reconstruct(
        pixels(), network, np.ones(SHAPE, np.float32), key=KEY, num_steps=3, frozen=("down", "skips")
    )
    trained = solution.aux["network"]
    same = lambda a, b: all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    assert same(trained.down, network.down)
    assert same(trained.skips, network.skips)
    assert not same(trained.up, network.up)
    squashed = Squashed(jnp.tanh, jnp.ones(SHAPE))
    solution = dip.reconstruct(pixels(), squashed, np.ones(SHAPE, np.float32), key=KEY, num_steps=3).check()
    assert solution.aux["network"](solution.aux["input"][None]).shape == (1, *SHAPE)


def test_a_recipe_is_its_options():
    given = {"num_steps": 3, "start": dip.From(jnp.ones(SHAPE)), "jitter": 0.2, "ema": 0.5, "learning_rate": 0.1}
    recipe = dip.Recipe(**given, input_channels=2, channels=4, skip_channels=1, scales=1)
    run = lambda **options: dip.reconstruct(pixels(), Wave(jnp.ones(SHAPE)), PIXELS, key=KEY, **options)
    by_recipe = run(recipe=recipe)
    np.testing.assert_array_equal(by_recipe.value, run(**given).value)
    # An option beside the recipe goes before it.
    assert int(run(recipe=recipe, num_steps=2).stats["num_steps"]) == 2
    # A weight by the noise is divided by its standard deviation, but where a weight is given.
    by_noise = dip.Recipe(**given, regulariser=regularisers.TV(), weight_by_noise=0.6)
    run = lambda **options: dip.reconstruct(pixels(2.0), Wave(jnp.ones(SHAPE)), PIXELS, key=KEY, **options).value
    np.testing.assert_array_equal(run(recipe=by_noise), run(**given, regulariser=regularisers.TV(), weight=0.3))
    np.testing.assert_array_equal(run(recipe=by_noise, weight=0.0), run(**given))
    network = recipe.network((8, 6, 3), rngs=nnx.Rngs(0))
    assert (network.input_shape, network.image_shape) == ((8, 6, 2), (8, 6, 3))
    same = lambda make: jax.tree.structure(make()) == jax.tree.structure(make())
    # The optimiser of each call must be the same, or each would compile again.
    assert same(dip.photograph)
    assert same(lambda: dip.tomography(1.0))


def test_a_constraint_lets_what_is_outside_come_back():
    # The first image is -1 everywhere, where the derivative of a projection onto [0, .7] is 0.
    options = {"start": dip.From(jnp.full(SHAPE, jnp.pi / 2)), "optimiser": optax.sgd(0.3), "num_steps": 80}
    network = Wave(-jnp.ones(SHAPE))
    box = regularisers.Box(0.0, 0.7)
    solution = dip.reconstruct(pixels(), network, PIXELS, key=KEY, constraint=box, ema=0.9, **options).check()
    np.testing.assert_allclose(solution.aux["last"], np.clip(PIXELS, 0, 0.7), atol=1e-6)
    assert float(solution.value.min()) == 0
    assert float(solution.value.max()) <= np.float32(0.7)


class Scaling(nn.Module):
    @nn.compact
    def __call__(self, z):
        return self.param("scale", nn.initializers.ones, SHAPE)[None] * z


def test_a_bound_linen_network():
    y = np.full((2, *SHAPE), 2.0, np.float32)
    network = Scaling().bind(Scaling().init(KEY, y))
    options = {"key": KEY, "num_steps": 3, "start": dip.From(jnp.ones(SHAPE))}
    solution = dip.reconstruct(pixels(), network, y[0], **options).check()
    # Adam moves every weight towards the data, by its rate in each step.
    np.testing.assert_allclose(solution.value, 1.03, atol=1e-3)
    np.testing.assert_allclose(dip.reconstruct_many(pixels(), network, y, **options).value, 1.03, atol=1e-3)
