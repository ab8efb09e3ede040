"""`solve_many` is a loop over problems, whatever the chunks and the devices."""

import itertools
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from verbs import TABLE, alone, codes, stacked

from jaxinv import RESULTS, Solution, operators
from jaxinv._mesh import check_mesh
from jaxinv.scale import _memory, _problems, _program, solve_many

ROWS = {repr(row): row for row in TABLE}
COUNT = 7
two = pytest.mark.skipif(jax.device_count() < 2, reason="there is one device; XLA_FLAGS can simulate two")


class Meter(diffrax.AbstractProgressMeter):
    """Records what it is told, calls a function at every tick, and stops the run after so many by raising."""

    ticks: list = eqx.field(static=True)
    most: float = eqx.field(static=True, default=np.inf)
    note: object = eqx.field(static=True, default=lambda: None)

    def init(self):
        return jnp.zeros(())

    def step(self, state, progress):
        self.ticks.append(float(progress))
        self.note()
        if len(self.ticks) >= self.most:
            raise KeyboardInterrupt
        return state

    def close(self, state):
        self.ticks.append("closed")


def _mesh(devices=2, names=("problems",), types=AxisType.Auto):
    shape = (devices,) + (1,) * (len(names) - 1)
    return jax.make_mesh(shape, names, axis_types=(types,) * len(names), devices=jax.devices()[:devices])


def _halve(problem):
    """As many halvings as it takes: a loop whose length differs from problem to problem."""
    start = (problem["x"], jnp.zeros((), jnp.int32))
    x, steps = jax.lax.while_loop(
        lambda s: jnp.max(jnp.abs(s[0])) > problem["tolerance"], lambda s: (s[0] / 2, s[1] + 1), start
    )
    return Solution(x, RESULTS.where(steps > 5, RESULTS.diverged, RESULTS.successful), {"num_steps": steps})


def _halves(count=COUNT, dtype=np.float32):
    x = np.random.default_rng(0).normal(size=(count, 4, 3)).astype(dtype)
    return {"x": x, "tolerance": np.geomspace(1, 1e-3, count).astype(dtype)}


def _assert_equal(got, expected):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def compare_with_a_loop(name, mesh, chunk_size, count=5):
    """In float64: equal steps and codes, values to 1e-10, the figures of the first promise."""
    row = ROWS[name]
    with jax.enable_x64(True):
        problems = stacked(row, jnp.float64, count)
        together = solve_many(row.solve, problems, mesh=mesh, chunk_size=chunk_size)
        assert isinstance(together, Solution)
        for i in range(count):
            lane, expected = together.lane(i), alone(row, problems, i)
            assert RESULTS[lane.result] == RESULTS[expected.result]
            for a, b in zip(jax.tree.leaves(lane), jax.tree.leaves(expected), strict=True):
                assert a.dtype == b.dtype
                if np.issubdtype(a.dtype, np.floating):
                    np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * np.max(np.abs(b), initial=1.0))
                else:
                    np.testing.assert_array_equal(a, b)


VERBS = ["tikhonov-operator", "fista", "reconstruct-restarts"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "tikhonov-operator" else pytest.mark.slow) for n in VERBS]
)
@two
def test_verbs_on_two_devices_equal_a_loop(name):
    # Three, rounded up to four, of five problems: the last chunk is mostly padding.
    compare_with_a_loop(name, _mesh(), 3)


@pytest.mark.slow
def test_verbs_on_eight_devices_equal_a_loop():
    code = (
        "import jax, test_solve_many as t\n"
        "assert jax.device_count() == 8\n"
        "for name in t.VERBS: t.compare_with_a_loop(name, t._mesh(8), None, count=11)\n"
        "t.test_chunks_and_devices(None, 8)\n"
    )
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent / "helpers"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": paths, "JAX_NUMPY_RANK_PROMOTION": "raise"}
    subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, check=True)


@pytest.mark.parametrize("devices", [0, 1, pytest.param(2, marks=two)])
@pytest.mark.parametrize("chunk_size", [1, 3, COUNT, None])
def test_chunks_and_devices(chunk_size, devices):
    problems = _halves()
    got = solve_many(_halve, problems, mesh=_mesh(devices) if devices else None, chunk_size=chunk_size)
    # Halving is exact.
    _assert_equal(got, jax.vmap(_halve)(problems))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves((got.value, got.stats)))
    steps = got.stats["num_steps"]
    assert len(set(steps)) > 3
    assert list(codes(got.result) == "diverged") == list(steps > 5)
    with pytest.raises(RuntimeError, match=r"problem\(s\) .*diverged"):
        got.check()


