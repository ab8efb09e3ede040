"""A run with a store goes on where it was stopped, to equal bits; what is damaged or of another run is found."""

import collections
import os
import shutil
import signal
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from verbs import codes

from jaxinv import RESULTS, Solution, scale
from jaxinv.scale import _chunk_size, _store

COUNT, CHUNK = 11, 4
# The files of a chunk, by what they hold.
Files = collections.namedtuple("Files", "value row")


def solve(problem):
    x = problem["x"]
    steps = jnp.sum(x > 0).astype(jnp.int32)
    result = RESULTS.where(steps > 5, RESULTS.diverged, RESULTS.successful)
    stats = {"num_steps": steps, "pair": (jnp.sin(x), None), "low": x[0].astype(jnp.bfloat16)}
    return Solution(jnp.cumsum(x, axis=1), result, stats, {"key": problem["key"]})


def another(problem):
    """The same arrays, computed in another way."""
    solution = solve(problem)
    return Solution(solution.value + 0.5, solution.result, solution.stats, solution.aux)


@pytest.fixture(scope="module")
def problems():
    x = np.random.default_rng(0).normal(size=(COUNT, 3, 4)).astype(np.float32)
    return {"x": x, "key": jax.random.split(jax.random.key(0), COUNT)}


@pytest.fixture(scope="module")
def expected(problems):
    return scale.solve_many(solve, problems, chunk_size=CHUNK)


@pytest.fixture(scope="module")
def complete(problems, tmp_path_factory):
    """A store that is done; tests copy it."""
    store = tmp_path_factory.mktemp("store") / "run"
    scale.solve_many(solve, problems, chunk_size=CHUNK, store=store)
    return store


@pytest.fixture
def store(complete, tmp_path):
    return Path(shutil.copytree(complete, tmp_path / "run"))


def files(store, number):
    return Files(store / f"value/c/{number}/0/0", store / f"commits/c/{number}/0")


def as_numpy(leaf):
    leaf = leaf[:]
    return np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(as_numpy(a), as_numpy(b))


class Stop(Exception):
    pass


def stop_after(chunks):
    """A callback that ends the run after so many chunks, and a list of the chunks."""
    seen = []

    def on_chunk(start, results):
        seen.append(start)
        assert len(results.value) == min(CHUNK, COUNT - start)
        if len(seen) == chunks:
            raise Stop

    return on_chunk, seen


