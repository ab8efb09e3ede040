import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.cluster import KMeans as Reference

from jaxinv import RESULTS, subspace
from jaxinv.subspace import _lloyd

KEY = jax.random.key(0)


def blobs(n=60, d=5, k=4, spread=1.0, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return (4 * rng.normal(size=(k, d))[rng.integers(k, size=n)] + spread * rng.normal(size=(n, d))).astype(dtype)


def nearest(data, centres):
    return ((data[:, None] - centres[None]) ** 2).sum(-1).argmin(1)


def check_consistent(found, data, k):
    """Labels are nearest centres, centres are means, and the sums of squares add up."""
    data, centres, labels = np.asarray(data, np.float64), np.asarray(found.centres), np.asarray(found.labels)
    np.testing.assert_array_equal(labels, nearest(data, centres))
    np.testing.assert_array_equal(found.assign(data.astype(found.centres.dtype)), labels)
    rtol = 1e3 * jnp.finfo(found.centres.dtype).eps
    for j in range(k):
        np.testing.assert_allclose(centres[j], data[labels == j].mean(0), rtol=rtol, atol=rtol * np.abs(data).max())
    np.testing.assert_allclose(found.inertia, ((data - centres[labels]) ** 2).sum(), rtol=rtol)
    np.testing.assert_allclose(found.total, ((data - data.mean(0)) ** 2).sum(), rtol=rtol)
    np.testing.assert_allclose(found.within + found.between, found.total, rtol=rtol)


@pytest.mark.parametrize("chunk", [2**22, 200])
def test_agrees_with_scikit_learn_from_the_same_start(chunk, monkeypatch):
    monkeypatch.setattr(_lloyd, "_CHUNK_ENTRIES", chunk)
    data = blobs(n=61 if chunk == 200 else 60)  # another shape, another program
    start = data[:4].copy()
    with jax.enable_x64(True):
        found = subspace.kmeans(data, 4, key=KEY, start=subspace.From(start))
        check_consistent(found, data, 4)
        assert found.result == RESULTS.successful
    reference = Reference(4, init=start, n_init=1, tol=0).fit(data)
    np.testing.assert_array_equal(found.labels, reference.labels_)
    np.testing.assert_allclose(found.centres, reference.cluster_centers_, rtol=1e-10)
    np.testing.assert_allclose(found.inertia, reference.inertia_, rtol=1e-10)


def test_objective_never_increases():
    data = blobs(n=80, spread=3.0)
    with jax.enable_x64(True):
        cloud = _lloyd.Cloud.of(jnp.asarray(data), 6, 1)
        method = _lloyd.Lloyd()
        problem, _ = method.prepare(cloud, jnp.asarray(data[:6]))
        state, inertias, step = method.init(problem), [], jax.jit(method.step)
        for index in range(100):
            state, finished, _ = step(problem, state, index)
            labels, centres = np.asarray(state.labels[0]), np.asarray(state.centres)
            inertias.append(((data - centres[labels]) ** 2).sum())
            # Not at the end only: within + between = total.
            between = (np.bincount(labels, minlength=6) * ((centres - data.mean(0)) ** 2).sum(1)).sum()
            np.testing.assert_allclose(inertias[-1] + between, ((data - data.mean(0)) ** 2).sum(), rtol=1e-12)
            if finished:
                break
        assert index > 3
        assert (np.diff(inertias[:-1]) < 0).all()
        assert inertias[-1] == pytest.approx(inertias[-2], rel=1e-14)
        found = subspace.kmeans(data, 6, key=KEY, start=subspace.From(data[:6]))
        assert found.num_steps == index + 1
        np.testing.assert_allclose(found.inertia, inertias[-1], rtol=1e-12)
        short = subspace.kmeans(data, 6, key=KEY, start=subspace.From(data[:6]), max_steps=2)
        assert short.result == RESULTS.max_steps_reached
        np.testing.assert_allclose(short.inertia, inertias[1], rtol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.booleans())
def test_empty_clusters_are_filled(seed, far, tight):
    # Duplicates, and starts far away from all points: nothing is nearest to them.
    rng = np.random.default_rng(seed)
    points = rng.choice(16, 6 if tight else 9, replace=False)
    data = np.stack(np.divmod(np.r_[points, rng.choice(points, 18 - len(points))], 4), 1).astype(np.float32)
    start = np.zeros((6, 2), np.float32)
    start[:far] = 1e3
    found = subspace.kmeans(data, 6, key=KEY, start=subspace.From(start))
    assert found.result == RESULTS.successful
    assert len(np.unique(found.labels)) == 6
    np.testing.assert_allclose(found.within + found.between, found.total, rtol=1e-5)
    if tight:
        np.testing.assert_allclose(found.inertia, 0, atol=1e-6)


def test_restarts():
    data = blobs(n=100, d=2, dtype=np.float32)
    few, many = (subspace.kmeans(data, 4, key=KEY, restarts=r) for r in (1, 4))
    np.testing.assert_allclose(many.inertias[0], few.inertia, rtol=1e-6)
    assert many.inertia == many.inertias.min()
    check_consistent(many, data, 4)


@pytest.mark.slow
@pytest.mark.parametrize("start", [subspace.Greedy(), subspace.PlusPlus()])
def test_every_start_is_a_point_and_all_differ(start):
    data = blobs(n=20, dtype=np.float32)
    seeds = start.centres(jnp.asarray(data), jnp.ones(20), 8, (5,), 3, key=KEY)
    for lane in np.asarray(seeds):
        assert len({int(np.flatnonzero((data == centre).all(1))[0]) for centre in lane}) == 8
    assert np.abs(seeds[0] - seeds[1]).max() > 0


@pytest.mark.slow
def test_plus_plus_draws_by_squared_distance():
    # Three points, at 0, 1 and 3: the second centre's law given the first is known.
    points = jnp.array([[0.0], [1.0], [3.0]])
    count = 4000
    seeds = subspace.PlusPlus().centres(points, jnp.ones(3), 2, (1,), count, key=KEY)[..., 0]
    expected = {(0, 1): 1 / 10, (0, 3): 9 / 10, (1, 0): 1 / 5, (1, 3): 4 / 5, (3, 0): 9 / 13, (3, 1): 4 / 13}
    for (first, second), probability in expected.items():
        share = float(jnp.mean((seeds[:, 0] == first) & (seeds[:, 1] == second)))
        # Four standard errors.
        assert abs(share - probability / 3) <= 4 * np.sqrt(probability / 3 / count)


def test_fine_structure_far_from_the_origin():
    # Two pairs of clusters: 1000 between the pairs, .01 within. The expanded square would round at .06.
    rng = np.random.default_rng(0)
    centres = np.array([[500.0, 0.0], [500.0, 0.01], [-500.0, 0.0], [-500.0, 0.01]])
    labels = np.repeat(np.arange(4), 25)
    data = (centres[labels] + 1e-3 * rng.normal(size=(100, 2)) * [0, 1]).astype(np.float32)
    found = subspace.kmeans(data, 4, key=KEY, restarts=4)
    assert len({(int(a), int(b)) for a, b in zip(labels, found.labels, strict=True)}) == 4
    check_consistent(found, data, 4)


@pytest.mark.slow
def test_lanes_and_images():
    with jax.enable_x64(True):
        clean = jnp.asarray(np.stack([blobs(40, 6, 3, seed=s) for s in range(4)])).reshape(4, 40, 3, 2)
        batch = clean.at[1, 7].set(jnp.nan).at[2].set(jnp.repeat(clean[2, :2], 20, axis=0))
        keys = jax.random.split(KEY, 4)
        traces = []

        def solve(data, key):
            traces.append(1)
            return subspace.kmeans(data, 3, key=key, restarts=2)

        mapped = jax.jit(jax.vmap(solve))(batch, keys)
        codes = [RESULTS.successful, RESULTS.nonfinite_measurement, RESULTS.breakdown, RESULTS.successful]
        for i, code in enumerate(codes):
            lane = jax.tree.map(lambda leaf, i=i: leaf[i], mapped)
            assert lane.result == code
            if code == RESULTS.successful:
                alone = subspace.kmeans(batch[i], 3, key=keys[i], restarts=2)
                np.testing.assert_array_equal(lane.labels, alone.labels)
                np.testing.assert_allclose(lane.centres, alone.centres, rtol=1e-10)
                assert lane.num_steps == alone.num_steps
                assert alone.centres.shape == (3, 3, 2)
                assert alone.assign(batch[i, 5]).shape == ()
        assert len(traces) == 1


@pytest.mark.slow
def test_modes_of_the_mixture():
    rng = np.random.default_rng(0)
    means = np.array([np.tile([8 * i, 8 * j], 40) for i in range(-2, 3) for j in range(-2, 3)])
    data = (means[np.repeat(np.arange(25), 100)] + rng.normal(size=(2500, 80))).astype(np.float32)
    found = subspace.kmeans(data, 25, key=KEY, restarts=10)
    assert found.inertia / 2500 <= 80.5
    check_consistent(found, data, 25)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: subspace.kmeans(jnp.repeat(x[:3], 4, axis=0), 4, key=KEY), "distinct examples, 3 of 12"),
        (lambda x: subspace.kmeans(x, 13, key=KEY), "`k` is 13, more than the number of distinct examples, 12"),
        (lambda x: jax.jit(lambda x: subspace.kmeans(x, 13, key=KEY))(x), "`k` is 13"),
        (lambda x: subspace.kmeans(x.at[4].set(jnp.nan), 2, key=KEY), "example 4"),
        (lambda x: subspace.kmeans(x[:0], 2, key=KEY), "empty"),
        (lambda x: subspace.kmeans(x, 0, key=KEY), "`k` must be"),
        (lambda x: subspace.kmeans(x, 2, key=KEY, restarts=0), "`restarts` must be"),
        (lambda x: subspace.kmeans(x, 2, key=jax.random.PRNGKey(0)), "typed key"),
        (lambda x: subspace.kmeans(x, 2, key=KEY, start="greedy"), "Greedy"),
        (lambda x: subspace.kmeans(x, 2, key=KEY, start=subspace.From(x[:3])), "centres have shape"),
        (lambda x: subspace.kmeans(x, 2, key=KEY, start=subspace.From(x[:2] / 0)), "finite"),
        (lambda x: subspace.KMeans(x, jnp.arange(12), jnp.zeros(())).assign(x[:, :2]), "image of shape"),
        (lambda x: subspace.Greedy(candidates=0), "candidates"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call(jnp.asarray(blobs(12, 3, dtype=np.float32)))