@two
@pytest.mark.parametrize("types", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_any_mesh(types):
    problems = _halves()
    _assert_equal(solve_many(_halve, problems, mesh=_mesh(names=("a", "b"), types=types)), solve_many(_halve, problems))


@two
def test_no_device_waits_for_another():
    # In one program for all devices a loop goes on until every lane has finished, and asks them all at each step. With
    # a loop for each device, a problem that takes long costs the other device nothing: no collective operation.
    problems = _halves(8)
    spec, shared, mapped, _ = _problems.split(_halve, problems, check_mesh(_mesh()))
    text = _program.compile_chunk(spec, shared, mapped, 8, problems).as_text()
    assert "while" in text
    assert not re.search(r"all-reduce|all-gather|all-to-all|collective-permute", text)


def test_padding_is_said(caplog):
    with caplog.at_level(logging.INFO, "jaxinv.scale"):
        solve_many(_halve, _halves(), chunk_size=3)
    assert "7 problems in 3 chunk(s) of 3: the last problem is solved 2 more time(s)" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "jaxinv.scale"):
        solve_many(_halve, _halves(), chunk_size=COUNT)
    assert not caplog.text


class Shifted(eqx.Module):
    """A `solve` that holds an array, which all problems share."""

    offset: jax.Array
    traces: list = eqx.field(static=True)

    def __call__(self, x):
        self.traces.append(x.shape)
        return x + self.offset


class Hashable(list):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


@pytest.mark.parametrize("devices", [None, pytest.param(2, marks=two)])
def test_one_trace(devices):
    traces = Hashable()
    mesh = devices and _mesh(devices)
    x = _halves()["x"]
    for offset in (1.0, 2.0):
        # Chunks, a shorter last one, other data, another value of what is shared.
        got = solve_many(Shifted(jnp.asarray(offset), traces), x + offset, mesh=mesh, chunk_size=2)
        np.testing.assert_array_equal(got, x + offset + offset)
    assert traces == [(4, 3)]
    bound = jax.tree_util.Partial(_add, jnp.asarray(3.0))
    np.testing.assert_array_equal(solve_many(bound, x, mesh=mesh), x + np.float32(3))


def _add(a, b):
    return a + b


