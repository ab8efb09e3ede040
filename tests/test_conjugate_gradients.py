"""Conjugate gradients: exact answers, counts, codes, and the comparison with the true residual."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from verbs import codes

from jaxinv import RESULTS, Likelihood, Unrolled, diffusion, noise, operators, oracles
from jaxinv._conjugate_gradients import conjugate_gradients, minimise_quadratic

SIZE = 12
RNG = np.random.default_rng(0)
FACTOR = RNG.normal(size=(SIZE, SIZE)) / SIZE**0.5
H = FACTOR @ FACTOR.T + np.eye(SIZE)
B = RNG.normal(size=SIZE)


def product(v, h):
    return h @ v


def residual(v, on, args):
    h, b = args
    return on * b - h @ v, 2 * v


def solve(b, h=H, product=product, **options):
    return conjugate_gradients(product, jnp.asarray(b), jnp.asarray(h), **{"rtol": 1e-10, "max_steps": 50, **options})


@pytest.mark.parametrize("differentiate", [None, Unrolled()])
def test_equals_the_dense_solve(differentiate):
    with jax.enable_x64(True):
        one = solve(B, differentiate=differentiate)
        args = jnp.asarray(H), jnp.asarray(B)
        other = minimise_quadratic(
            residual, jnp.zeros(SIZE), jnp.zeros(SIZE), args, rtol=1e-10, max_steps=50, differentiate=differentiate
        )
        for solved in (one, other):
            np.testing.assert_allclose(solved.x, np.linalg.solve(H, B), rtol=1e-8)
            assert codes(solved.result) == "successful"
            # The comparison at the end, and the evaluation at the start, are not counted.
            assert solved.num_steps <= SIZE
        assert one.num_steps == other.num_steps
        np.testing.assert_array_equal(other.aside, 2 * other.x)


def test_gradient_through_the_steps():
    with jax.enable_x64(True):
        of = lambda b: jnp.sum(solve(b, differentiate=Unrolled(), max_steps=30).x ** 2)
        expected = 2 * np.linalg.solve(H, np.linalg.solve(H, B))
        np.testing.assert_allclose(jax.grad(of)(jnp.asarray(B)), expected, rtol=1e-6)


def test_all_steps_used():
    solved = solve(B, max_steps=3)
    assert solved.num_steps == 3
    assert codes(solved.result) == "max_steps_reached"


def test_a_right_hand_side_of_zero():
    solved = solve(np.zeros(SIZE))
    assert codes(solved.result) == "successful"
    np.testing.assert_array_equal(solved.x, 0)


def test_not_positive_definite():
    assert codes(solve(B, -H).result) == "breakdown"


def coarse(v, h):
    """A product like that of an operator that computes in low precision somewhere."""
    return (h.astype(jnp.bfloat16) @ v.astype(jnp.bfloat16)).astype(v.dtype)


def affine(v, h):
    """A product that is not linear: for directions, which become small, the constant is not small."""
    return h @ v + 1e-2


@pytest.mark.parametrize("product", [coarse, affine])
def test_a_residual_that_is_not_the_true_one(product):
    solved = solve(B, product=product, rtol=1e-5)
    assert codes(solved.result) == "breakdown"


def test_each_problem_alone():
    bs, hs = jnp.stack([jnp.asarray(B), jnp.zeros(SIZE), jnp.asarray(B)]), jnp.stack([H, H, -H])
    together = jax.vmap(solve)(bs, hs)
    assert list(codes(together.result)) == ["successful", "successful", "breakdown"]
    np.testing.assert_allclose(together.x[0], solve(B).x, rtol=1e-5)
    assert together.num_steps[0] == solve(B).num_steps


def test_an_inner_solve_that_overflows_fails_its_sample():
    image = jnp.full((4, 4, 1), 2.0, jnp.float32)
    prior = oracles.Gaussian(jnp.zeros((4, 4, 1)), jnp.eye(16))
    likelihood = Likelihood(operators.Identity((4, 4, 1)), noise.Gaussian(1e-12))
    score, method = prior.score(diffusion.VP()), diffusion.DiffPIR(20)
    solution = diffusion.posterior_sample(likelihood, score, image, key=jax.random.key(0), method=method)
    assert solution.result != RESULTS.successful or np.allclose(solution.value[0], image, atol=1e-2)
