"""Images near the range of the generator: relaxed and soft, by alternating steps, by optax, and by elimination."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from verbs import SHAPE, SIZE, codes, rng_of, square, tanh_decode

from jaxinv import Implicit, Likelihood, Unrolled, classical, generative, noise, operators, oracles, regularisers
from jaxinv.generative import Alternating, From, Hard, Relaxed, Soft, reconstruct

RNG = rng_of(0)
FACTOR = RNG.normal(size=(SIZE, 4))
MEAN = RNG.normal(size=SHAPE)
MATRIX = RNG.normal(size=(20, SIZE)) / SIZE**0.5
Y = RNG.normal(size=20)
STD, WEIGHT, LAMBDA = 0.5, 1.5, 3.0
SPREAD = RNG.normal(size=(SIZE, 6))
SHIFT = RNG.normal(size=SHAPE)
LBFGS = optax.lbfgs()
ADAM = optax.adam(0.02)
KEY = jax.random.key(0)
slow = pytest.mark.slow


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def linear():
    likelihood = Likelihood(operators.Matrix(MATRIX, SHAPE), noise.Gaussian(STD))
    return likelihood, oracles.Gaussian.from_factor(MEAN, FACTOR).as_latent()


def tikhonov():
    return regularisers.Tikhonov()


def missed():
    return regularisers.Gaussian(oracles.Gaussian.from_factor(SHIFT, SPREAD, 0.1))


def exact(deviation):
    """Latent and image of the joint quadratic problem, by dense linear algebra."""
    precision, centre = np.eye(SIZE), np.zeros(SIZE)
    if deviation is missed:
        precision, centre = np.linalg.inv(SPREAD @ SPREAD.T + 0.1 * np.eye(SIZE)), SHIFT.ravel()
    whitened, b = MATRIX / STD, (Y - MATRIX @ MEAN.ravel()) / STD
    design = np.concatenate([whitened @ FACTOR, whitened], axis=1)
    penalty = np.zeros((4 + SIZE, 4 + SIZE))
    penalty[:4, :4], penalty[4:, 4:] = WEIGHT * np.eye(4), LAMBDA * precision
    right = design.T @ b + np.concatenate([np.zeros(4), LAMBDA * precision @ centre])
    both = np.linalg.solve(design.T @ design + penalty, right)
    z, u = both[:4], both[4:]
    value = 0.5 * np.sum((design @ both - b) ** 2) + 0.5 * WEIGHT * z @ z
    value += 0.5 * LAMBDA * (u - centre) @ precision @ (u - centre) + 20 * np.log(STD * np.sqrt(2 * np.pi))
    return z, MEAN + (FACTOR @ z + u).reshape(SHAPE), value


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("method", "deviation", "optimiser"),
    [
        pytest.param(Relaxed, tikhonov, Alternating(), id="relaxed-alternating", marks=slow),
        pytest.param(Soft, tikhonov, Alternating(), id="soft-alternating", marks=slow),
        pytest.param(Relaxed, missed, Alternating(), id="relaxed-eliminated"),
        pytest.param(Relaxed, tikhonov, LBFGS, id="relaxed-lbfgs", marks=slow),
        pytest.param(Soft, tikhonov, LBFGS, id="soft-lbfgs", marks=slow),
        pytest.param(Relaxed, tikhonov, ADAM, id="relaxed-adam", marks=slow),
        pytest.param(Soft, missed, LBFGS, id="soft-eliminated-lbfgs", marks=slow),
    ],
)
def test_a_linear_generator_has_a_closed_form(method, deviation, optimiser):
    likelihood, prior = linear()
    solution = reconstruct(
        likelihood,
        prior,
        Y,
        key=KEY,
        method=method(deviation(), LAMBDA),
        weight=WEIGHT,
        optimiser=optimiser,
        max_steps=6000,
        rtol=1e-11,
    ).check()
    z, image, value = exact(deviation)
    np.testing.assert_allclose(solution.aux["latent"], z, atol=1e-6)
    np.testing.assert_allclose(solution.value, image, atol=1e-6)
    np.testing.assert_allclose(solution.stats["objective"], value, rtol=1e-10)
    decoded = MEAN + (FACTOR @ z).reshape(SHAPE)
    np.testing.assert_allclose(solution.aux["deviation"], image - decoded, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("method", "optimiser"), [(Soft, None), pytest.param(Relaxed, optax.adam(0.01), marks=slow)], ids=["soft", "adam"]
)
def test_an_image_within_bounds(method, optimiser):
    likelihood, prior = linear()
    low, high = -0.2, 0.5
    own = method(tikhonov(), LAMBDA, regularisers.Box(low, high))
    solution = reconstruct(
        likelihood, prior, Y, key=KEY, method=own, weight=WEIGHT, optimiser=optimiser, max_steps=4000, rtol=1e-11
    ).check()
    # The joint problem in latent and image is one of least squares with bounds.
    rows = [
        np.concatenate([np.zeros((20, 4)), MATRIX / STD], axis=1),
        WEIGHT**0.5 * np.eye(4, 4 + SIZE),
        LAMBDA**0.5 * np.concatenate([-FACTOR, np.eye(SIZE)], axis=1),
    ]
    right = np.concatenate([Y / STD, np.zeros(4), LAMBDA**0.5 * MEAN.ravel()])
    bounds = np.repeat([[-np.inf, low], [np.inf, high]], [4, SIZE], axis=1)
    best = scipy.optimize.lsq_linear(np.concatenate(rows), right, bounds, method="bvls", tol=1e-14).x
    np.testing.assert_allclose(solution.aux["latent"], best[:4], atol=1e-6)
    np.testing.assert_allclose(solution.value.ravel(), best[4:], atol=1e-6)
    assert (float(solution.value.min()), float(solution.value.max())) == (low, high)


@slow
@pytest.mark.usefixtures("x64")
def test_a_gaussian_deviation_that_cannot_be_eliminated():
    # The same problem through an operator that does not say that it is linear: alternating steps with the prox.
    _, prior = linear()
    operator = operators.NonlinearFunction(
        jax.tree_util.Partial(lambda a, x: a @ x.ravel(), jnp.asarray(MATRIX)), SHAPE
    )
    likelihood = Likelihood(operator, noise.Gaussian(STD))
    solution = reconstruct(
        likelihood,
        prior,
        Y,
        key=KEY,
        method=Relaxed(missed(), LAMBDA),
        weight=WEIGHT,
        optimiser=Alternating(),
        max_steps=6000,
        rtol=1e-11,
    ).check()
    np.testing.assert_allclose(solution.value, exact(missed)[1], atol=1e-6)


def without_latent():
    """The problem of the deviation alone: the latent of a linear generator is further, correlated, noise."""
    projected = MATRIX @ FACTOR
    covariance = STD**2 * np.eye(20) + projected @ projected.T / WEIGHT
    likelihood = Likelihood(operators.Matrix(MATRIX, SHAPE), noise.CorrelatedGaussian(np.linalg.cholesky(covariance)))
    return likelihood, Y - MATRIX @ MEAN.ravel()


def sparse_reference():
    return classical.fista(*without_latent(), weight=LAMBDA, rtol=1e-12, max_steps=20_000)


def flat_reference(kind):
    return classical.tv(*without_latent(), weight=0.3 * LAMBDA, kind=kind, rtol=1e-12, max_steps=40_000)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("deviation", "reference"),
    [
        pytest.param(regularisers.L1, sparse_reference, id="l1"),
        pytest.param(
            lambda: 0.3 * regularisers.TV(),
            lambda: flat_reference(regularisers.Isotropic()),
            id="isotropic",
            marks=slow,
        ),
        pytest.param(
            lambda: 0.3 * regularisers.TV(regularisers.Anisotropic()),
            lambda: flat_reference(regularisers.Anisotropic()),
            id="anisotropic",
            marks=slow,
        ),
    ],
)
def test_deviations_that_are_not_smooth(deviation, reference):
    likelihood, prior = linear()
    solution = reconstruct(
        likelihood,
        prior,
        Y,
        key=KEY,
        method=Relaxed(deviation(), LAMBDA),
        weight=WEIGHT,
        max_steps=10_000,
        rtol=1e-11,
    ).check()
    expected = reference().check()
    # Two algorithms that share nothing but the problem, each stopped where its steps are 1e-11 or 1e-12.
    np.testing.assert_allclose(solution.aux["deviation"], expected.value, atol=1e-6)
    assert np.abs(expected.value).max() > 0.01
    if isinstance(deviation(), regularisers.L1):
        zero = np.asarray(expected.value) == 0
        assert 3 < zero.sum() < SIZE
        # Exact zeros: the difference with the decoded image rounds, the deviation itself does not.
        np.testing.assert_allclose(np.asarray(solution.aux["deviation"])[zero], 0, atol=1e-14)


def curved(p, method, differentiate=None, **options):
    likelihood = Likelihood(operators.Matrix(p["matrix"], SHAPE), noise.Gaussian(p["std"]))
    prior = generative.FunctionPrior(jax.tree_util.Partial(tanh_decode, p["decoder"]), square, (3,))
    return reconstruct(
        likelihood,
        prior,
        p["y"],
        key=KEY,
        method=method(p),
        weight=p["weight"],
        start=From(jnp.zeros(3)),
        differentiate=differentiate,
        **options,
    )


def parameters():
    rng = rng_of(1)
    decoder = rng.normal(size=(SIZE, 3))
    truth = np.tanh(decoder @ rng.normal(size=3)) + 0.2 * rng.normal(size=SIZE)
    p = {"decoder": decoder, "matrix": MATRIX, "y": MATRIX @ truth, "std": 0.3, "weight": 2.0, "own": 4.0}
    return {name: jnp.asarray(value) for name, value in p.items()}


METHODS = {
    "relaxed": lambda p: Relaxed(regularisers.Tikhonov(), p["own"]),
    "smoothed": lambda p: Relaxed(regularisers.TV(regularisers.Smoothed(0.3)), p["own"]),
    "soft": lambda p: Soft(regularisers.Tikhonov(), p["own"]),
    "eliminated": lambda p: Relaxed(missed(), p["own"]),
    "sparse": lambda p: Relaxed(regularisers.L1(), p["own"]),
}
CONVERGED = {"optimiser": Alternating(), "max_steps": 6000, "rtol": 1e-13}


def compare_with_differences(value, gradient, p, h, rtol, atol):
    for i, name in enumerate(p):
        direction = jnp.asarray(rng_of(20 + i).normal(size=p[name].shape))
        shifted = lambda h, name=name, direction=direction: value(p | {name: p[name] + h * direction})
        difference = (8 * (shifted(h) - shifted(-h)) - shifted(2 * h) + shifted(-2 * h)) / (12 * h)
        expected = jnp.sum(gradient[name] * direction)
        np.testing.assert_allclose(difference, expected, rtol=rtol, atol=atol)
        assert abs(expected) > 1e-4


@slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["smoothed", "soft", "eliminated"])
def test_implicit_gradients_equal_finite_differences(name):
    """In data, noise level, both weights, and the parameters of operator and decoder."""
    p, direction = parameters(), jnp.asarray(rng_of(9).normal(size=SHAPE))
    solve = functools.partial(curved, method=METHODS[name], **CONVERGED)
    value = jax.jit(lambda p: jnp.sum(direction * solve(p).value))
    implicit = Implicit(rtol=1e-12)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(direction * solve(p, differentiate=implicit).value)))(p)
    # The minimiser is found to 1e-9 or so. The differences are of fourth order, with an error of 2e-4 at a step of 4e-3
    # where the deviation is eliminated and its problem curves more.
    compare_with_differences(value, gradient, p, 1e-3 if name == "eliminated" else 4e-3, 1e-4, 3e-6)


@slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["relaxed", "eliminated", "sparse"])
def test_unrolled_gradients_equal_finite_differences(name):
    p, direction = parameters(), jnp.asarray(rng_of(9).normal(size=SHAPE))
    # Few steps: what is differentiated is the iterate, not the minimiser, for the same steps taken and taken back.
    solve = functools.partial(curved, method=METHODS[name], optimiser=Alternating(0.01), max_steps=12, rtol=0.0)
    loss = lambda p, differentiate: jnp.sum(direction * solve(p, differentiate=differentiate).value)
    unrolled = Unrolled()
    value = jax.jit(lambda p: loss(p, None))
    gradient = jax.jit(jax.grad(lambda p: loss(p, unrolled)))(p)
    compare_with_differences(value, gradient, p, 1e-5, 1e-5, 1e-7)


def test_implicit_needs_a_smooth_deviation():
    p = parameters()
    with pytest.raises(ValueError, match=r"`Implicit\(\)` needs a smooth objective.*Unrolled"):
        curved(p, METHODS["sparse"], Implicit())


def test_bad_input():
    likelihood, prior = linear()
    solve = lambda method, **options: reconstruct(likelihood, prior, Y, key=KEY, method=method, **options)
    both = regularisers.L1() + regularisers.TV()
    with pytest.raises(ValueError, match=r"neither smooth nor has it a proximal map.*`optimiser` of optax"):
        solve(Relaxed(both, 1.0))
    with pytest.raises(ValueError, match=r"neither smooth nor has it a proximal map.*`optimiser` of optax"):
        solve(Relaxed(regularisers.L1(), 1.0, regularisers.NonNegative()))
    with pytest.raises(ValueError, match=r"`constraint` must be `regularisers.NonNegative\(\)`"):
        Soft(weight=1.0, constraint=regularisers.L1())
    with pytest.raises(ValueError, match=r"Soft\(deviation\): L1 is not smooth.*Relaxed"):
        Soft(regularisers.L1())
    with pytest.raises(ValueError, match=r"Relaxed\(deviation, weight\).*L1\(\).*got str"):
        Relaxed("l1")
    # No weight fits all noise levels and generators; a Gaussian has the scale of its covariance.
    for method in (Relaxed, Soft, lambda: Relaxed(regularisers.TV()), lambda: Soft(2.0 * regularisers.Tikhonov())):
        with pytest.raises(ValueError, match=r"give a `weight`.*residual_gaussian"):
            method()
    assert Relaxed(missed()).weight == Soft(2.0 * missed()).weight == 1
    other = regularisers.Gaussian(oracles.Gaussian(np.zeros((2, 2, 1)), np.eye(4)))
    with pytest.raises(ValueError, match=r"images of shape \(2, 2, 1\); got \(6, 5, 1\)"):
        solve(Relaxed(other))
    with pytest.raises(ValueError, match=r"weight of the method.*real scalar; got shape \(2,\)"):
        solve(Relaxed(weight=jnp.ones(2)))
    with pytest.raises(ValueError, match=r"`optimiser` must be an optax transformation.*Alternating\(\).*got str"):
        solve(Hard(), optimiser="alternating")
    with pytest.raises(ValueError, match=r"positive step size and a growth of at least 1"):
        Alternating(growth=0.5)


@slow
def test_a_weight_out_of_range_flags_its_lane():
    likelihood, prior = linear()
    solve = lambda own: reconstruct(likelihood, prior, Y, key=KEY, method=Relaxed(weight=own), max_steps=3, rtol=0.0)
    solutions = jax.vmap(solve)(jnp.array([1.0, 0.0, -1.0, jnp.nan]))
    assert list(codes(solutions.result)) == ["max_steps_reached"] + 3 * ["invalid_parameter"]
    np.testing.assert_array_equal(solutions.value[1:], 0)


@slow
def test_an_optimiser_of_optax_takes_subgradients():
    likelihood, prior = linear()
    both = Relaxed(regularisers.L1() + regularisers.TV(), LAMBDA)
    adam = reconstruct(likelihood, prior, Y, key=KEY, method=both, optimiser=ADAM, max_steps=2000)
    assert np.isfinite(adam.stats["objective"])
    sparse = Relaxed(regularisers.L1(), LAMBDA)
    adam = reconstruct(likelihood, prior, Y, key=KEY, method=sparse, optimiser=ADAM, max_steps=3000)
    alternating = reconstruct(likelihood, prior, Y, key=KEY, method=sparse, max_steps=3000, rtol=1e-6)
    # Subgradient steps end near the minimum, above it.
    assert 0 <= adam.stats["objective"] - alternating.stats["objective"] < 1e-2 * abs(alternating.stats["objective"])


@slow
def test_photons_and_a_nonlinear_operator():
    # A relaxed reconstruction of counts finds a spike that the generator does not have.
    p = parameters()
    prior = generative.FunctionPrior(jax.tree_util.Partial(tanh_decode, p["decoder"].astype(jnp.float32)), square, (3,))
    operator = operators.NonlinearFunction(jax.tree_util.Partial(lambda x: jnp.exp(x)), SHAPE)
    likelihood = Likelihood(operator, noise.Poisson(1e4))
    z = jnp.array([0.3, -0.2, 0.5])
    x = prior.decode(z).at[2, 3].add(1.0)
    y = likelihood.simulate(x, key=KEY)
    solution = reconstruct(likelihood, prior, y, key=KEY, method=Relaxed(weight=100.0), restarts=3, max_steps=3000)
    # One per cent of counting noise, and the bias of the penalty of about 100 / 1e4.
    np.testing.assert_allclose(solution.value, x, atol=0.05)
    spike = np.abs(solution.aux["deviation"])
    assert np.argmax(spike) == 2 * 5 + 3
    assert np.sum(spike > 0.1) == 1


def of_prior(p):
    return generative.FunctionPrior(jax.tree_util.Partial(tanh_decode, p["decoder"]), square, (3,))


def choose(p):
    likelihood = Likelihood(operators.Matrix(p["matrix"], SHAPE), noise.Gaussian(p["std"]))
    weights = p["weight"] * jnp.array([0.1, 1.0, 10.0])
    return generative.choose_weight(
        likelihood, of_prior(p), p["y"], key=p["key"], weights=weights, max_steps=60, rtol=1e-3
    )


BATCHED = {
    "soft-alternating": lambda p: curved(p, METHODS["soft"], optimiser=Alternating(), max_steps=60, rtol=1e-3),
    "eliminated": lambda p: curved(p, METHODS["eliminated"], max_steps=60, rtol=1e-3),
    "flat": lambda p: curved(p, lambda p: Relaxed(regularisers.TV(), p["own"]), max_steps=60, rtol=1e-3),
    "choose_weight": choose,
}


@slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", BATCHED)
def test_vmap_equals_a_loop(name):
    """Over data, keys, both weights, the noise level, and the parameters of operator and decoder."""
    rng = rng_of(5)
    shift = lambda leaf: leaf + 0.1 * jnp.asarray(rng.uniform(size=leaf.shape))
    problems = [jax.tree.map(shift, parameters()) | {"key": jax.random.key(i)} for i in range(3)]
    together = jax.jit(jax.vmap(BATCHED[name]))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems))
    for i, p in enumerate(problems):
        alone, lane = BATCHED[name](p), together.lane(i)
        np.testing.assert_array_equal(lane.stats["num_steps"], alone.stats["num_steps"])
        assert str(codes(lane.result)) == str(codes(alone.result))
        np.testing.assert_allclose(lane.value, alone.value, rtol=0, atol=1e-10)
        np.testing.assert_allclose(lane.stats["objective"], alone.stats["objective"], rtol=1e-10)


class Doubled(generative.AbstractLatentMethod):
    """A method from outside the package: the image is twice the generator's."""

    is_smooth = True

    def prepare(self, likelihood, prior, y, result):
        return self, result

    def init(self, prior, z):
        return z

    def objective(self, likelihood, prior, y, weight, variables):
        fit = likelihood.negative_log_likelihood(self.image(prior, variables), y)
        return fit + weight * prior.energy(variables), 0.0

    def proximal_map(self):
        return None

    def image(self, prior, variables):
        return 2 * prior.decode(variables)

    def latent(self, variables):
        return variables

    def scaled(self, factor):
        return self


def test_a_method_from_outside(x64):
    likelihood, prior = linear()
    doubled = oracles.Gaussian.from_factor(2 * MEAN, 2 * FACTOR).as_latent()
    options = {"key": KEY, "start": From(jnp.zeros(4)), "optimiser": LBFGS}
    expected = reconstruct(likelihood, doubled, Y, **options)
    found = reconstruct(likelihood, prior, Y, method=Doubled(), **options)
    # Both are the minimiser up to the default tolerance.
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-3)


def test_no_method_stands_for_the_default():
    likelihood, prior = linear()
    options = {"key": KEY, "max_steps": 3}
    found = reconstruct(likelihood, prior, Y, method=None, start=None, **options)
    np.testing.assert_array_equal(found.value, reconstruct(likelihood, prior, Y, **options).value)
