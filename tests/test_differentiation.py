import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec
from verbs import SHAPE, codes, rng_of, square, tanh_decode

import jaxinv
from jaxinv import Implicit, Likelihood, Unrolled, classical, generative, noise, operators, regularisers

pytestmark = pytest.mark.usefixtures("x64")
IMPLICIT = Implicit(rtol=1e-13)
LBFGS = optax.lbfgs()


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def parameters():
    rng = rng_of(0)
    return {
        "matrix": jnp.asarray(rng.normal(size=(20, 30)) / 30**0.5),
        "y": jnp.asarray(rng.normal(size=20)),
        "std": jnp.asarray(0.3),
        "weight": jnp.asarray(2.0),
    }


def with_decoder():
    rng = rng_of(1)
    p = parameters()
    decoder = jnp.asarray(rng.normal(size=(30, 3)))
    z = jnp.asarray(rng.normal(size=3))
    y = p["matrix"] @ jnp.tanh(decoder @ z) + 0.1 * p["y"]
    return p | {"decoder": decoder, "y": y}


def problem(p):
    return Likelihood(operators.Matrix(p["matrix"], SHAPE), noise.Gaussian(p["std"])), p["y"]


def tikhonov(p, differentiate=IMPLICIT):
    return classical.tikhonov(*problem(p), weight=p["weight"], rtol=1e-13, differentiate=differentiate)


def tv(p, differentiate=IMPLICIT):
    return classical.tv(
        *problem(p),
        weight=p["weight"],
        kind=regularisers.Smoothed(0.5),
        rtol=1e-13,
        max_steps=20_000,
        differentiate=differentiate,
    )


def latent(p, differentiate=IMPLICIT):
    likelihood, y = problem(p)
    prior = generative.FunctionPrior(jax.tree_util.Partial(tanh_decode, p["decoder"]), square, (3,))
    return generative.reconstruct(
        likelihood,
        prior,
        y,
        key=jax.random.key(0),
        weight=p["weight"],
        start=generative.From(jnp.zeros(3)),
        optimiser=LBFGS,
        rtol=1e-13,
        atol=1e-13,
        max_steps=60,
        differentiate=differentiate,
    )


VERBS = {"tikhonov": (tikhonov, parameters), "tv": (tv, parameters), "latent": (latent, with_decoder)}


@functools.cache
def compiled(name):
    """A scalar of the solution, and its gradient, as functions of the parameters."""
    solve, _ = VERBS[name]
    direction = jnp.asarray(rng_of(9).normal(size=SHAPE))
    loss = lambda p: jnp.sum(direction * solve(p).value)
    return jax.jit(lambda p: jnp.sum(direction * solve(p, None).value)), jax.jit(jax.vmap(jax.grad(loss)))


@pytest.mark.parametrize("name", ["tikhonov", *(pytest.param(v, marks=pytest.mark.slow) for v in ("tv", "latent"))])
def test_implicit_gradients_equal_finite_differences(name):
    """In data, weight, noise level and the parameters of operator and decoder."""
    p = VERBS[name][1]()
    value, gradients = compiled(name)
    gradient = jax.tree.map(lambda leaf: leaf[0], gradients(jax.tree.map(lambda leaf: leaf[None], p)))
    for i, leaf in enumerate(p):
        direction = jnp.asarray(rng_of(20 + i).normal(size=p[leaf].shape))
        shifted = lambda h, leaf=leaf, direction=direction: value(p | {leaf: p[leaf] + h * direction})
        h = 1e-4
        difference = (8 * (shifted(h) - shifted(-h)) - shifted(2 * h) + shifted(-2 * h)) / (12 * h)
        expected = jnp.sum(gradient[leaf] * direction)
        # Fourth-order differences: 1e-16 of truncation, and the error of the solve, 1e-11 or so, over h.
        np.testing.assert_allclose(difference, expected, rtol=1e-5, atol=1e-8)
        assert abs(expected) > 1e-4


@pytest.mark.parametrize("name", ["tikhonov", *(pytest.param(v, marks=pytest.mark.slow) for v in ("tv", "latent"))])
def test_a_flagged_lane_has_a_nan_gradient(name):
    p = VERBS[name][1]()
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), p)
    batch["y"] = batch["y"].at[1].set(jnp.nan)
    batch["std"] = batch["std"].at[2].set(0.0)
    gradient = compiled(name)[1](batch)
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf[0]).all()
        assert np.isnan(leaf[1:]).all()


def test_implicit_needs_a_smooth_objective():
    p = parameters()
    for kind in (None, regularisers.Isotropic(), regularisers.Anisotropic()):
        with pytest.raises(ValueError, match=r"needs a smooth objective.*Smoothed\(eps\)"):
            classical.tv(*problem(p), weight=1.0, kind=kind, differentiate=Implicit())


def at_once(p, max_steps=5):
    """A multiple of the identity: conjugate gradients are done after one step."""
    likelihood = Likelihood(operators.Mask(p["scale"] * jnp.ones(SHAPE)), noise.Gaussian(p["std"]))
    return classical.tikhonov(
        likelihood, p["y"], weight=p["weight"], max_steps=max_steps, rtol=1e-8, differentiate=Unrolled()
    )


