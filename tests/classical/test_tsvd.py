import jax
import jax.numpy as jnp
import numpy as np
import pytest
from verbs import SHAPE, SIZE, codes, rng_of

from jaxinv import Likelihood, noise, operators
from jaxinv.classical import tsvd

RNG = rng_of(0)
TALL, WIDE = RNG.normal(size=(40, SIZE)), RNG.normal(size=(20, SIZE))
DEFICIENT = RNG.normal(size=(40, 6)) @ RNG.normal(size=(6, SIZE))


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def truncated(matrix, b, rank):
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    rank = min(rank, np.sum(s > 1e-10 * s[0]))
    return vh[:rank].conj().T @ ((u[:, :rank].conj().T @ b) / s[:rank])


@pytest.mark.parametrize(
    "matrix", [TALL, WIDE, DEFICIENT, TALL + 1j * DEFICIENT], ids=["tall", "wide", "low rank", "complex"]
)
def test_equals_numpy_for_all_ranks_at_once(matrix):
    likelihood = Likelihood(operators.Matrix(matrix, SHAPE), noise.Gaussian(0.5))
    y = RNG.normal(size=matrix.shape[0]) + (1j * RNG.normal(size=matrix.shape[0]) if np.iscomplexobj(matrix) else 0)
    ranks = jnp.array([1, 5, 20])
    batch = jax.vmap(lambda r: tsvd(likelihood, y, rank=r))(ranks).check()
    for rank, x in zip(ranks.tolist(), batch.value, strict=True):
        np.testing.assert_allclose(x.ravel(), truncated(matrix, y, rank), atol=1e-9)
    np.testing.assert_array_equal(batch.stats["rank"], np.minimum(ranks, np.linalg.matrix_rank(matrix)))
    np.testing.assert_allclose(batch.stats["singular_values"][0], np.linalg.svd(matrix / 0.5)[1], atol=1e-9)
    np.testing.assert_allclose(tsvd(likelihood, y, rank=5).value, batch.value[1], atol=1e-12)


def test_a_complex_measurement_of_a_real_image():
    mask = RNG.uniform(size=SHAPE) < 0.6
    operator = operators.MaskedFourier(mask) @ operators.Real(SHAPE)
    y = RNG.normal(size=SHAPE) + 1j * RNG.normal(size=SHAPE)
    columns = [np.asarray(operator(e.reshape(SHAPE))).ravel() for e in np.eye(SIZE)]
    matrix = np.stack(columns, axis=1)
    matrix, b = np.concatenate([matrix.real, matrix.imag]), np.where(mask, y, 0).ravel()
    expected = np.linalg.pinv(matrix, rcond=1e-10) @ np.concatenate([b.real, b.imag])
    x = tsvd(Likelihood(operator, noise.Gaussian(1.0)), y, rank=SIZE).check().value
    np.testing.assert_allclose(x.ravel(), expected, atol=1e-10)


def test_codes():
    likelihood = Likelihood(operators.Matrix(TALL, SHAPE), noise.Gaussian(0.5))
    assert str(codes(tsvd(likelihood, np.ones(40), rank=jnp.array(0)).result)) == "invalid_parameter"
    broken = Likelihood(operators.FunctionOperator(lambda x: x * np.nan, SHAPE), noise.Gaussian(0.5))
    solution = tsvd(broken, np.ones(SHAPE), rank=3)
    assert str(codes(solution.result)) == "breakdown"
    np.testing.assert_array_equal(solution.value, 0)
