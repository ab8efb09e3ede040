"""What others define with the public names of jaxinv passes the public checks, and works in its verbs."""

import ast
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import plugin
import pytest
from verbs import codes

import jaxinv
from jaxinv import classical, diffusion, generative, noise, operators, regularisers, testing


def public_names(module):
    return set(getattr(module, "__all__", ())) | {n for n in vars(module) if not n.startswith("_")}


def test_only_public_names_are_used():
    tree = ast.parse(Path(plugin.__file__).read_text())
    found = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.Attribute):
            # `jaxinv.x`, or `operators.x` of a module that is imported from jaxinv.
            names = []
            base = ast.unparse(node.value)
            if base == "jaxinv" or (base.isidentifier() and hasattr(jaxinv, base) and base not in ("noise",)):
                assert not node.attr.startswith("_"), ast.unparse(node)
                found += 1
        else:
            continue
        for module, name in names:
            if module.split(".")[0] != "jaxinv":
                continue
            parts = module.split(".")[1:] + ([name] if name else [])
            assert not any(part.startswith("_") for part in parts), (module, name)
            if name:
                assert name in public_names(importlib.import_module(module)) | set(jaxinv.__all__)
            found += 1
    assert found > 10


def weights(dtype, seed=0):
    values = np.random.default_rng(seed).normal(size=(4, 3, 2))
    values[:, 1, 0] = 0  # a column that is not measured
    return jnp.asarray(values, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_operator(dtype, key):
    with jax.enable_x64(dtype == "float64"):
        operator = plugin.WeightedColumns(weights(dtype))
        testing.check_linear_operator(operator, key=key, others=[plugin.WeightedColumns(weights(dtype, 1))])
        testing.check_operator(plugin.Saturation(jnp.asarray(0.7, dtype), (4, 3, 1)), key=key)


def test_noise(key):
    testing.check_noise(plugin.StudentNoise(0.3), jax.ShapeDtypeStruct((3, 2), jnp.float32), key=key)


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_regulariser(kind, key):
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(3, 2, 2))
        x = x + 1j * x[::-1] if kind == "complex" else x
        testing.check_regulariser(plugin.GroupSparsity(), x, key=key, prox=True)


def test_generative_prior(key):
    prior = plugin.Waves(0.5)
    testing.check_generative_prior(prior, key=key)
    z = jnp.array([0.3, -0.2, 0.1])
    np.testing.assert_allclose(prior.encode(prior.decode(z)), z, rtol=1e-4)


def test_score(key):
    score = plugin.IndependentPixels(jnp.array([0.5, 1.0, 2.0])[:, None, None], diffusion.VE())
    testing.check_score(score, (3, 1, 1), key=key)


@pytest.mark.slow
def test_sampler(key):
    testing.check_sampler(plugin.NoiseAgain(100), key=key, num_samples=1000)


@pytest.mark.slow
def test_posterior_method(key):
    # It takes the law of the image given its state for a Gaussian that is wider than the true one.
    with jax.enable_x64(True):
        testing.check_posterior_method(plugin.DrawnBetween(), key=key, allowance=1.5)


@pytest.mark.slow
def test_latent_method(key):
    with jax.enable_x64(True):
        testing.check_latent_method(plugin.RobustEnergy(0.5), key=key)


@pytest.mark.slow
def test_stopping_rule(key):
    with jax.enable_x64(True):
        testing.check_stopping_rule(plugin.SmallestChange(3), key=key)


def test_solver():
    def problem(i):
        random = np.random.default_rng(i)
        parts = {"matrix": random.normal(size=(6, 4)), "y": random.normal(size=6), "weight": np.float64(1 + i)}
        return jax.tree.map(jnp.asarray, parts)

    with jax.enable_x64(True):
        testing.check_solver(plugin.least_squares, [problem(i) for i in range(3)])
        solution = plugin.least_squares(problem(0)).check()
        matrix, y = np.asarray(problem(0)["matrix"]), np.asarray(problem(0)["y"])
        expected = np.linalg.solve(matrix.T @ matrix + np.eye(4), matrix.T @ y)
        np.testing.assert_allclose(solution.value, expected, atol=1e-6)