def test_results_in_a_store(problems, expected, complete):
    opened = scale.open_results(complete)
    assert isinstance(opened, Solution)
    # The pair is described in the store, too.
    opened.stats["low"] = np.asarray(opened.stats["low"])
    for a, b in zip(jax.tree.leaves(opened), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(as_numpy(a), as_numpy(b))
    assert jax.tree.structure(opened) == jax.tree.structure(expected)
    assert list(codes(opened.result)) == list(codes(expected.result))
    lane, single = opened.lane(7), expected.lane(7)
    assert RESULTS[lane.result] == RESULTS[single.result]
    np.testing.assert_array_equal(lane.value, single.value)
    with pytest.raises(RuntimeError, match=r"problem\(s\) .*diverged"):
        opened.check()
    assert "StoredArray(float32[11, 3, 4]" in repr(opened)
    assert_same(
        scale.open_results(complete, like=jax.eval_shape(solve, jax.tree.map(lambda a: a[0], problems))), expected
    )
    with pytest.raises(ValueError, match="`like` has 1 arrays, and the store .* has 6: value, result"):
        scale.open_results(complete, like=1.0)


def test_an_array_in_a_store_is_indexed_as_in_memory(complete, expected):
    array, whole = scale.open_results(complete).value, expected.value
    mask = np.arange(COUNT) % 3 == 1
    indices = [3, -1, slice(2, 9), slice(None, None, -2), slice(8, 2), [5, -2, 5], mask, (2, 1), (slice(1, 3), 0), ...]
    for index in [*indices, (..., 0), (slice(None), slice(None), 2), np.int64(4)]:
        np.testing.assert_array_equal(array[index], whole[index])
    np.testing.assert_array_equal(np.asarray(array, np.float64), whole)
    np.testing.assert_array_equal(jnp.asarray(array), whole)
    assert (len(array), array.ndim, array.size, array.nbytes) == (COUNT, 3, whole.size, whole.nbytes)
    for wrong in (COUNT, -COUNT - 1, [COUNT]):
        with pytest.raises(IndexError):
            array[wrong]
    with pytest.raises(TypeError, match="random keys"):
        np.asarray(scale.open_results(complete).aux["key"])


def test_a_stopped_run_goes_on(problems, expected, tmp_path):
    store = tmp_path / "run"
    on_chunk, seen = stop_after(2)
    with pytest.raises(Stop):
        scale.solve_many(solve, problems, chunk_size=CHUNK, store=store, on_chunk=on_chunk)
    assert seen == [0, 4]
    with pytest.raises(ValueError, match="is not complete: it has 2 of 3 chunks of 4 problems"):
        scale.open_results(store)
    on_chunk, seen = stop_after(0)
    # The chunk size is that of the store.
    assert scale.solve_many(solve, problems, store=store, on_chunk=on_chunk) is None
    assert seen == [8]
    assert_same(scale.open_results(store).value, expected.value)
    # What is complete is not solved again.
    assert_same(scale.solve_many(solve, problems, chunk_size=CHUNK, store=store), expected)


@pytest.mark.parametrize("last", ["zarr.json", "commits/zarr.json", "commits/c/0/0", "commits/c/1/0"])
def test_killed_before_a_file_was_written(last, problems, expected, store):
    # Files are written one after the other, each whole or not at all. All that is written after `last` is missing.
    for number in range(3):
        if last.startswith("commits/c") and number < int(last.split("/")[2]):
            continue
        files(store, number).row.unlink()
    if last.endswith("zarr.json"):
        (store / "zarr.json").unlink()
        shutil.rmtree(store / "value")
    if last == "commits/zarr.json":
        shutil.rmtree(store)
    assert_same(scale.solve_many(solve, problems, chunk_size=CHUNK, store=store), expected)


def flip(path):
    content = bytearray(path.read_bytes())
    content[3] ^= 4
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:10])


@pytest.mark.parametrize(
    "harm", [flip, cut, Path.unlink, lambda path: path.write_bytes(b"")], ids=["flip", "cut", "missing", "empty"]
)
@pytest.mark.parametrize("kind", Files._fields)
def test_a_damaged_chunk_is_solved_again(harm, kind, problems, expected, store):
    harm(getattr(files(store, 1), kind))
    if kind == "value":
        with pytest.raises(ValueError, match="is damaged: .*solves what is damaged again"):
            scale.open_results(store).value[5]
    on_chunk, seen = stop_after(0)
    if kind == "row" and harm is Path.unlink:
        scale.solve_many(solve, problems, chunk_size=CHUNK, store=store, on_chunk=on_chunk)
    else:
        with pytest.warns(UserWarning, match=r"damaged is solved again: chunk 1 \(problems from 4 on\)"):
            scale.solve_many(solve, problems, chunk_size=CHUNK, store=store, on_chunk=on_chunk)
    assert seen == [4]
    assert_same(scale.open_results(store).value, expected.value)


def test_a_sound_file_of_another_chunk_is_found(problems, expected, store):
    shutil.copy(files(store, 0).value, files(store, 1).value)
    with pytest.warns(UserWarning, match="chunk 1 .* the checksum of value differs"):
        got = scale.solve_many(solve, problems, chunk_size=CHUNK, store=store)
    assert_same(got, expected)


def test_a_smaller_chunk_size_finishes_a_run(problems, expected, store):
    files(store, 1).row.unlink()
    # Calls of two problems make the chunk of four; rounding may depend on their number.
    got = scale.solve_many(solve, problems, chunk_size=2, store=store)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(as_numpy(a).astype(float), as_numpy(b).astype(float), rtol=1e-6)