def test_unrolled_gradient_of_a_solve_that_is_done_at_step_1_of_5():
    p = {
        "scale": jnp.asarray(1.3),
        "std": jnp.asarray(0.7),
        "weight": jnp.asarray(0.4),
        "y": jnp.asarray(rng_of(0).normal(size=SHAPE)),
    }
    c = jnp.asarray(rng_of(9).normal(size=SHAPE))
    value, gradient = jax.jit(jax.value_and_grad(lambda p: jnp.sum(c * at_once(p).value)))(p)
    assert int(at_once(p).stats["num_steps"]) == 1
    # The closed form, differentiated.
    exact = lambda p: jnp.sum(c * p["scale"] * p["y"] / (p["scale"] ** 2 + p["weight"] * p["std"] ** 2))
    np.testing.assert_allclose(value, exact(p), rtol=1e-12)
    # The formula of the first step is exact in value only up to rounding, but to first order too.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), gradient, jax.grad(exact)(p))


def test_unrolled_gradients_of_tikhonov_equal_implicit_ones():
    p = parameters()
    c = jnp.asarray(rng_of(9).normal(size=SHAPE))
    unrolled = Unrolled()
    solve = lambda p: classical.tikhonov(
        *problem(p), weight=p["weight"], rtol=1e-10, max_steps=40, differentiate=unrolled
    )
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(c * solve(p).value)))(p)
    implicit = compiled("tikhonov")[1](jax.tree.map(lambda leaf: leaf[None], p))
    # The derivative of the iterates lags behind the iterates themselves.
    for name in p:
        np.testing.assert_allclose(gradient[name], implicit[name][0], rtol=1e-5, atol=1e-7)


def test_implicit_of_a_complex_image():
    mask = jnp.asarray(rng_of(2).uniform(size=SHAPE) < 0.7, float)
    operator = operators.MaskedFourier(mask)
    y = jnp.asarray(rng_of(3).normal(size=SHAPE) + 1j * rng_of(4).normal(size=SHAPE))
    c = jnp.asarray(rng_of(5).normal(size=SHAPE) + 1j * rng_of(6).normal(size=SHAPE))

    def loss(weight, differentiate=IMPLICIT):
        likelihood = Likelihood(operator, noise.Gaussian(1.0))
        x = classical.tikhonov(likelihood, y, weight=weight, rtol=1e-13, differentiate=differentiate).value
        return jnp.sum((jnp.conj(c) * x).real)

    # x = A* y / (1 + weight) on the measured frequencies.
    exact = lambda weight: jnp.sum((jnp.conj(c) * operator.adjoint(y)).real) / (1 + weight)
    weight = jnp.asarray(0.5)
    np.testing.assert_allclose(jax.grad(loss)(weight), jax.grad(exact)(weight), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("differentiate", [Implicit(), Unrolled()], ids=["implicit", "unrolled"])
def test_gradients_on_two_devices(differentiate):
    mesh = jax.make_mesh((2,), ("i",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("i")
    p = parameters()
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), p)
    solve = lambda p: classical.tikhonov(*problem(p), weight=p["weight"], max_steps=15, differentiate=differentiate)
    gradient = jax.vmap(jax.grad(lambda p: jnp.sum(solve(p).value)))
    sharded = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=True))(batch)
    expected = jax.jit(gradient)(batch)
    # NaN where 15 steps do not suffice, in both.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), sharded, expected)


def test_implicit_outcome_is_the_same():
    p = parameters()
    plain, implicit = tikhonov(p, None), tikhonov(p)
    np.testing.assert_array_equal(plain.value, implicit.value)
    assert str(codes(implicit.result)) == "successful"


@pytest.mark.parametrize("wrong", ["unrolled", True, jaxinv.Unrolled])
def test_differentiate_is_one_of_three(wrong):
    likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((2, 2, 1)), jaxinv.noise.Gaussian(1.0))
    with pytest.raises(ValueError, match=r"Unrolled\(\)"):
        jaxinv.classical.tikhonov(likelihood, jnp.ones((2, 2, 1)), weight=1.0, differentiate=wrong)


def test_an_implicit_derivative_that_was_not_found_is_nan():
    matrix = jax.random.normal(jax.random.key(0), (30, 30))
    likelihood = jaxinv.Likelihood(jaxinv.operators.Matrix(matrix, (30,)), jaxinv.noise.Gaussian(1.0))
    y = jax.random.normal(jax.random.key(1), (30,))
    loss = lambda weight, implicit: jnp.sum(
        jaxinv.classical.tikhonov(likelihood, y, weight=weight, differentiate=implicit).value ** 2
    )
    assert np.isfinite(jax.grad(loss)(1.0, jaxinv.Implicit()))
    assert np.isnan(jax.grad(loss)(1.0, jaxinv.Implicit(max_steps=1)))
