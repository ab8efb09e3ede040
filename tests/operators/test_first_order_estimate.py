"""The bound of the norm that first-order solvers find in the first rounds of their loop, for all operators."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import ROWS

from jaxinv import RESULTS, noise, operators
from jaxinv.classical import _first_order
from jaxinv.classical._solver import drive
from jaxinv.likelihood import Whitened
from jaxinv.operators._norm import RealVectors


class Problem(eqx.Module):
    operator: Whitened
    norm: None = None


class Probe(_first_order.AbstractFirstOrder):
    """A method whose only step keeps the bound."""

    def init(self, problem, *, key=None):
        zeros = lambda struct: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), struct)
        operator = problem.operator
        return _first_order.Iterate(zeros(operator.domain), zeros(operator.codomain), jnp.zeros(()))

    def sizes(self, problem, bound):
        return bound

    def dual(self, problem, state):
        return state.measurement

    def primal(self, problem, state, back, sizes):
        return back

    def update(self, problem, index, state, new, prediction, sizes):
        return state._replace(rest=sizes), jnp.ones((), bool), RESULTS.successful

    def finish(self, problem, state, *, key=None):
        return state.image, {"state": state}

    def indicator(self, state):
        return state.rest


def columns(operator):
    domain, codomain = RealVectors(operator.domain), RealVectors(operator.codomain)

    def column(vector):
        y = jax.tree.map(jnp.multiply, operator(domain.unpack(vector)), operator.measured)
        return codomain.pack(y)

    return jax.vmap(column)(jnp.eye(domain.size))


@jax.jit
def found(operator):
    whitened = Whitened(operator, noise.Gaussian(1.0).restrict(operator.measured, operator.codomain))
    solution = drive(Probe(), Problem(whitened), RESULTS.successful, max_steps=2)
    return solution.stats["state"], solution.stats["num_steps"], columns(operator)


# The others, which are made of these or differ in their boundary, with the slow tests.
FAST = {"Mask", "Convolution reflect 3x3", "Matrix", "ParallelBeam", "MaskedFourier @ Real", "nested"}


@pytest.mark.parametrize(
    "row", [pytest.param(r, id=r.name, marks=[] if r.name in FAST else [pytest.mark.slow]) for r in ROWS]
)
def test_is_an_upper_bound_and_close(row):
    operator = row.operator()
    state, num_steps, matrix = found(operator)
    # The method then begins at zero.
    assert num_steps == 1
    assert not np.any(state.image)
    # 1.05 times the estimate, whose trial values are one part in a hundred apart.
    assert 1.04 < state.rest / np.linalg.norm(matrix, 2) < 1.065


def test_units_do_not_matter():
    operator = operators.Matrix(np.random.default_rng(0).normal(size=(7, 5)).astype("float32"), (5,))
    small, large = found(1e-12 * operator)[0].rest, found(1e12 * operator)[0].rest
    np.testing.assert_allclose(large / small, 1e24, rtol=1e-4)


def test_an_operator_that_is_zero():
    state, _, _ = found(operators.Mask(jnp.zeros((3, 2, 1))))
    assert state.rest == 1
