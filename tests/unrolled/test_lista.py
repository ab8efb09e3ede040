import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from runs import Meter

from jaxinv import RESULTS, Likelihood, classical, noise, operators
from jaxinv.models import LISTA
from jaxinv.unrolled import reconstruct, train_lista

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(12, 20)) / 12**0.5
OPERATOR = operators.Matrix(MATRIX.astype(np.float32), (20,))
NOISELESS = Likelihood(OPERATOR, noise.Gaussian(0.0))


def sparse(n, seed=0, shape=(20,)):
    rng = np.random.default_rng(seed)
    return jnp.asarray(np.where(rng.uniform(size=(n, *shape)) < 0.1, rng.normal(size=(n, *shape)), 0), jnp.float32)


def scanner(dtype):
    return operators.ParallelBeam((5, 4, 1), jnp.linspace(0, np.pi, 3, endpoint=False, dtype=dtype))


OPERATORS = {
    "matrix": lambda dtype: operators.Matrix(jnp.asarray(MATRIX, dtype), (20,)),
    "tall": lambda dtype: operators.Matrix(jnp.asarray(MATRIX.T, dtype), (4, 3, 1)),
    "scanner": scanner,
    "mask": lambda dtype: operators.Mask(jnp.asarray(RNG.uniform(size=(5, 4, 1)) < 0.6, dtype)),
}


CASES = [
    ("matrix", "float32"),
    *(pytest.param(name, "float64", marks=pytest.mark.slow) for name in OPERATORS),
]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_untrained_it_is_ista(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        operator = OPERATORS[name](jnp.dtype(dtype))
        y = jnp.asarray(RNG.normal(size=(3, *operator.codomain.shape)), dtype)
        weight, std = 0.02, 0.5

        @jax.jit
        def both(operator, y):
            likelihood = Likelihood(operator, noise.Gaussian(std))
            # Each would estimate the norm from a start of its own.
            norm = 1.05 * operators.norm(operator, key=jax.random.key(0))
            options = {"weight": weight / std**2, "norm": norm, "rtol": 0.0, "max_steps": 16}
            solve = lambda y: classical.ista(likelihood, y, **options).value
            return LISTA(operator, tied=name == "tall", weight=weight, norm=norm).iterates(y), jax.vmap(solve)(y)

        iterates, x = both(operator, y)
        assert iterates.dtype == dtype
        np.testing.assert_allclose(iterates[-1], x, atol=1e-6 if dtype == "float32" else 1e-13)
        assert float(jnp.abs(x).max()) > 0.1


def test_slopes_and_momenta():
    norm, momentum, slope, threshold = 2.0, 0.3, 1.5, 0.2
    network = LISTA(OPERATOR, 2, norm=norm)
    for parameter, value in ((network.momenta, momentum), (network.slopes, slope), (network.thresholds, threshold)):
        parameter[...] = jnp.full(2, value)
    y = RNG.normal(size=(1, 12)).astype(np.float32)
    matrix, data = MATRIX / norm, y[0] / norm

    def shrink(u):
        return np.sign(u) * np.minimum(slope * np.maximum(np.abs(u) - threshold, 0), np.abs(u))

    first = shrink(matrix.T @ data)
    second = shrink(first + matrix.T @ (data - matrix @ first) + momentum * first)
    np.testing.assert_allclose(_call(network, y)[0], second, atol=1e-6)
    # Some are where the slope has ended.
    assert np.any(np.abs(first) > slope * threshold / (slope - 1))


def test_a_negative_threshold_still_learns():
    network = LISTA(OPERATOR, 1, norm=2.0)
    network.thresholds[...], network.slopes[...] = jnp.full(1, -0.1), jnp.full(1, 1.5)
    y = jnp.asarray(RNG.normal(size=(1, 12)), jnp.float32)
    gradient = nnx.grad(lambda network: jnp.sum(network(y) ** 2))(network)
    assert abs(float(gradient["thresholds"][0])) > 1e-2


_call = jax.jit(lambda network, y: network(y))


def test_untied_it_goes_on_from_the_shared_weights():
    tied = LISTA(OPERATOR, 3, tied=True, norm=2.5)
    tied.weights[...] = 1.1 * tied.weights[...]
    y = jnp.asarray(RNG.normal(size=(2, 12)), jnp.float32)
    untied = tied.untied()
    assert untied.weights.shape == (3, 12, 20)
    assert tied.weights.shape == (1, 12, 20)
    np.testing.assert_array_equal(_call(untied, y), _call(tied, y))
    gradient = nnx.grad(lambda network: jnp.sum(network(y) ** 2))(untied)["weights"][...]
    assert not np.allclose(gradient[0], gradient[1])


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_training_beats_ista(tied):
    images, test = sparse(400), sparse(200, seed=1)
    y = test @ OPERATOR.matrix.T
    network = LISTA(OPERATOR, 6, tied=tied, norm=2.5)
    # Eighty steps are few for the rate that untied weights have by default, with which larger problems are stable.
    options = {"key": KEY, "num_steps": 80, "batch_size": 50, "learning_rate": None if tied else 6e-3}
    trained, history = train_lista(network, images, NOISELESS, **options)
    assert history["result"] == RESULTS.successful
    error = lambda network: float(jnp.sum((_call(network, y) - test) ** 2) / jnp.sum(test**2))
    # With 12 measurements of 20 entries; measured: .12 of .39.
    assert error(trained) < 0.5 * error(network)
    # The operator is no parameter.
    np.testing.assert_array_equal(trained.operator.get_value().matrix, network.operator.get_value().matrix)
    if not tied:
        # From measurements, the same as from a likelihood without noise.
        pairs, _ = train_lista(network, images, images @ OPERATOR.matrix.T, **options)
        np.testing.assert_allclose(_call(pairs, y), _call(trained, y), atol=1e-2)


@pytest.mark.slow
def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    options = {"key": KEY, "num_steps": 20, "batch_size": 50, "validation": sparse(50, seed=2), "chunk_size": 5}
    run = lambda **more: train_lista(LISTA(OPERATOR, 4), sparse(100), NOISELESS, **options, **more)
    whole, _ = run()
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=tmp_path / "run", progress=Meter([], 2))
    resumed, history = run(checkpoint=tmp_path / "run")
    assert 0 < history["resumed_from"] < 20
    assert len(history["validation"]) == 4
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(whole), jax.tree.leaves(resumed))


