"""Problems from files, data sources and iterators: as from memory, a few chunks at a time."""

import re

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from jaxinv import scale
from jaxinv.scale import Plan

COUNT, CHUNK = 11, 4
X = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32)
DOUBLE = np.float32(2) * X


def double(x):
    return 2 * x


class Counted:
    """A data source that knows how many of its items are alive."""

    def __init__(self, count=COUNT):
        self.count, self.read = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        if not 0 <= i < self.count:
            raise IndexError(i)
        self.read.append(i)
        return {"x": X[i], "factor": 2.0, "name": "problem"}


def pieces(size=CHUNK, count=COUNT, array=X):
    return (array[i : min(i + size, count)] for i in range(0, count, size))


def files(kind, folder):
    if kind == "memmap":
        array = np.memmap(folder / "x", ">f4", "w+", shape=X.shape)
        array[:] = X
        return array
    if kind == "hdf5":
        array = h5py.File(folder / "x.h5", "w").create_dataset("x", data=X, chunks=(3, 3))
        assert not isinstance(array, np.ndarray)
        return array
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/x/"}}
    array = tensorstore.open(spec, create=True, dtype="float32", shape=X.shape).result()
    array[...].write(X).result()
    return array


@pytest.mark.parametrize("kind", ["memmap", "hdf5", "zarr"])
def test_arrays_on_a_disk(kind, tmp_path):
    array = files(kind, tmp_path)
    np.testing.assert_array_equal(scale.solve_many(double, array, chunk_size=CHUNK), DOUBLE)
    both = scale.solve_many(lambda p: p["a"] + p["b"], {"a": array, "b": X}, store=tmp_path / "run")
    np.testing.assert_array_equal(both, DOUBLE)


def test_a_data_source():
    source = Counted()
    got = scale.solve_many(lambda p: p["factor"] * p["x"], source, chunk_size=CHUNK)
    np.testing.assert_array_equal(got, DOUBLE)
    # The first tells what an item is.
    assert source.read == [0, *range(COUNT)]
    keys = [jax.random.key(i) for i in range(3)]
    draws = scale.solve_many(jax.random.normal, Listed(keys))
    np.testing.assert_array_equal(draws, [jax.random.normal(key) for key in keys])


class Listed:
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def test_an_iterator_of_chunks(tmp_path):
    np.testing.assert_array_equal(scale.solve_many(double, pieces()), DOUBLE)
    # One that would go on, and calls for fewer problems than it gives.
    np.testing.assert_array_equal(scale.solve_many(double, pieces(), num_problems=10, chunk_size=3), DOUBLE[:10])
    for _ in range(2):
        stored = scale.solve_many(double, pieces(), store=tmp_path / "run")
        np.testing.assert_array_equal(stored, DOUBLE)
    assert stored.shape == X.shape


def test_results_chunk_by_chunk():
    got = []
    assert scale.solve_many(double, X, chunk_size=CHUNK, on_chunk=lambda *chunk: got.append(chunk)) is None
    assert [start for start, _ in got] == [0, 4, 8]
    np.testing.assert_array_equal(np.concatenate([results for _, results in got]), DOUBLE)


def test_only_the_first_problems():
    np.testing.assert_array_equal(scale.solve_many(double, X, num_problems=5), DOUBLE[:5])
    with pytest.raises(ValueError, match="`num_problems` is 12, and `problems` holds 11"):
        scale.solve_many(double, X, num_problems=12)


def test_the_host_holds_a_few_chunks():
    held, alive = [], [0]

    class Piece(np.ndarray):
        def __del__(self):
            alive[0] -= self.base is None

    def stream():
        for _ in range(20):
            piece = np.ones((CHUNK, 3), np.float32).view(Piece).copy()
            alive[0] += 1
            held.append(alive[0])
            yield piece
            del piece

    scale.solve_many(double, stream(), on_chunk=lambda start, results: None)
    # The first one stays, as an example of what they are.
    assert len(held) == 20
    assert max(held) <= 5