@pytest.mark.skipif(jax.device_count() < 2, reason="there is one device; XLA_FLAGS can simulate two")
@pytest.mark.parametrize("first", [1, 2])
def test_another_mesh_finishes_a_run(first, problems, tmp_path, monkeypatch):
    meshes = {
        n: jax.make_mesh((n,), ("a",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:n])
        for n in (1, 2)
    }
    # Each device solves two at once, so that the program of two devices takes two chunks of one, and that of one half
    # a chunk of two.
    chunk, solved = 2 * first, []
    on_chunk = lambda start, results: solved.append(start)
    expected = scale.solve_many(solve, problems, mesh=meshes[first], chunk_size=chunk)
    store = tmp_path / "run"
    scale.solve_many(solve, problems, mesh=meshes[first], chunk_size=chunk, store=store)
    for number in (1, 2):
        Path(store / f"commits/c/{number}/0").unlink()
    lanes, compile_chunk = [], _chunk_size.compile_chunk
    record = lambda spec, shared, mapped, number, *rest: (
        lanes.append(number) or compile_chunk(spec, shared, mapped, number, *rest)
    )
    monkeypatch.setattr(_chunk_size, "compile_chunk", record)
    scale.solve_many(solve, problems, mesh=meshes[3 - first], chunk_size=chunk, store=store, on_chunk=on_chunk)
    assert set(lanes) == {2 * (3 - first)}
    assert solved == [chunk, 2 * chunk]
    assert_same(scale.open_results(store), expected)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda p: (solve, {**p, "x": p["x"] + 1}), "problems was values with checksum"),
        (lambda p: (solve, jax.tree.map(lambda a: a[:8], p)), "number of problems was 11, and is 8"),
        (lambda p: (solve, {**p, "x": p["x"][:, :2]}), r"problem was key: key<fry>\[\], x: float32\[3, 4\], and is"),
        (lambda p: (another, p), "program was"),
        (lambda p: (lambda q: solve(q).value, p), r"result was .*, and is float32\[3, 4\]"),
    ],
    ids=["values", "number", "shape", "function", "results"],
)
def test_a_store_of_another_run(change, match, problems, complete):
    with pytest.raises(ValueError, match=f"is of another run: .*{match}.*Give another path"):
        scale.solve_many(*change(problems), store=complete)


def _shifted(offset, x):
    return x + offset


def test_a_store_of_other_constants_or_versions(tmp_path, monkeypatch):
    x = np.arange(3.0, dtype=np.float32)
    bound = lambda offset: jax.tree_util.Partial(_shifted, jnp.float32(offset))
    scale.solve_many(bound(1.0), x, store=tmp_path / "run")
    with pytest.raises(ValueError, match="arrays of solve was values"):
        scale.solve_many(bound(2.0), x, store=tmp_path / "run")
    monkeypatch.setattr(jax, "__version__", "0.0.1")
    with pytest.raises(ValueError, match="is of another run: jax was .*, and is 0.0.1"):
        scale.solve_many(bound(1.0), x, store=tmp_path / "run")


