"""Sums of regularisers and constraints, against optima by CVXPY and by scipy."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from verbs import SHAPE, SIZE, codes, rng_of

from jaxinv import Implicit, Likelihood, Unrolled, classical, noise, operators, regularisers
from jaxinv.regularisers import L1, TV, Box, NonNegative

BENCHMARK = Path(__file__).parent.parent.parent / "benchmarks" / "primal_dual_optima.py"
RNG = rng_of(0)
MATRIX = RNG.normal(size=(20, SIZE)) / SIZE**0.5
Y = MATRIX @ RNG.normal(size=SIZE) + 0.1 * RNG.normal(size=20)
LIKELIHOOD_STD = 0.5


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def likelihood():
    return Likelihood(operators.Matrix(MATRIX, SHAPE), noise.Gaussian(LIKELIHOOD_STD))


@pytest.fixture(scope="module")
def optima():
    spec = importlib.util.spec_from_file_location("primal_dual_optima", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules["primal_dual_optima"] = module
    spec.loader.exec_module(module)
    return module, json.loads(module.OPTIMA.read_text())


def _pairs():
    # Every kind of term once; the script compares all pairs.
    yield "TV + L1"
    slow = ("TGV + NonNegative", "Haar undecimated + Tikhonov", "group L1 + Huber", "Haar + Box", "TV + nuclear")
    for pair in slow:
        yield pytest.param(pair, marks=pytest.mark.slow)


@pytest.mark.parametrize("pair", list(_pairs()))
def test_the_objective_is_that_of_cvxpy(optima, pair):
    module, known = optima
    solution, objective = module.solved(pair.split(" + "), rtol=1e-8, max_steps=20_000)
    assert abs(objective / known[pair] - 1) < 1e-5
    image = np.asarray(solution.check().value)
    if "NonNegative" in pair:
        assert np.all(image >= 0)
        assert np.any(image == 0)
    if "Box" in pair:
        assert np.all((image >= -0.1) & (image <= 0.7))


def test_bounded_least_squares_by_three_solvers():
    # The box of a sum, of a constraint, and of a verb with another loop: one answer, which scipy knows.
    stacked = np.concatenate([MATRIX / LIKELIHOOD_STD, np.eye(SIZE)])
    expected = scipy.optimize.lsq_linear(stacked, np.r_[Y / LIKELIHOOD_STD, np.zeros(SIZE)], (-0.1, 0.2), tol=1e-14).x
    box, tight = Box(-0.1, 0.2), {"rtol": 1e-11, "max_steps": 50_000}
    for solution in (
        classical.tikhonov(likelihood(), Y, weight=1.0, constraint=box, **tight),
        classical.fista(likelihood(), Y, weight=1.0, regulariser=regularisers.Tikhonov(), constraint=box, **tight),
        classical.primal_dual(likelihood(), regularisers.Tikhonov() + box, Y, weight=1.0, **tight),
    ):
        np.testing.assert_allclose(solution.check().value.ravel(), expected, atol=1e-7)
        assert np.all((solution.value >= -0.1) & (solution.value <= 0.2))


def test_total_variation_is_a_case():
    one = classical.tv(likelihood(), Y, weight=2.0, max_steps=50)
    method = classical.PrimalDual(balance=1.0)
    other = classical.solve(likelihood(), TV(), Y, method=method, weight=2.0, max_steps=50)
    np.testing.assert_array_equal(one.value, other.value)
    # L1 has a prox on the image itself, and so exact zeros.
    sparse = classical.primal_dual(likelihood(), L1(), Y, weight=2.0, rtol=1e-9).check()
    fista = classical.fista(likelihood(), Y, weight=2.0, rtol=1e-9).check()
    np.testing.assert_array_equal(sparse.value == 0, fista.value == 0)
    np.testing.assert_allclose(sparse.value, fista.value, atol=1e-5)


def test_a_grid_of_weights_is_one_vmap():
    factors = jnp.array([0.1, 1.0, 10.0])
    solve = lambda factor: (
        classical.primal_dual(
            likelihood(), TV() + factor * L1(), Y, weight=1.0, constraint=NonNegative(), max_steps=300
        ).value
    )
    together = jax.vmap(solve)(factors)
    np.testing.assert_allclose(together[1], solve(factors[1]), rtol=1e-10)
    assert float(jnp.sum(together[0])) > float(jnp.sum(together[2]))


@pytest.mark.slow
def test_derivatives_through_the_steps():
    def value(weight):
        solution = classical.primal_dual(
            likelihood(),
            TV() + L1(),
            Y,
            weight=weight,
            constraint=Box(-1.0, 1.0),
            max_steps=2000,
            rtol=0.0,
            differentiate=Unrolled(),
        )
        return jnp.sum(solution.value**2)

    # At the minimiser: on the way there the image depends on the step sizes, which follow the weight in the difference
    # but have no derivative.
    step = 1e-5
    difference = (value(1.0 + step) - value(1.0 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(value)(1.0), difference, rtol=1e-5)


def test_refusals():
    refused = [
        (lambda: classical.tv(likelihood(), Y, weight=1.0, constraint=L1()), "`constraint` must be"),
        (
            lambda: classical.tikhonov(likelihood(), Y, weight=1.0, constraint=Box(0, 1), differentiate=Implicit()),
            "without a constraint",
        ),
        (
            lambda: classical.fista(
                likelihood(), Y, weight=1.0, regulariser=regularisers.GroupL1(), constraint=NonNegative()
            ),
            "separable",
        ),
        (lambda: classical.primal_dual(likelihood(), Y, Y, weight=1.0), "`regulariser` must be"),
        (lambda: classical.solve(likelihood(), L1(), Y, method=L1(), weight=1.0), "`method` must be"),
        (lambda: operators.Wavelets((6, 8, 1)), "divides"),
        (lambda: operators.Wavelets((8, 8, 1), 9), "1 \\(Haar\\) to 8"),
    ]
    for call, words in refused:
        with pytest.raises(ValueError, match=words):
            call()
    bad = classical.primal_dual(likelihood(), TV(), Y, weight=jnp.asarray(-1.0))
    assert str(codes(bad.result)) == "invalid_parameter"


@pytest.mark.parametrize("undecimated", [False, True], ids=["orthogonal", "undecimated"])
@pytest.mark.parametrize("order", [1, 2, pytest.param(8, marks=pytest.mark.slow)])
def test_wavelets(order, undecimated):
    transform = operators.Wavelets((12, 8, 1), order, 2, undecimated)
    x = jnp.asarray(RNG.normal(size=(12, 8, 1)))
    coefficients, back = jax.jit(lambda x: (transform(x), transform.adjoint(transform(x))))(x)
    np.testing.assert_allclose(back, x, atol=1e-12)
    np.testing.assert_allclose(jnp.sum(coefficients**2), jnp.sum(x**2), rtol=1e-12)
    # Details of polynomials below the order are 0, away from the border across which the image jumps.
    if undecimated:
        slope = np.add.outer(np.arange(32.0) ** (order - 1), np.zeros(8))[..., None]
        row = operators.Wavelets(slope.shape, order, 1, True)(slope)[1]
        assert np.max(np.abs(row[order : 32 - order])) < 1e-12 * np.max(slope)


def test_wavelets_are_those_of_pywavelets():
    # Two rows of `coeffs_to_array(wavedec2(x, "db3", mode="periodization", level=1))` by PyWavelets 1.9.
    x = np.sin(np.arange(64.0) ** 1.5).reshape(8, 8, 1)
    found = operators.Wavelets((8, 8, 1), 3, 1)(x)[..., 0]
    low = [0.6507797288144934, 1.5827716732001917, -0.4021730015215407, 0.8724031180728851]
    low += [0.17304128687763506, 0.4411874083960611, 0.26157611330712893, -0.6865488548466252]
    high = [-0.18866220057691158, -0.07503296143571603, -0.528984929350447, 0.9686570523550905]
    high += [0.25991664317830904, -1.0385590728563157, 1.0569953783075332, -0.19579882236686144]
    np.testing.assert_allclose(found[1], low, atol=1e-13)
    np.testing.assert_allclose(found[6], high, atol=1e-13)