def test_kinds_of_leaves(tmp_path):
    keys = jax.random.split(jax.random.key(0), COUNT)
    stored = np.memmap(tmp_path / "y", np.float64, "w+", shape=(COUNT, 3))
    stored[:] = np.random.default_rng(1).normal(size=stored.shape)
    masks = jax.vmap(operators.Mask)(jnp.asarray(np.eye(COUNT, 3)))
    problems = {
        "key": keys,
        "y": stored,
        "operator": masks,
        "f": jnp.tanh,
        "n": 2,
        "low": jnp.ones(COUNT, jnp.bfloat16),
    }

    def solve(p):
        noise = jax.random.normal(p["key"], (3,), p["y"].dtype)
        return {"x": p["n"] * p["f"](p["operator"](p["y"] + noise)), "key": p["key"], "low": p["low"], "one": 1.0}

    got = solve_many(solve, problems, chunk_size=3)
    # As in a loop, without x64 what is stored in float64 is solved in float32.
    assert got["x"].dtype == np.float32
    for i in range(COUNT):
        pick = lambda tree, i=i: jax.tree.map(lambda leaf: leaf[i], tree)
        one = {**problems, **pick({name: problems[name] for name in ("key", "operator", "low")})}
        expected = jax.jit(lambda y, one=one: solve({**one, "y": y})["x"])(stored[i])
        np.testing.assert_allclose(got["x"][i], expected, rtol=1e-6)
    assert jnp.array_equal(jax.random.key_data(got["key"]), jax.random.key_data(keys))
    assert got["low"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(got["one"], np.ones(COUNT))
    got["x"][0] = 0.0  # nobody else's memory


def test_static_leaves_that_are_equal_are_not_the_same():
    solve = lambda p: p["y"] * p["n"]
    kinds = [solve_many(solve, {"y": np.arange(3), "n": n}).dtype.kind for n in (1, 1.0, 1)]
    assert kinds == ["i", "f", "i"]


def test_device_memory_is_bounded():
    x = np.ones((64, 1000), np.float32)
    held = []

    def note():
        held.append(sum(leaf.nbytes for leaf in jax.live_arrays()))

    before = sum(leaf.nbytes for leaf in jax.live_arrays())
    got = solve_many(lambda x: 2 * x, x, chunk_size=4, progress=Meter([], note=note))
    np.testing.assert_array_equal(got, 2 * x)
    assert len(held) == 16
    # Two chunks, in and out, and scalars.
    assert max(held) - before <= 2 * 2 * 4 * x[0].nbytes + 1000


def test_progress():
    meter = Meter([])
    solve_many(_halve, _halves(), chunk_size=3, progress=meter)
    np.testing.assert_allclose(meter.ticks[:-1], [3 / 7, 6 / 7, 1])
    assert meter.ticks[-1] == "closed"
    meter = Meter([], most=1)
    with pytest.raises(KeyboardInterrupt):
        solve_many(_halve, _halves(), chunk_size=3, progress=meter)
    assert meter.ticks[1:] == ["closed"]
    _assert_equal(solve_many(_halve, _halves(), chunk_size=3), solve_many(_halve, _halves()))


def _hungry(x):
    """Sorting cannot be fused: 4 * 1000 * 1000 bytes of temporary memory for each problem, at least."""
    return jnp.sum(jnp.sort(x[:, None] * x[None, :], axis=0))


MEGABYTES = np.ones((12, 1000), np.float32)


def _available(monkeypatch, size):
    monkeypatch.setattr(_memory, "_free_on_host", lambda: float(size))
    monkeypatch.setattr(_memory, "_free_in_container", lambda: np.inf)


@pytest.mark.parametrize("devices", [pytest.param(None, marks=pytest.mark.slow), pytest.param(2, marks=two)])
def test_the_chunk_fits_the_memory(monkeypatch, devices):
    _available(monkeypatch, 40e6)
    mesh = devices and _mesh(devices)
    meter = Meter([])
    got = solve_many(_hungry, MEGABYTES, mesh=mesh, progress=meter)
    np.testing.assert_allclose(got, 1e6)
    # Half of the memory, 20 MB, for two chunks of 4 MB a problem, or of 8 where XLA sorts into another place; two
    # devices share it.
    assert len(meter.ticks) - 1 in (6, 12)

    with pytest.raises(MemoryError, match="12 problems at once need about .*40 MB are free") as caught:
        solve_many(_hungry, MEGABYTES, mesh=mesh, chunk_size=12)
    advised = int(re.search(r"chunk_size=(\d+)", str(caught.value))[1])
    assert 1 <= advised < 12
    meter = Meter([])
    np.testing.assert_array_equal(solve_many(_hungry, MEGABYTES, mesh=mesh, chunk_size=advised, progress=meter), got)
    assert len(meter.ticks) - 1 == -(-12 // advised)


def test_not_even_one_fits(monkeypatch):
    _available(monkeypatch, 1e6)
    for chunk_size in (None, 3):
        with pytest.raises(MemoryError, match="1 MB are free.*Not even"):
            solve_many(_hungry, MEGABYTES, chunk_size=chunk_size)


def test_out_of_memory_while_running(monkeypatch):
    # More than an address can reach, so that no machine has it; the estimate is told that there is enough.
    _available(monkeypatch, np.inf)
    monkeypatch.setattr(_memory, "_MOST", {})
    with pytest.raises(MemoryError, match=r"4 problems at once, which were estimated .* TB: try `chunk_size=2`"):
        solve_many(_hungry, np.ones((4, 10_000_000), np.float32))


@pytest.mark.parametrize("need", [lambda c: 100 + 7 * c, lambda c: 7 * c, lambda c: 700, lambda c: 7 * c + c % 3])
@pytest.mark.parametrize("refused", [np.inf, 300])
def test_the_search_for_a_chunk(need, refused):
    # A TPU's compiler refuses large programs, and does not say how large.
    size = lambda c: need(c) if c < refused else np.inf
    for start, limit in itertools.product([1, 5, 64, 1000], [0.0, 100.0, 107.0, 500.0, 1e9]):
        asked = []
        chunk = _memory.largest(lambda c, asked=asked: asked.append(c) or size(c), start, limit)
        halves = [start]
        while halves[-1] > 1:
            halves.append(-(-halves[-1] // 2))
        fitting = [c for c in halves if size(c) <= limit]
        assert chunk == (fitting[0] if fitting else None)
        # Each is a compilation.
        assert len(asked) <= 6


BAD = {"x": np.ones((5, 3)), "y": np.ones((5,))}


@pytest.mark.parametrize(
    ("solve", "problems", "options", "match"),
    [
        (_add, BAD, {}, r"function of one problem.*\(a, b\).*missing a required argument: 'b'"),
        (3, BAD, {}, "function of one problem; got int"),
        (lambda p: jax.vmap(jnp.sum)(p["y"]), BAD, {}, r"ONE problem.*x: float64\[3\], y: float64\[\].*rank"),
        (lambda p: p["z"], BAD, {}, "KeyError: 'z'"),
        (lambda p: "text", BAD, {}, "returns a str"),
        (lambda p: {"a": jnp.sum}, BAD, {}, "at a, which is not an array"),
        (lambda p: None, BAD, {}, "returns no array"),
        (jnp.sum, {**BAD, "z": np.ones(4)}, {}, r"most have 5, these do not: z \[4\]"),
        (jnp.sum, {**BAD, "z": np.ones(())}, {}, r"these do not: z \[\]"),
        (jnp.sum, [np.ones(2), np.ones(3)], {}, r"got: 0 \[2\], 1 \[3\]"),
        (jnp.sum, {"a": {"b": np.ones((0, 2))}}, {}, "empty"),
        (jnp.sum, {}, {}, "holds no array"),
        (jnp.sum, {"n": 3}, {}, "holds no array"),
        (jnp.sum, np.array(["a", "b"]), {}, "has the dtype <U1"),
        (jnp.sum, {"x": np.ones(2), "s": {1}}, {}, "s is a set"),
        (jnp.sum, np.ones(5), {"chunk_size": 0}, "`chunk_size` is 0; it must be at least 1"),
        (jnp.sum, np.ones(5), {"chunk_size": -1}, "`chunk_size` is -1"),
        (jnp.sum, np.ones(5), {"chunk_size": 6}, "`chunk_size` is 6;.*at most the number of problems, 5"),
        (jnp.sum, np.ones(5), {"chunk_size": 2.0}, "`chunk_size` must be an integer"),
        (jnp.sum, np.ones(5), {"chunk_size": True}, "`chunk_size` must be an integer"),
        (jnp.sum, np.ones(5), {"mesh": 8}, "`mesh` must be a `jax.sharding.Mesh`.*got int"),
        (jnp.sum, np.ones(5), {"progress": "tqdm"}, "`progress` must be a diffrax progress meter"),
        (jnp.sum, np.ones(5), {"store": 3}, "`store` must be a path or a URL; got 3"),
        (jnp.sum, np.ones(5), {"store": ""}, "`store` must be a path or a URL; got ''"),
        (jnp.sum, np.ones(5), {"on_chunk": 3}, "`on_chunk` must be a function .*got 3"),
        (jnp.sum, np.ones(5), {"on_chunk": lambda start: None}, r"`on_chunk\(start, results\)`; got <function"),
        (jnp.sum, np.ones(5), {"gather": "yes"}, "`gather` must be True or False; got 'yes'"),
    ],
)
def test_wrong_input(solve, problems, options, match):
    with pytest.raises(ValueError, match=match):
        solve_many(solve, problems, **options)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad])
@pytest.mark.parametrize("closed_over", [False, True])
def test_inside_a_transformation(transform, closed_over):
    def call(a):
        if closed_over:
            return jnp.sum(solve_many(lambda x: x * jnp.sum(a), np.ones(3)))
        return jnp.sum(solve_many(jnp.sum, jnp.ones(3) * a))

    with pytest.raises(ValueError, match=r"runs on the host.*call `jax.vmap\(solve\)\(problems\)`"):
        transform(call)(jnp.ones((2,) if transform is jax.vmap else ()))
