"""Unknown numbers of a measurement: against closed forms and simulations, with their standard errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinv
from jaxinv import RESULTS, calibration, data, noise, operators, oracles

PRIOR = jax.jit(lambda: oracles.Gaussian(jnp.ones((4, 4, 1)), 0.02 * jnp.eye(16)))()
IMAGES = jax.jit(lambda: PRIOR.sample(3, key=jax.random.key(1)))()


class Parabola(calibration.AbstractCriterion):
    """A criterion with a known minimum and curvature."""

    hessian: jax.Array

    def __call__(self, likelihood, y):
        difference = likelihood.noise.std.reshape(-1) - y.reshape(-1)
        return 0.5 * difference @ self.hessian @ difference


def stds(parameters):
    std = jnp.stack([parameters["a"], parameters["b"]]).reshape(1, 2, 1)
    return jaxinv.Likelihood(operators.Identity((1, 2, 1)), noise.Gaussian(std))


def test_a_parabola_is_found_with_its_curvature():
    hessian = jnp.array([[4.0, 1.0], [1.0, 9.0]])
    y = jnp.array([1.3, 2.7]).reshape(1, 2, 1)
    arguments = {"widths": {"a": 1.0, "b": 1.0}, "criterion": Parabola(hessian), "grid": 3}
    solution = calibration.calibrate(stds, {"a": 1.0, "b": 2.0}, y, **arguments)
    assert solution.result == RESULTS.successful
    np.testing.assert_allclose((solution.value["a"], solution.value["b"]), (1.3, 2.7), atol=1e-4)
    np.testing.assert_allclose(solution.aux["covariance"], np.linalg.inv(hessian), rtol=1e-3)
    np.testing.assert_allclose(solution.aux["standard_error"]["b"], np.sqrt(np.linalg.inv(hessian)[1, 1]), rtol=1e-3)
    # Mapped over measurements each has its own; beyond the widths there is no minimum, and that is said.
    many = jnp.stack([y, y + 5.0])
    mapped = jax.vmap(lambda y: calibration.calibrate(stds, {"a": 1.0, "b": 2.0}, y, **arguments))(many)
    np.testing.assert_allclose(mapped.value["a"][0], solution.value["a"], atol=1e-6)
    assert (mapped.result == RESULTS.breakdown).tolist() == [False, True]
    assert np.isnan(mapped.aux["standard_error"]["a"][1])
    assert mapped.value["a"][1] <= 2


def test_gain_and_noise_are_those_of_the_marginal_likelihood():
    def build(p):
        return jaxinv.Likelihood(p["gain"] * operators.Identity((4, 4, 1)), noise.Gaussian(p["std"]))

    y = build({"gain": 1.5, "std": 0.3}).simulate(IMAGES[0], key=jax.random.key(0))
    solution = calibration.calibrate(
        build,
        {"gain": 1.2, "std": 0.5},
        y,
        widths={"gain": 0.6, "std": 0.45},
        criterion=calibration.Evidence(PRIOR),
        grid=5,
        max_steps=8,
    )
    # The entries of y are independent, with mean gain and variance .02 gain^2 + std^2.
    gain, variance = float(y.mean()), float(y.var())
    np.testing.assert_allclose(solution.value["gain"], gain, rtol=2e-3)
    np.testing.assert_allclose(0.02 * solution.value["gain"] ** 2 + solution.value["std"] ** 2, variance, rtol=5e-3)
    np.testing.assert_allclose(solution.aux["standard_error"]["gain"], np.sqrt(variance / 16), rtol=0.05)


@pytest.mark.slow
def test_the_centre_of_rotation_is_found_to_a_tenth_of_a_bin():
    angles = jnp.linspace(0, jnp.pi, 60, endpoint=False)
    fine = operators.ParallelBeam((192, 192, 1), angles, 256, 0.25, 0.25, centre_offset=1.37)
    y = fine(data.shepp_logan(192)).reshape(60, 64, 4, 1).mean(2)
    std = 0.02 * float(y.max())
    y = y + std * jax.random.normal(jax.random.key(0), y.shape)

    def build(offset):
        scanner = operators.ParallelBeam((32, 32, 1), angles, 64, pixel_size=2.0, centre_offset=offset)
        return jaxinv.Likelihood(scanner, noise.Gaussian(std))

    misfit = calibration.PenalisedMisfit(100.0, max_steps=30)
    options = {"widths": 2.0, "criterion": misfit, "resolution": 0.5, "grid": 5, "max_steps": 4}
    solution = calibration.calibrate(build, 0.5, y, **options).check()
    np.testing.assert_allclose(solution.value, 1.37, atol=0.1)
    assert 0 < solution.aux["standard_error"] < 0.1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"widths": {"a": 1.0}}, "`widths` must be a tree like"),
        ({"widths": {"a": 0.0, "b": 1.0}}, "`widths` must be positive"),
        ({"widths": {"a": 1.0, "b": np.inf}}, "`widths` must be positive and finite"),
        ({"resolution": {"a": 1.0, "b": np.nan}}, "`resolution` must be finite"),
        ({"parameters": {"a": np.nan, "b": 2.0}}, "`parameters` must be finite"),
        ({"grid": 2}, "`grid` must be at least 3"),
        ({"grid": 2000}, r"for 2 parameters makes 4e\+06 points"),
        ({"criterion": None}, "`criterion` must be"),
        ({"parameters": {"a": 1j, "b": 1.0}}, "real"),
    ],
)
def test_what_makes_no_sense_is_said(changed, message):
    arguments = {
        "parameters": {"a": 1.0, "b": 2.0},
        "widths": {"a": 1.0, "b": 1.0},
        "criterion": Parabola(jnp.eye(2)),
    } | changed
    with pytest.raises(ValueError, match=message):
        calibration.calibrate(stds, arguments.pop("parameters"), jnp.ones((1, 2, 1)), **arguments)
    with pytest.raises(ValueError, match="oracles.Gaussian"):
        calibration.Evidence(None)
