"""A network stands once in a compiled program: how often it does in that of each sampler and posterior method.

Counted in the traced program, with all programs within it, so that nothing is compiled. The network is `asinh` of a
convolution. Nothing else here is either, and the derivative of `asinh` is not made of it: so each evaluation of the
network is one `asinh`, and a vector-Jacobian product, whose evaluation that is too, is one more convolution. What a
program evaluates in a loop it holds once.
"""

import itertools

import jax
import jax.numpy as jnp
import pytest
from noising import SAMPLERS
from posteriors import METHODS
from programs import equations

from jaxinv import Likelihood, Unrolled, diffusion, noise, operators

SHAPE = (2, 2, 1)
PROCESS = diffusion.VP()


def network(x, t):
    kernel = jnp.ones((1, 1, 1, 1), x.dtype)
    layout = ("NHWC", "HWIO", "NHWC")
    return jnp.arcsinh(jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout))


SCORE = diffusion.score_from(network, PROCESS)


def sites(function, *args):
    """How often the program of a function holds an evaluation of the network, and a product with its derivative."""
    names = [equation.primitive.name for equation in equations(jax.make_jaxpr(function)(*args).jaxpr)]
    evaluations = names.count("asinh")
    return evaluations, names.count("conv_general_dilated") - evaluations


def test_a_derivative_is_of_the_same_site():
    value = lambda x: jnp.sum(SCORE(0.5, x) ** 2)
    assert sites(value, jnp.ones(SHAPE)) == (1, 0)
    assert sites(jax.grad(value), jnp.ones(SHAPE)) == (1, 1)
    # What is called in two places counts twice, also within a program of its own.
    once = jax.jit(value)
    assert sites(lambda x: once(x) + once(2 * x), jnp.ones(SHAPE)) == (2, 0)


@pytest.mark.parametrize(
    "method",
    ["__call__", "predict", "denoiser", "noise", "velocity", "score_and_image", "velocity_and_image"],
)
def test_methods_of_a_score(method):
    by_function = diffusion.Score(lambda t, x: SCORE(t, x), PROCESS)
    for score in (SCORE, by_function):
        assert sites(lambda x, score=score: getattr(score, method)(0.5, x), jnp.ones(SHAPE)) == (1, 0)


# The last step is the driver's: each sampler with one of the two.
@pytest.mark.parametrize(("name", "denoise"), list(zip(SAMPLERS, itertools.cycle([True, False]), strict=False)))
def test_samplers(name, denoise):
    method = SAMPLERS[name].make(4)
    draw = lambda key: diffusion.sample(
        SCORE, SHAPE, key=key, method=method, denoise=denoise, num_samples=2, num_saved=2
    )
    assert sites(draw, jax.random.key(0)) == (1, 0)


@pytest.mark.parametrize("name", ["DDIM", "Heun", "PredictorCorrector"])
def test_steps_that_are_unrolled(name):
    # One evaluation forwards and the products of the way back; a scan keeps what they need.
    method = SAMPLERS[name].make(4)

    def total(shift):
        score = diffusion.Score(lambda t, x: SCORE(t, x + shift), PROCESS)
        draw = diffusion.sample(score, SHAPE, key=jax.random.key(0), method=method, differentiate=Unrolled())
        return jnp.sum(draw.value)

    assert sites(jax.grad(total), jnp.zeros(())) == (1, 1)


FLOWS = {
    "encode": (lambda x: diffusion.encode(SCORE, x), (1, 0)),
    "decode": (lambda x: diffusion.decode(SCORE, x), (1, 0)),
    "encode, fixed steps": (
        lambda x: diffusion.encode(SCORE, x, method=diffusion.ProbabilityFlow(num_steps=4)),
        (1, 0),
    ),
    "log_prob": (lambda x: diffusion.log_prob(SCORE, x), (1, 1)),
    "log_prob, probes": (lambda x: diffusion.log_prob(SCORE, x, key=jax.random.key(0)), (1, 1)),
}


@pytest.mark.parametrize("name", FLOWS)
def test_flows(name):
    function, expected = FLOWS[name]
    assert sites(function, jnp.zeros(SHAPE)) == expected


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * row.twin) for name, row in METHODS.items()]
)
def test_posterior_methods(name):
    row = METHODS[name]
    likelihood = Likelihood(row.operator(0, jnp.float32), noise.Gaussian(0.5))
    draw = lambda y, key: diffusion.posterior_sample(likelihood, SCORE, y, key=key, method=row.make(4), num_samples=2)
    assert sites(draw, jnp.ones(3), jax.random.key(0)) == row.sites


def test_more_pixels_than_products():
    # With few measurements for its pixels a twist takes products for each of them, in place of the whole covariance.
    likelihood = Likelihood(operators.Matrix(jnp.ones((1, 16)), (4, 4, 1)), noise.Gaussian(0.5))
    method = diffusion.TDS(diffusion.MomentMatching(4), particles=2)
    draw = lambda y, key: diffusion.posterior_sample(likelihood, SCORE, y, key=key, method=method, num_samples=2)
    assert sites(draw, jnp.ones(1), jax.random.key(0)) == (1, 2)