def test_vmap_over_operators_is_a_loop():
    with jax.enable_x64(True):
        matrices, y = jnp.asarray(RNG.normal(size=(3, 4, 6))), jnp.asarray(RNG.normal(size=(3, 2, 4)))
        run = lambda matrix, y: LISTA(operators.Matrix(matrix, (6,)), 2, weight=0.05, norm=4.0)(y)
        together, alone = jax.jit(jax.vmap(run))(matrices, y), jax.jit(run)
        for i in range(3):
            np.testing.assert_allclose(together[i], alone(matrices[i], y[i]), atol=1e-10)


@pytest.mark.slow
def test_gradient():
    with jax.enable_x64(True):
        network, step = LISTA(OPERATORS["matrix"](jnp.float64), 3, norm=2.5, weight=0.05), 1e-6
        y = jnp.asarray(RNG.normal(size=(1, 12)))

        @jax.jit
        def value(shift):
            moved = jax.tree.map(lambda leaf: leaf, network)
            moved.thresholds[...] = moved.thresholds[...] + shift
            moved.weights[...] = moved.weights[...] * (1 + shift)
            return jnp.sum(moved(y) ** 2)

        slope = jax.grad(value)(0.0)
        # Central differences, error of order step^2, where no entry passes its threshold.
        np.testing.assert_allclose(slope, (value(step) - value(-step)) / (2 * step), rtol=1e-6)
        assert abs(float(slope)) > 1e-3


def test_reconstruct():
    network = made()
    y = (sparse(3) @ OPERATOR.matrix.T).at[1, 2].set(jnp.nan)
    solutions = jax.vmap(lambda y: reconstruct(network, y))(y)
    assert list(solutions.result == RESULTS.nonfinite_measurement) == [False, True, False]
    np.testing.assert_array_equal(solutions.value[1], 0)
    np.testing.assert_allclose(solutions.value[2], reconstruct(network, np.asarray(y[2])).check().value, atol=1e-6)
    mask = operators.Mask(jnp.ones((2, 2, 1)).at[0].set(0))
    missing = jnp.ones((2, 2, 1)).at[0, 0].set(jnp.nan)
    assert jnp.all(jnp.isfinite(reconstruct(LISTA(mask, 1, norm=1.0), missing).check().value))
    broken = jax.tree.map(lambda leaf: leaf, network)
    broken.weights[...] = jnp.full_like(network.weights[...], jnp.inf)
    assert reconstruct(broken, y[0]).result == RESULTS.invalid_parameter


@functools.cache
def made():
    return LISTA(OPERATOR, 2, norm=2.5)


def fourier():
    return operators.MaskedFourier(np.ones((4, 4, 1)))


def train(model=None, images=None, measurements=NOISELESS, **options):
    model = made() if model is None else model
    images = sparse(10) if images is None else images
    return train_lista(model, images, measurements, **{"key": KEY, "num_steps": 1, "batch_size": 2, **options})


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: LISTA(fourier()), "the domain of this one is complex"),
        (lambda: LISTA(operators.stack([OPERATOR, OPERATOR])), "the codomain of this one is a stack"),
        (lambda: LISTA(operators.Magnitude(OPERATOR)), "`LISTA` needs a linear operator"),
        (lambda: LISTA(OPERATOR, 0), "`num_layers`"),
        (lambda: LISTA(OPERATOR, weight=jnp.ones(2)), "`weight` must be a real scalar"),
        (lambda: LISTA(OPERATOR, weight=-1.0), "not negative"),
        (lambda: LISTA(OPERATOR, norm=0.0), "`norm` must be positive"),
        (lambda: made()(jnp.ones(12)), r"\(n, 12\); got \(12,\). Add the batch axis"),
        (lambda: made()(jnp.ones((2, 11))), "another operator"),
        (lambda: made()(1j * jnp.ones((2, 12))), "real measurements"),
        (lambda: reconstruct(made(), jnp.ones((2, 12))), r"\(n, 12\); got \(1, 2, 12\)"),
        (lambda: reconstruct(lambda y: y[0], jnp.ones(12)), "batch of images"),
        (lambda: train(lambda y: y), "`model` must be a `models.LISTA"),
        (lambda: train(images=sparse(10)[:, :19]), r"`images` as an array of shape \(n, 20\); got \(10, 19\)"),
        (lambda: train(measurements=jnp.ones((9, 12))), "10 images and 9 measurements"),
        (lambda: train(measurements=[1.0]), "Or give a `Likelihood`"),
        (lambda: train(measurements=Likelihood(operators.Identity((20,)), noise.Gaussian(0.1))), "that of the model"),
        (lambda: train(key=jax.random.PRNGKey(0)), "typed key"),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
