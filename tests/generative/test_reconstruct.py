import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from verbs import SHAPE, SIZE, codes, rng_of, square, tanh_prior

from jaxinv import Likelihood, Unrolled, classical, noise, operators, oracles
from jaxinv.generative import From, FromEncoder, FromPrior, FunctionPrior, reconstruct

RNG = rng_of(0)
FACTOR = RNG.normal(size=(SIZE, 4))
MEAN = RNG.normal(size=SHAPE)
MATRIX = RNG.normal(size=(20, SIZE)) / SIZE**0.5
Y = RNG.normal(size=20)
LBFGS = optax.lbfgs()
KEY = jax.random.key(0)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weight", [0.0, 1.0, 7.0])
def test_a_linear_generator_has_a_closed_form(weight):
    likelihood = Likelihood(operators.Matrix(MATRIX, SHAPE), noise.Gaussian(0.5))
    prior = oracles.Gaussian.from_factor(MEAN, FACTOR).as_latent()
    solution = reconstruct(
        likelihood, prior, Y, key=KEY, weight=weight, optimiser=LBFGS, max_steps=200, rtol=1e-10
    ).check()
    design, b = MATRIX @ FACTOR / 0.5, (Y - MATRIX @ MEAN.ravel()) / 0.5
    z = np.linalg.solve(design.T @ design + weight * np.eye(4), design.T @ b)
    np.testing.assert_allclose(solution.aux["latent"], z, atol=1e-6)
    np.testing.assert_allclose(solution.value.ravel(), MEAN.ravel() + FACTOR @ z, atol=1e-6)
    constant = 20 * np.log(0.5 * np.sqrt(2 * np.pi))
    objective = 0.5 * np.sum((design @ z - b) ** 2) + 0.5 * weight * z @ z + constant
    np.testing.assert_allclose(solution.stats["objective"], objective, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_weight_one_is_the_posterior_mean_of_the_oracle():
    likelihood = Likelihood(operators.Matrix(MATRIX, SHAPE), noise.Gaussian(0.5))
    oracle = oracles.Gaussian.from_factor(MEAN, FACTOR)
    latent = reconstruct(likelihood, oracle.as_latent(), Y, key=KEY, optimiser=LBFGS, max_steps=200, rtol=1e-10)
    np.testing.assert_allclose(latent.value, classical.gaussian(likelihood, oracle, Y).value, atol=1e-6)


def wave(z):
    """One pixel, two minima of very different depth around y = 0: `z = 2` (zero) and `z = -2` (one)."""
    return jnp.where(z > 0, (z - 2) ** 2, (z + 2) ** 2 + 1.0)


WAVE = FunctionPrior(wave, lambda z: 0 * jnp.sum(z), (1,))


def pixel():
    return Likelihood(operators.Identity((1,)), noise.Gaussian(1.0))


STARTS = jnp.array([[-1.0], [-3.0], [1.0], [-1.5]])


def wave_solve(start, restarts, **options):
    y = jnp.full((1,), -1.0)
    return reconstruct(pixel(), WAVE, y, key=KEY, restarts=restarts, start=start, learning_rate=0.1, **options)


@pytest.mark.usefixtures("x64")
def test_the_best_restart_wins_and_each_is_its_own_run():
    options = {"max_steps": 300, "rtol": 1e-6, "atol": 1e-9}
    together = wave_solve(From(STARTS), 4, **options).check()
    assert int(together.stats["restart"]) == 2
    np.testing.assert_allclose(together.value, 0.0, atol=1e-3)
    assert together.aux["latents"].shape == (4, 1)
    # Value 1 against data -1 costs 2 in the other valley, 0 against -1 costs 1/2.
    costs = np.asarray(together.aux["objectives"]) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(costs, [2.0, 2.0, 0.5, 2.0], atol=1e-3)
    alone = eqx.filter_jit(lambda z: wave_solve(From(z), 1, **options))
    for i, start in enumerate(STARTS):
        single = alone(start)
        np.testing.assert_allclose(together.aux["latents"][i], single.aux["latent"], atol=1e-10)
        if i == 2:
            assert int(single.stats["num_steps"]) == int(together.stats["num_steps"])


def test_restart_i_does_not_depend_on_how_many_there_are():
    few, many = (FromPrior().latents(pixel(), WAVE, jnp.zeros(1), restarts, key=KEY) for restarts in (2, 5))
    np.testing.assert_array_equal(few, many[:2])
    assert len(np.unique(many)) == 5


def test_starts_of_both_shapes():
    # A step of learning rate 1e-6 leaves the latent where it starts.
    still = {"max_steps": 1}
    options = {"rtol": 0.0}
    one = reconstruct(pixel(), WAVE, jnp.zeros(1), key=KEY, start=From([0.7]), learning_rate=1e-6, **still, **options)
    np.testing.assert_allclose(one.aux["latents"], [[0.7]], atol=1e-5)
    same = reconstruct(
        pixel(), WAVE, jnp.zeros(1), key=KEY, start=From([0.7]), restarts=3, learning_rate=1e-6, **still, **options
    )
    np.testing.assert_allclose(same.aux["latents"], [[0.7]] * 3, atol=1e-5)
    with pytest.raises(ValueError, match=r"z has shape \(2, 1\).*latents of shape \(1,\).*restarts=3.*\(3, 1\)"):
        wave_solve(From(jnp.zeros((2, 1))), 3)


@pytest.mark.usefixtures("x64")
def test_from_encoder():
    prior = oracles.Gaussian.from_factor(MEAN, FACTOR).as_latent()
    likelihood = Likelihood(operators.Mask(np.ones(SHAPE)), noise.Gaussian(1e-4))
    z = RNG.normal(size=4)
    y = prior.decode(jnp.asarray(z))
    latents = FromEncoder().latents(likelihood, prior, y, 3, key=KEY)
    # Tikhonov with weight 1 and this noise shrinks by 1e-8, and is solved to 1e-3.
    np.testing.assert_allclose(latents[0], z, atol=1e-2)
    draws = FromPrior().latents(likelihood, prior, y, 3, key=KEY)
    np.testing.assert_array_equal(latents[1:], draws[1:])


def test_from_encoder_needs_an_encoder_and_a_linear_operator():
    likelihood = Likelihood(operators.Identity(SHAPE), noise.Gaussian(0.1))
    start = FromEncoder()
    with pytest.raises(ValueError, match=r"FunctionPrior has no encoder.*FromPrior\(\)"):
        reconstruct(likelihood, tanh_prior(0, jnp.float32), jnp.zeros(SHAPE), key=KEY, start=start)
    prior = oracles.Gaussian.from_factor(MEAN, FACTOR).as_latent()
    curved = Likelihood(operators.NonlinearFunction(jnp.sin, SHAPE), noise.Gaussian(0.1))
    with pytest.raises(ValueError, match=r"FromEncoder.*linear operator.*NonlinearFunction"):
        reconstruct(curved, prior, jnp.zeros(SHAPE), key=KEY, start=start)


@pytest.mark.slow
def test_a_nonlinear_operator_and_photons():
    # |x| of a decaying exponential: any differentiable operator and any noise.
    prior = tanh_prior(0, jnp.float32)
    operator = operators.NonlinearFunction(jax.tree_util.Partial(lambda x: jnp.exp(x)), SHAPE)
    likelihood = Likelihood(operator, noise.Poisson(1e4))
    z = jnp.array([0.3, -0.2, 0.5])
    y = likelihood.simulate(prior.decode(z), key=KEY)
    solution = reconstruct(likelihood, prior, y, key=KEY, restarts=3, max_steps=500)
    # The counting noise of 1 % at 30 pixels leaves less than 1 % for each of 3 latents.
    np.testing.assert_allclose(solution.aux["latent"], z, atol=0.02)


@pytest.mark.parametrize("steps", [1, 7])
def test_max_steps_reached(steps):
    solution = wave_solve(From([1.0]), 1, max_steps=steps, rtol=0.0)
    assert str(codes(solution.result)) == "max_steps_reached"
    assert int(solution.stats["num_steps"]) == steps


def test_a_decoder_that_overflows():
    prior = FunctionPrior(lambda z: jnp.exp(1e4 * (1 + z**2)), square, (1,))
    solution = reconstruct(pixel(), prior, jnp.zeros(1), key=KEY, start=From([1.0]), max_steps=5)
    assert str(codes(solution.result)) == "nonfinite"
    np.testing.assert_array_equal(solution.value, 0)


def test_a_restart_that_overflows_does_not_win():
    prior = FunctionPrior(lambda z: jnp.where(z > 5, jnp.inf, z), square, (1,))
    solution = reconstruct(
        pixel(), prior, jnp.ones(1), key=KEY, restarts=2, start=From([[9.0], [0.0]]), learning_rate=0.1, max_steps=300
    )
    assert int(solution.stats["restart"]) == 1
    assert codes(solution.aux["results"])[0] == "nonfinite"
    # 1/2 (z - 1)^2 + 1/2 z^2.
    np.testing.assert_allclose(solution.value, 0.5, atol=1e-2)


def test_problems_by_restarts_by_weights_is_one_call():
    likelihood = Likelihood(operators.Matrix(MATRIX.astype(np.float32), SHAPE), noise.Gaussian(0.5))
    prior = oracles.Gaussian.from_factor(MEAN.astype(np.float32), FACTOR.astype(np.float32)).as_latent()
    solve = lambda y, weight: reconstruct(likelihood, prior, y, key=KEY, weight=weight, restarts=2, max_steps=20)
    ys, weights = jnp.asarray(RNG.normal(size=(3, 20)), jnp.float32), jnp.array([0.1, 1.0])
    solutions = jax.vmap(jax.vmap(solve, (None, 0)), (0, None))(ys, weights)
    assert solutions.value.shape == (3, 2, *SHAPE)
    assert solutions.aux["latents"].shape == (3, 2, 2, 4)
    assert solutions.lane((2, 1)).value.shape == SHAPE


def test_a_batch_of_learning_rates():
    ends = jax.vmap(lambda r: wave_solve_rate(r).aux["latent"])(jnp.array([1e-3, 1e-2]))
    # One step of Adam moves by the learning rate.
    np.testing.assert_allclose(ends[:, 0] - 1.0, [1e-3, 1e-2], rtol=1e-3)


def wave_solve_rate(rate):
    return reconstruct(
        pixel(), WAVE, jnp.full((1,), -1.0), key=KEY, start=From([1.0]), learning_rate=rate, max_steps=1, rtol=0.0
    )


def test_progress_ticks_once_per_step(capfd):
    solve = lambda y: (
        reconstruct(
            pixel(), WAVE, y, key=KEY, restarts=2, max_steps=4, rtol=0.0, progress=diffrax.TextProgressMeter(0.0)
        ).value
    )
    jax.block_until_ready(jax.vmap(solve)(jnp.zeros((3, 1))))
    jax.effects_barrier()
    lines = capfd.readouterr().out.split("\n")
    assert [line for line in lines if line] == ["0.00%", "25.00%", "50.00%", "75.00%", "100.00%"]


@pytest.mark.usefixtures("x64")
def test_unrolled_gradient_equals_finite_differences():
    unrolled = Unrolled()

    def value(y):
        return reconstruct(
            pixel(),
            WAVE,
            y,
            key=KEY,
            start=From([1.0]),
            max_steps=6,
            rtol=0.0,
            learning_rate=0.1,
            differentiate=unrolled,
        ).value.sum()

    y, h = jnp.full((1,), -1.0), 1e-5
    difference = (value(y + h) - value(y - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(value)(y)[0], difference, rtol=1e-5, atol=1e-9)