def test_a_store_that_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch, problems, store):
    solved = []
    on_chunk = lambda start, results: solved.append(start)
    (tmp_path / "file").write_text("text")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("text")
    cases = [
        (tmp_path / "file" / "run", "Cannot write the store .*Not a directory"),
        (tmp_path / "full", "is not a store of `solve_many`, and is not empty"),
        ("nonsense://run", "cannot be opened"),
    ]
    if os.getuid() != 0:  # Nobody forbids root anything.
        (tmp_path / "closed").mkdir(mode=0o500)
        cases.append((tmp_path / "closed" / "run", "Cannot write the store .*[Pp]ermission"))
    for path, match in cases:
        with pytest.raises(ValueError, match=match):
            scale.solve_many(solve, problems, store=path, on_chunk=on_chunk)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: collections.namedtuple("Usage", "free")(1000))
    with pytest.raises(ValueError, match="results of 11 problems take .* kB, and 1 kB are free"):
        scale.solve_many(solve, problems, store=tmp_path / "other", on_chunk=on_chunk)
    # What is done is read all the same; for what is missing there is no room, and then there are no rights.
    scale.solve_many(solve, problems, store=store, on_chunk=on_chunk)
    for number in range(3):
        files(store, number).row.unlink()
    with pytest.raises(ValueError, match="results of 11 problems take .* kB, and 1 kB are free"):
        scale.solve_many(solve, problems, store=store, on_chunk=on_chunk)
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    with pytest.raises(ValueError, match="Cannot write the store .*permission denied"):
        scale.solve_many(solve, problems, store=store, on_chunk=on_chunk)
    assert solved == []
    for path, match in [(tmp_path / "nothing", "There is no store"), (tmp_path / "full", "There is no store")]:
        with pytest.raises(ValueError, match=match):
            scale.open_results(path)
    (tmp_path / "full" / "zarr.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a store of `solve_many`, or its `zarr.json` is corrupt"):
        scale.open_results(tmp_path / "full")


def test_a_disk_that_is_full_later(tmp_path, problems, expected, monkeypatch):
    write = _store.Store.write

    def full(self, number, *arguments):
        if number == 1:
            # What tensorstore says in that case.
            self.commits = None
            self.arrays = [FullDisk()] * len(self.arrays)
        write(self, number, *arguments)

    monkeypatch.setattr(_store.Store, "write", full)
    with pytest.raises(OSError, match="Cannot write chunk 1 to the store .*No space left"):
        scale.solve_many(solve, problems, chunk_size=CHUNK, store=tmp_path / "run")
    monkeypatch.undo()
    assert_same(scale.solve_many(solve, problems, store=tmp_path / "run"), expected)


class FullDisk:
    def __getitem__(self, rows):
        return self

    def write(self, part):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left on device")


@pytest.fixture
def interruptible():
    """A shell lets what it starts in the background ignore the signal, and the run then ignores it too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_finishes_the_running_chunk(tmp_path, problems, expected):
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def on_chunk(start, results):
        seen.append(start)
        if start == 0:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="the same call of `solve_many` goes on"):
        scale.solve_many(solve, problems, chunk_size=CHUNK, store=tmp_path / "run", on_chunk=on_chunk)
    # The second chunk was running.
    assert seen == [0, 4]
    assert signal.getsignal(signal.SIGINT) is before
    assert_same(scale.solve_many(solve, problems, store=tmp_path / "run"), expected)

    def twice(start, results):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        scale.solve_many(solve, problems, chunk_size=CHUNK, store=tmp_path / "other", on_chunk=twice)
    assert not caught.value.args
    assert signal.getsignal(signal.SIGINT) is before


def test_a_thread_can_run_with_a_store(tmp_path, problems, expected):
    # Only the main thread can handle signals.
    got = []
    thread = threading.Thread(
        target=lambda: got.append(scale.solve_many(solve, problems, chunk_size=CHUNK, store=tmp_path / "run"))
    )
    thread.start()
    thread.join()
    assert_same(got[0], expected)


def test_results_of_any_structure(tmp_path):
    results = {
        "array": lambda x: x,
        "list": lambda x: [x, (x, {"commits": x})],
        "empty": lambda x: {"none": jnp.zeros((0, 3)), "x": x},
        "custom": lambda x: scale.Addressable(x, {"a": 2 * x}),
    }
    x = jnp.arange(3.0)
    for name, function in results.items():
        got = scale.solve_many(function, x, store=tmp_path / name)
        assert_same(got, jax.vmap(function)(x))
        opened = scale.open_results(tmp_path / name)
        if name != "custom":
            assert_same(opened, got)
        else:
            assert set(opened) == {"numbers", "results.a"}
            np.testing.assert_array_equal(opened["results.a"], 2 * x)
