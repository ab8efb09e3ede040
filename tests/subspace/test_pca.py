import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA as Reference

from jaxinv import subspace

SHAPE = (4, 3, 2)
SIZE = 24
METHODS = [subspace.Thin(), subspace.Gram(), subspace.Randomised()]


def images(n, dtype=np.float64, seed=0, decay=0.7):
    """Images with a decaying spectrum, far from the origin."""
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(n, SIZE)) * decay ** np.arange(SIZE) @ np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
    return (data + 10).astype(dtype).reshape(n, *SHAPE)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("n", [50, 15])
def test_agrees_with_scikit_learn(method, n):
    data = images(n)
    with jax.enable_x64(True):
        found = subspace.pca(data, rank=5, method=method, key=jax.random.key(0))
    reference = Reference(5, svd_solver="full").fit(data.reshape(n, -1))
    assert found.components.shape == (5, *SHAPE)
    # Rounding, for `Gram` that of the squares; a randomised range converges as (s_16 / s_5)^9, 1e-14 here.
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    close(found.mean.ravel(), reference.mean_)
    close(found.singular_values, reference.singular_values_)
    close(found.standard_deviations**2, reference.explained_variance_)
    close(found.components.reshape(5, -1), reference.components_)  # signs too
    with jax.enable_x64(True):
        z = found.encode(data[3])
        close(z, reference.transform(data.reshape(n, -1))[3])
        close(found.decode(z).ravel(), reference.inverse_transform(z[None])[0])
        close(found.encode(data)[3], z)
        close(found.decode(found.encode(data))[3], found.decode(z))


@pytest.mark.parametrize(("n", "d", "centre"), [(2, 1, True), (4, 7, True), (7, 4, True), (3, 5, False)])
def test_all_components(n, d, centre):
    data = np.random.default_rng(n).normal(size=(n, d)).astype(np.float32)
    found = subspace.pca(data, centre=centre)
    assert found.rank == min(n - centre, d)
    # float32, fewer than ten terms of order 1.
    np.testing.assert_allclose(found.components @ found.components.T, np.eye(found.rank), atol=1e-5)
    np.testing.assert_allclose(found.decode(found.encode(data)), data, atol=1e-5)
    if not centre:
        np.testing.assert_array_equal(found.mean, 0)


def test_choose_rank_is_the_definition():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(12, 8)) @ np.diag(0.5 ** np.arange(8.0))
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    for norm, name in ((subspace.Frobenius(), "fro"), (subspace.Nuclear(), "nuc")):
        loss = [np.linalg.norm(matrix - (u[:, :r] * s[:r]) @ v[:r], name) for r in range(9)]
        for tolerance in (0.0, 0.01, 0.1, 0.3, 0.9, 1.0):
            expected = next(r for r in range(9) if loss[r] <= tolerance * loss[0] + 1e-14)
            with jax.enable_x64(True):
                assert subspace.choose_rank(s[::-1], tolerance, norm) == expected
    # Under the transforms, an array.
    ranks = jax.jit(jax.vmap(subspace.choose_rank, (None, 0)))(jnp.asarray(s, jnp.float32), jnp.array([0.01, 0.3]))
    assert ranks.tolist() == [subspace.choose_rank(s, t) for t in (0.01, 0.3)]
    assert subspace.choose_rank(jnp.zeros(3), 0.1) == 0
    # Squares of these leave the range of float32.
    assert subspace.choose_rank(jnp.array([1e30, 1e29, 1e-30], jnp.float32), 1e-3) == 2


@pytest.mark.parametrize("norm", [subspace.Frobenius(), subspace.Nuclear()])
def test_rank_by_tolerance(norm):
    data = images(40, np.float32)
    every = subspace.pca(data)
    found = subspace.pca(data, tolerance=0.2, norm=norm)
    assert found.rank == subspace.choose_rank(every.singular_values, 0.2, norm)
    assert 1 < found.rank < every.rank
    assert found.components.shape == (found.rank, *SHAPE)
    # Never what is rounding.
    low = (data.reshape(40, -1)[:, :2] @ np.ones((2, SIZE), np.float32)).reshape(40, *SHAPE)
    assert subspace.pca(low, tolerance=0.0).rank == 1


@pytest.mark.parametrize("method", [METHODS[0], METHODS[2]], ids=lambda m: type(m).__name__)
def test_vmap_is_a_loop_and_traces_once(method):
    with jax.enable_x64(True):
        _check_lanes(method)


