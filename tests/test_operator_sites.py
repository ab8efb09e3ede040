"""How often the operator and its adjoint stand in a compiled program: a projector costs .4 s of compilation each time.

`ParallelBeam` is a primitive with its adjoint for a parameter, so all of them show in the traced program.
"""

import jax
import jax.numpy as jnp
import pytest
from programs import equations

from jaxinv import Likelihood, Unrolled, classical, generative, noise, operators, oracles, regularisers

SHAPE = (6, 5, 1)
OPERATOR = operators.ParallelBeam(SHAPE, jnp.linspace(0, jnp.pi, 4, endpoint=False))
NOISES = {"gaussian": noise.Gaussian(0.1), "photons": noise.TransmissionPoisson(1e3)}
SMOOTHED = regularisers.Smoothed(0.1)
PRIOR = jax.jit(lambda: oracles.Gaussian(jnp.zeros(SHAPE), jnp.eye(30)))()
Y = jnp.ones(OPERATOR.codomain.shape)

# The norm is found in the loop, and the objective at the end is that of the last prediction. Conjugate gradients find
# the adjoint of the data, and compare their residual with the true one, by a step of their loop.
LOOPS = {
    "ista": (classical.ista, {"weight": 1.0}, (1, 1)),
    "ista, known norm": (classical.ista, {"weight": 1.0, "norm": 3.0}, (1, 1)),
    "fista": (classical.fista, {"weight": 1.0}, (1, 1)),
    "tv": (classical.tv, {"weight": 1.0}, (1, 1)),
    "tv, known norm": (classical.tv, {"weight": 1.0, "norm": 3.0}, (1, 1)),
    "tv, smoothed": (classical.tv, {"weight": 1.0, "kind": SMOOTHED}, (1, 1)),
    "tv, unrolled": (classical.tv, {"weight": 1.0, "differentiate": Unrolled()}, (2, 2)),
    "tikhonov": (classical.tikhonov, {"weight": 1.0}, (1, 1)),
    "tsvd": (classical.tsvd, {"rank": 3}, (1, 0)),
}


def sites(function, *arguments):
    """How often the operator stands in the traced program, and how often its adjoint."""
    found = [0, 0]
    for equation in equations(jax.make_jaxpr(function)(*arguments).jaxpr):
        if equation.primitive.name == "jaxinv_linear_map":
            found[equation.params["transposed"]] += 1
    return tuple(found)


@pytest.mark.parametrize("kind", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize(("verb", "options", "expected"), LOOPS.values(), ids=LOOPS)
def test_verbs(verb, options, expected, kind):
    assert sites(lambda y: verb(Likelihood(OPERATOR, kind), y, **options), Y) == expected


@pytest.mark.parametrize("kind", NOISES.values(), ids=NOISES)
def test_gaussian(kind):
    assert sites(lambda y: classical.gaussian(Likelihood(OPERATOR, kind), PRIOR, y).value, Y) == (1, 0)


def test_generative_reconstruct():
    # In the loop, and for the objective at the end.
    likelihood, prior, key = Likelihood(OPERATOR, NOISES["gaussian"]), PRIOR.as_latent(), jax.random.key(0)
    assert sites(lambda y: generative.reconstruct(likelihood, prior, y, key=key, max_steps=4), Y) == (2, 1)


def test_norm():
    assert sites(lambda: operators.norm(OPERATOR, key=jax.random.key(0))) == (1, 1)
