import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinv import RESULTS, subspace


def problem(n1, n2, rank, fraction, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    low = rng.normal(size=(n1, rank)) @ rng.normal(size=(rank, n2))
    errors = np.where(rng.uniform(size=(n1, n2)) < fraction, 5 * low.std() * rng.choice([-1, 1], (n1, n2)), 0)
    if np.issubdtype(dtype, np.complexfloating):
        low, errors = low + 1j * low[::-1], (1 + 1j) * errors
    return (low + errors).astype(dtype), low, errors


# The settings of Candes et al. and the bar of 5e-6, at n = 200, are in the slow row and in the benchmark; at n = 60 the
# same decompositions are exact too.
@pytest.mark.parametrize(
    ("n1", "n2", "rank", "fraction"),
    [
        pytest.param(60, 60, 3, 0.05, marks=pytest.mark.slow),
        (80, 40, 2, 0.05),
        *(pytest.param(200, 200, *setting, marks=pytest.mark.slow) for setting in ((10, 0.05), (10, 0.1), (20, 0.1))),
    ],
)
def test_exact_recovery(n1, n2, rank, fraction):
    matrix, low, errors = problem(n1, n2, rank, fraction)
    with jax.enable_x64(True):
        found = subspace.robust_pca(matrix)
        assert found.result == RESULTS.successful
    assert found.rank == rank
    low_rank, sparse = np.asarray(found.low_rank), np.asarray(found.sparse)
    assert np.linalg.norm(low_rank - low) <= 5e-6 * np.linalg.norm(low)
    assert np.linalg.norm(sparse - errors) <= 5e-6 * np.linalg.norm(errors)
    np.testing.assert_array_equal(sparse != 0, errors != 0)
    assert found.num_steps <= 60


@pytest.mark.slow
def test_float32_and_complex_and_images():
    matrix, low, _ = problem(60, 60, 3, 0.05, dtype=np.float32)
    found = subspace.robust_pca(matrix)
    assert found.result == RESULTS.successful
    assert found.low_rank.dtype == jnp.float32
    assert found.rank == 3
    # The rounding of float32, in what a dozen singular value decompositions leave of it.
    assert np.linalg.norm(np.asarray(found.low_rank) - low) <= 1e-5 * np.linalg.norm(low)
    matrix, low, _ = problem(60, 60, 2, 0.05, dtype=np.complex64)
    found = subspace.robust_pca(matrix.reshape(60, 10, 6))
    assert found.rank == 2
    assert np.linalg.norm(np.asarray(found.low_rank).reshape(60, 60) - low) <= 1e-5 * np.linalg.norm(low)


def test_it_is_the_minimiser():
    # Not a planted problem, so that neither part is exact: no neighbour of the solution is better.
    with jax.enable_x64(True):
        matrix = np.random.default_rng(0).normal(size=(12, 9))
        weight = 0.4
        found = subspace.robust_pca(matrix, weight=weight, rtol=1e-12, max_steps=20000)
        assert found.result == RESULTS.successful
        objective = lambda low: np.linalg.norm(low, "nuc") + weight * np.abs(matrix - low).sum()
        best = objective(np.asarray(found.low_rank))
        rng = np.random.default_rng(1)
        low_rank = np.asarray(found.low_rank)
        for scale in (1e-4, 1e-2, 1.0):
            for _ in range(20):
                assert objective(low_rank + scale * rng.normal(size=(12, 9))) > best
        assert 0 < found.rank < 9
        # Towards the corners of the two terms: fewer singular values, fewer errors.
        for other in (np.zeros_like(matrix), matrix):
            assert objective(0.9 * low_rank + 0.1 * other) > best


def test_lanes():
    with jax.enable_x64(True):
        _check_lanes()


def _check_lanes():
    clean = np.stack([problem(20, 20, 1, 0.05, seed)[0] for seed in range(4)])
    weights = jnp.array([0.2, 0.25, -1.0, 0.3])
    batch = jnp.asarray(clean).at[1, 3, 4].set(jnp.nan)
    solve = jax.jit(jax.vmap(lambda matrix, weight: subspace.robust_pca(matrix, weight=weight, max_steps=200)))
    found = solve(batch, weights)
    codes = [RESULTS.successful, RESULTS.nonfinite_measurement, RESULTS.invalid_parameter, RESULTS.successful]
    for i, code in enumerate(codes):
        lane = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        assert lane.result == code
        if code == RESULTS.successful:
            alone = subspace.robust_pca(clean[i], weight=float(weights[i]), max_steps=200)
            np.testing.assert_allclose(lane.low_rank, alone.low_rank, atol=1e-10)
            assert lane.num_steps == alone.num_steps
        else:
            np.testing.assert_array_equal(lane.low_rank, 0)
    assert subspace.robust_pca(clean[0], max_steps=2).result == RESULTS.max_steps_reached
    zero = subspace.robust_pca(np.zeros((20, 20)))
    assert zero.result == RESULTS.successful
    assert zero.rank == 0
    # Squares of these leave the range of float64.
    large = subspace.robust_pca(1e200 * clean[0])
    np.testing.assert_allclose(large.low_rank / 1e200, subspace.robust_pca(clean[0]).low_rank, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m: subspace.robust_pca(m.at[5, 2].set(jnp.inf)), "example 5"),
        (lambda m: subspace.robust_pca(m[:0]), "empty"),
        (lambda m: subspace.robust_pca(m[0]), "shape"),
        (lambda m: subspace.robust_pca(m.astype(int)), "astype"),
        (lambda m: subspace.robust_pca(m, weight=jnp.ones(2)), "scalar"),
        (lambda m: subspace.robust_pca(m, max_steps=0), "max_steps"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call(jnp.ones((8, 7)))