@pytest.mark.slow
def test_solver_of_the_package_s_problem():
    matrix = np.random.default_rng(0).normal(size=(6, 4))

    def solve(problem):
        likelihood = jaxinv.Likelihood(operators.Matrix(problem["matrix"], (4,)), noise.Gaussian(0.5))
        return classical.solve(
            likelihood,
            regularisers.Tikhonov(),
            problem["y"],
            method=plugin.Descent(1.0),
            weight=problem["weight"],
            constraint=regularisers.Box(-0.5, 0.5),
            rtol=1e-9,
        )

    def problem(i):
        y = np.random.default_rng(i).normal(size=6)
        return {"matrix": jnp.asarray(matrix), "y": jnp.asarray(y), "weight": jnp.asarray(1.0 + i)}

    with jax.enable_x64(True):
        testing.check_solver(solve, [problem(i) for i in range(3)])
        likelihood = jaxinv.Likelihood(operators.Matrix(matrix, (4,)), noise.Gaussian(0.5))
        box, y = regularisers.Box(-0.5, 0.5), problem(0)["y"]
        ours = classical.tikhonov(likelihood, y, weight=1.0, constraint=box, rtol=1e-10, max_steps=10_000)
        np.testing.assert_allclose(solve(problem(0)).value, ours.value, atol=1e-6)


def test_they_work_in_the_verbs_together(key):
    # A measurement by their operator with their noise, a reconstruction in their prior, an image by their sampler.
    prior = plugin.Waves(0.5)
    operator = plugin.WeightedColumns(jnp.eye(8, dtype=jnp.float32)[:, :, None]) @ plugin_columns()
    likelihood = jaxinv.Likelihood(operator, plugin.StudentNoise(0.05))
    z = jnp.array([0.5, -0.4, 0.2])
    y = likelihood.simulate(prior.decode(z), key=key)
    solution = generative.reconstruct(likelihood, prior, y, key=key, max_steps=300, rtol=1e-5)
    # A few times the noise, over the singular values of the decoder, which are about 1.
    np.testing.assert_allclose(solution.value, prior.decode(z), atol=0.2)
    score = plugin.IndependentPixels(jnp.ones((4, 1, 1)), diffusion.VP())
    assert diffusion.sample(score, (4, 1, 1), key=key, method=plugin.NoiseAgain(20)).check().value.shape == (4, 1, 1)
    tikhonov = regularisers.Tikhonov() + 2 * plugin.GroupSparsity()
    assert jnp.isfinite(tikhonov(jnp.ones((4, 3, 2))))
    assert isinstance(likelihood.noise, noise.AbstractNoise)


def test_what_they_require_of_their_numbers_holds(key):
    with pytest.raises(ValueError, match="Waves: `strength` must be finite and positive; got -1"):
        plugin.Waves(-1.0)
    likelihood = jaxinv.Likelihood(plugin_columns(), noise.Gaussian(1.0))
    y = jnp.ones((8, 8, 1))
    solve = lambda v: generative.reconstruct(likelihood, plugin.Waves(v), y, key=key, max_steps=3)
    solution = jax.vmap(solve)(jnp.array([0.5, -1.0, jnp.nan]))
    assert list(codes(solution.result)) == ["max_steps_reached", "invalid_parameter", "invalid_parameter"]
    np.testing.assert_array_equal(solution.value[1:], 0)


def plugin_columns():
    """An image `(8, 1, 1)` repeated to `(8, 8, 1)`, so that the weights of their operator pick each pixel once."""
    return jaxinv.operators.FunctionOperator(lambda x: jnp.broadcast_to(x, (8, 8, 1)), (8, 1, 1))
