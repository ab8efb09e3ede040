"""Operators, noise models, regularisers, priors and solutions as Python objects and as functions of JAX."""

import copy
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from verbs import _network

import jaxinv
from jaxinv import classical, diffusion, generative, models, noise, operators, oracles, regularisers, subspace

SHAPE = (6, 5, 1)
RANDOM = np.random.default_rng(0)
IMAGE = jnp.asarray(RANDOM.normal(size=SHAPE).astype(np.float32))
MASK = jnp.asarray((RANDOM.uniform(size=SHAPE) > 0.3).astype(np.float32))
# Compiled whole: operation by operation they take seconds to compile.
PRIOR = jax.jit(lambda: oracles.Gaussian.from_factor(jnp.ones(SHAPE), jnp.ones((30, 2)) / 5, 0.3))()
BEAM = operators.ParallelBeam(SHAPE, np.linspace(0, 3, 4, dtype=np.float32))
LIKELIHOOD = jaxinv.Likelihood(operators.Mask(MASK), noise.Gaussian(0.1))
PCA = jax.jit(lambda images: subspace.pca(images, rank=2))(RANDOM.normal(size=(7, *SHAPE)).astype(np.float32))
MIXTURE = jax.jit(
    lambda: oracles.GaussianMixture(jnp.ones(2) / 2, jnp.stack([IMAGE, -IMAGE]), jnp.stack([jnp.eye(30)] * 2))
)()


def decode(z):
    return jnp.sin(z)


def energy(z):
    return 0.5 * jnp.sum(z**2)


# Each a function of one array.
FUNCTIONS = {
    "Mask": operators.Mask(MASK),
    "Mask.H": operators.Mask(MASK).H,
    "2 Mask + Identity": 2 * operators.Mask(MASK) + operators.Identity(SHAPE),
    "Convolution": operators.Convolution(jnp.ones((3, 3)) / 9, SHAPE),
    "ParallelBeam": BEAM,
    "ParallelBeam @ Mask": BEAM @ operators.Mask(MASK),
    "ParallelBeam.normal": BEAM.normal,
    "Magnitude": operators.Magnitude(operators.Mask(MASK)),
    "L1": regularisers.L1(),
    "3 TV": 3.0 * regularisers.TV(),
    "TV(Smoothed) + Tikhonov": regularisers.TV(regularisers.Smoothed(0.1)) + regularisers.Tikhonov(),
    "regularisers.Gaussian": regularisers.Gaussian(PRIOR),
    "Likelihood.operator.adjoint": LIKELIHOOD.operator.adjoint,
    "noise.Gaussian.whiten": LIKELIHOOD.noise.whiten,
    "generative.FunctionPrior.decode": generative.FunctionPrior(decode, energy, SHAPE).decode,
    "oracles.Gaussian.log_prob": PRIOR.log_prob,
    "oracles.GaussianMixture.log_prob": MIXTURE.log_prob,
    "PCA.encode": PCA.encode,
}
LINEAR = [name for name in FUNCTIONS if name.startswith(("Mask", "2", "Conv", "Parallel", "Likelihood", "noise"))]


def close(a, b):
    # Compiled and not compiled, a function rounds differently.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), a, b)


def argument(name):
    return FUNCTIONS[name](IMAGE) if name == "Mask.H" else IMAGE


@pytest.mark.parametrize("name", FUNCTIONS)
def test_transformations_take_it_for_a_function(name):
    noun, x = FUNCTIONS[name], argument(name)
    value = noun(x)
    close(jax.jit(noun)(x), value)
    assert jax.eval_shape(noun, x) == jax.eval_shape(lambda x: noun(x), x)
    batch = np.stack([x, 2 * x])

    @eqx.filter_jit
    def transformed(noun, x, batch):
        tangent = jax.jvp(noun, (x,), (jnp.ones_like(x),))[1]
        (cotangent,) = jax.vjp(jax.checkpoint(jax.jit(noun)), x)[1](tangent)
        return jax.vmap(noun)(batch), tangent, cotangent

    mapped, tangent, cotangent = transformed(noun, x, batch)
    each = jax.tree.map(lambda *leaves: np.stack(leaves), noun(x), noun(2 * x))
    close(mapped, each)
    close(jax.lax.map(noun, batch), each)
    # <J v, J v> = <J^T J v, v>
    np.testing.assert_allclose(np.sum(tangent**2), np.sum(cotangent), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_transpose_takes_it(name):
    noun, x = FUNCTIONS[name], argument(name)
    y = noun(x)
    (back,) = jax.linear_transpose(noun, x)(y)
    np.testing.assert_allclose(jnp.sum(back * x), jnp.sum(y**2), rtol=1e-4)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("again", [copy.deepcopy, lambda noun: pickle.loads(pickle.dumps(noun))])
def test_copies_are_equal_in_value(name, again):
    noun, x = FUNCTIONS[name], argument(name)
    close(again(noun)(x), noun(x))


def test_a_jitted_noun_is_traced_once():
    traces = []
    operator = operators.FunctionOperator(lambda x: (traces.append(0), 2 * x)[1], SHAPE)
    jitted = jax.jit(operator)
    traces.clear()
    jitted(IMAGE), jitted(IMAGE)
    jax.jit(operator)(IMAGE)
    assert len(traces) == 1


def test_equality_is_identity():
    one, other = operators.Mask(MASK), operators.Mask(MASK)
    assert one == one
    assert one != other
    assert len({one, other, one}) == 2
    assert eqx.tree_equal(one, other)


def test_numbers_are_printed():
    solution = classical.tikhonov(LIKELIHOOD, IMAGE, weight=1.0)
    assert "result=successful" in repr(solution)
    assert f"'num_steps': {int(solution.stats['num_steps'])}" in repr(solution)
    bad = jnp.stack([IMAGE, IMAGE.at[0, 0, 0].set(jnp.nan)])
    likelihood = jaxinv.Likelihood(operators.Identity(SHAPE), noise.Gaussian(0.1))
    batch = jax.vmap(lambda y: classical.tikhonov(likelihood, y, weight=1.0))(bad)
    assert "1 x successful, 1 x nonfinite_measurement" in repr(batch)
    assert "adjoint_error=" in repr(operators.certify(BEAM, key=jax.random.key(0)))
    assert "f32[]" not in repr(operators.certify(BEAM, key=jax.random.key(0)))
    assert "std=0.1" in repr(likelihood)
    assert "singular_values=[" in repr(PCA)


def test_traced_numbers_are_printed_by_shape():
    printed = []
    jax.eval_shape(lambda std: printed.append(repr(noise.Gaussian(std))) or std, jnp.asarray(0.1))
    assert printed == ["Gaussian(std=f32[])"]


def test_scores():
    process = diffusion.FlowMatching()
    network = _network(0, jnp.float32, lambda: models.UNet((8, 8, 1), widths=(8,), rngs=nnx.Rngs(0)))
    learned, exact, t = diffusion.score_from(network, process), PRIOR.score(process), jnp.asarray(0.5)
    for function, x in ((learned, np.ones((8, 8, 1), np.float32)), (exact, IMAGE)):
        both = jax.jit(lambda t, x, function=function: (function(t, x), function.denoiser(t, x)))
        for noun, value in zip((function, function.denoiser), both(t, x), strict=True):
            close(jax.jit(noun)(t, x), value)