BROKEN = {
    "fewer than it should": (lambda: pieces(count=8), 11, "ended after 8 of 11 problems", 2),
    "a short one within": (
        lambda: iter([X[:4], X[4:6], X[6:10]]),
        None,
        "Chunk 1 .* has 2 problems, and those .* 4",
        1,
    ),
    "a long one": (lambda: iter([X[:4], X[4:10]]), None, "Chunk 1 .* has 6 problems, and the first had 4", 1),
    "another shape": (lambda: iter([X[:4], X[4:8, :2]]), None, r"Chunk 1 .* is float32\[4, 2\]; in the first", 1),
    "another dtype": (lambda: iter([X[:4], X[4:8].astype(int)]), None, r"Chunk 1 .* is int64\[4, 3\]", 1),
    "another structure": (lambda: iter([X[:4], [X[4:8]]]), None, "Chunk 1 .* another structure", 1),
    "no array": (lambda: iter([X[:4], "text"]), None, "Chunk 1 .* is a str, not an array", 1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_iterator_keeps_what_is_done(name, tmp_path):
    make, count, match, kept = BROKEN[name]
    with pytest.raises(ValueError, match=match) as caught:
        scale.solve_many(double, make(), num_problems=count, store=tmp_path / "run")
    assert "What is done is kept in the store" in caught.value.__notes__[0]
    seen = []
    scale.solve_many(double, pieces(), num_problems=count, store=tmp_path / "run", on_chunk=lambda i, r: seen.append(i))
    assert seen == [0, 4, 8][kept:]
    np.testing.assert_array_equal(scale.open_results(tmp_path / "run"), DOUBLE)


def test_an_iterator_and_a_store_of_another_run(tmp_path):
    scale.solve_many(double, pieces(), store=tmp_path / "run")
    for other, match in [
        (pieces(array=X + 1), "chunk 0 of `problems` .from problem 0 on. has other values now"),
        (pieces(count=8), "ended after 8 problems; those of the run in the store .* are 11"),
        (pieces(size=5), "has chunks of 4 problems, and the iterator `problems` gives 5"),
    ]:
        with pytest.raises(ValueError, match=match):
            scale.solve_many(double, other, store=tmp_path / "run")


class Raises(Listed):
    def __getitem__(self, i):
        if i == 6:
            raise OSError("the tape is torn")
        return self.items[i]


def test_wrong_sources(tmp_path):
    class Tensor:
        shape, dtype = (3,), "torch.float32"

        def __getitem__(self, i):
            return self

    for problems, options, match in [
        (iter([]), {}, "gives nothing"),
        (Listed([]), {}, "is empty: its length is 0"),
        (Listed([X[0], X[1, :2]]), {}, r"`problems\[1\]` is float32\[2\]; in the first it is float32\[3\]"),
        (Listed([{"n": "a"}, {"n": "b"}]), {}, "holds no array"),
        (Listed([("a", 1.0), ("b", 1.0)]), {}, r"`problems\[1\]` at 0 is 'b', and in the first it is 'a'"),
        ("text", {}, "holds no array"),
        (Tensor(), {}, "Tensor of torch.float32, which is no dtype of NumPy"),
        (X, {"num_problems": 0}, "`num_problems` must be a positive integer; got 0"),
        (X, {"num_problems": 2.5}, "`num_problems` must be a positive integer; got 2.5"),
    ]:
        with pytest.raises(ValueError, match=match):
            scale.solve_many(lambda p: 1.0, problems, **options)
    # What a source raises is its own affair; what is done is kept.
    with pytest.raises(OSError, match="the tape is torn"):
        scale.solve_many(double, Raises(list(X) * 4), chunk_size=CHUNK, store=tmp_path / "run")
    with pytest.raises(ValueError, match="it has 1 of 11 chunks"):
        scale.open_results(tmp_path / "run")


def test_progress_needs_a_number():
    import diffrax

    with pytest.raises(ValueError, match="`progress` needs to know how many problems there are"):
        scale.solve_many(double, pieces(), progress=diffrax.TextProgressMeter())


def test_a_plan():
    plan = scale.plan(double, X, chunk_size=CHUNK)
    assert (plan.num_problems, plan.chunk_size, plan.devices) == (COUNT, CHUNK, 1)
    assert (plan.read_bytes, plan.written_bytes) == (12, 12)
    assert 24 * CHUNK <= plan.chunk_bytes < plan.free_bytes
    rows = dict(re.split(" {2,}", line) for line in repr(plan).splitlines())
    assert rows["problems"] == "11"
    assert {"a chunk", "compilation", "all, on 8 device(s)"} <= rows.keys()
    # Eight chunks on each of two devices, of three seconds, and one to compile.
    plan = Plan(64, 4, 1, 1.0, 3.0, 100.0, 1e9, 12, 12)
    assert plan.seconds(devices=2) == 25.0
    assert plan.seconds(65, devices=2) == 28.0
    assert plan.problem_seconds == 0.75
    unknown = scale.plan(double, pieces())
    assert (unknown.num_problems, unknown.chunk_size) == (None, CHUNK)
    with pytest.raises(ValueError, match="must be positive; got None and 1"):
        unknown.seconds()
    assert jnp.isfinite(unknown.seconds(100))