def _check_lanes(method):
    batch = jnp.asarray(np.stack([images(20, seed=seed) for seed in range(3)]))
    keys = jax.random.split(jax.random.key(0), 3)
    traces = []

    def reduce(data, key):
        traces.append(1)
        return subspace.pca(data, rank=3, method=method, key=key)

    mapped = jax.jit(jax.vmap(reduce))(batch, keys)
    for i in range(3):
        alone = subspace.pca(batch[i], rank=3, method=method, key=keys[i])
        np.testing.assert_allclose(mapped.components[i], alone.components, atol=1e-10)
        np.testing.assert_allclose(mapped.singular_values[i], alone.singular_values, rtol=1e-10)
        z = jax.vmap(lambda p, x: p.encode(x))(mapped, batch[:, 0])[i]
        np.testing.assert_allclose(z, alone.encode(batch[i, 0]), atol=1e-10)
    assert len(traces) == 1
    bad = jax.jit(jax.vmap(reduce))(batch.at[1, 4].set(jnp.nan), keys)
    assert np.isnan(bad.components[1]).all()
    np.testing.assert_allclose(bad.components[::2], mapped.components[::2], atol=1e-10)


@pytest.mark.slow
def test_dtypes_are_kept():
    with jax.enable_x64(True):
        found = subspace.pca(images(20, np.float32), tolerance=0.1)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    assert subspace.pca(images(20, np.float16), rank=2).mean.dtype == jnp.float32


def test_mean_keeps_its_digits():
    # 2^20 numbers: a mean that sums them naively in float32 is off in the fourth digit of the deviations.
    data = np.random.default_rng(0).normal(size=(2**20, 1)).astype(np.float32) + 1000
    np.testing.assert_allclose(subspace.pca(data, rank=1).mean, np.mean(data, 0, np.float64), rtol=1e-7)


def _bad():
    spoilt = images(10, np.float32)
    spoilt[[3, 7], 0, 0, 0] = np.nan
    low = np.ones((10, 1, 1, 1), np.float32) * np.arange(10, dtype=np.float32)[:, None, None, None]
    fine = images(10, np.float32)
    return [
        (lambda: subspace.pca(spoilt, rank=1), "example 3 .* 2 of 10"),
        (lambda: subspace.pca(fine[:0], rank=1), "empty"),
        (lambda: subspace.pca(np.full((10, *SHAPE), 0.1, np.float32), rank=1), "constant"),
        (lambda: subspace.pca(np.zeros((10, 3), np.float32), centre=False), "constant"),
        (lambda: subspace.pca(fine, rank=10), "more than the data allow, 9: 10 images about their mean"),
        (lambda: subspace.pca(low, rank=1).decode(jnp.ones(2)), r"coordinates of shape \(1,\)"),
        (lambda: subspace.pca(low * np.ones(SHAPE, np.float32), rank=2), "span 1 dimensions"),
        (lambda: subspace.pca(fine, rank=0), "at least 1"),
        (lambda: subspace.pca(fine, rank=2, tolerance=0.1), "not both"),
        (lambda: subspace.pca(fine, tolerance=1.5), r"\[0, 1\)"),
        (lambda: subspace.pca(fine[:1]), "two at least"),
        (lambda: subspace.pca((fine * 255).astype(np.uint8), rank=1), "divided by 255"),
        (lambda: subspace.pca(fine[0, 0, 0], rank=1), r"shape \(n, ...\)"),
        (lambda: subspace.pca([1.0, 2.0], rank=1), "list"),
        (lambda: subspace.pca(fine, rank=2, method="randomised"), "Thin"),
        (lambda: subspace.pca(fine, rank=2, method=subspace.Randomised()), "key"),
        (lambda: subspace.pca(fine, tolerance=0.1, norm="nuclear"), "Nuclear"),
        (lambda: jax.jit(lambda d: subspace.pca(d, tolerance=0.1))(fine), "Give `rank` there"),
        (lambda: subspace.pca(fine, rank=2).encode(fine[0, 0]), "image of shape"),
        (lambda: subspace.choose_rank(jnp.array([1.0, -1.0]), 0.1), "not negative"),
        (lambda: subspace.choose_rank(jnp.ones((2, 2)), 0.1), r"\(m,\)"),
        (lambda: subspace.choose_rank(jnp.ones(2), -0.1), "`tolerance` must be finite"),
        (lambda: subspace.Randomised(power_iterations=-1), "power_iterations"),
    ]


@pytest.mark.parametrize(("call", "match"), _bad())
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
