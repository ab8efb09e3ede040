"""The promises of the design, over the conformance table of the verbs in `verbs.py`."""

import contextlib
import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from programs import answers, assert_same, compilations
from verbs import TABLE, alone, batched, codes, same, spoilt_inputs, stacked

from jaxinv import Solution

LANES = 4
DTYPES = ("float32", "float64")


def precision(dtype):
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


@functools.cache
def outcome(row, dtype):
    """The batch, its outcome, the outcomes of its problems alone, and what was compiled after the first of these."""
    with precision(dtype):
        batch = stacked(row, jnp.dtype(dtype), LANES)
        together = jax.device_get(batched(row)(batch))
        apart = [alone(row, batch, 0)]
        with compilations() as compiled:
            apart += [alone(row, batch, i) for i in range(1, LANES)]
        return batch, together, apart, compiled


def _vmap_cases():
    """All rows in double precision; in single precision, which adds rounding only, those of each room that are sharded.

    That no number is of another precision is `test_parameters_do_not_promote`, and strict promotion in the settings.
    """
    for row in TABLE:
        for dtype in DTYPES if row.sharded and not row.discrete else DTYPES[1:]:
            yield pytest.param(row, dtype, id=f"{row!r}-{dtype}", marks=_marks(row.slow or dtype == DTYPES[0]))


def _marks(slow):
    return [pytest.mark.slow] if slow else []


def rows(belongs=lambda row: True):
    """The rows that belong to a test, the slow ones marked."""
    chosen = [pytest.param(row, id=repr(row), marks=_marks(row.slow)) for row in TABLE if belongs(row)]
    return pytest.mark.parametrize("row", chosen)


@pytest.mark.parametrize(("row", "dtype"), list(_vmap_cases()))
def test_vmap_equals_loop(row, dtype):
    _, together, apart, _ = outcome(row, dtype)
    for i, solution in enumerate(apart):
        # The figures of the design. The problems differ, so a batch that mixed its lanes up would show.
        lane = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        assert_same(lane, solution, 1e-10 if dtype == "float64" else 1e-5)
    first, second = answers(apart[0])[0][0], answers(apart[1])[0][0]
    assert np.max(np.abs(first - second)) > 1e-3 * np.max(np.abs(first))


@rows()
def test_one_trace(row):
    # Data, keys, masks, matrices, noise levels, weights (Python numbers), all new.
    assert outcome(row, "float64")[3] == []


def _spoiled(batch):
    """With a measurement that is not a number, and a noise level of 0."""
    batch = batch | {"y": batch["y"].at[1].set(jnp.nan)}
    where = lambda b: jax.tree.leaves(b["likelihood"].noise)[0]
    return eqx.tree_at(where, batch, where(batch).at[2].set(0.0))


@rows(lambda row: row.likelihood)
def test_a_bad_lane_is_flagged_and_alone(row):
    batch, clean, _, _ = outcome(row, "float64")
    with precision("float64"):
        bad = batched(row)(_spoiled(batch))
    good = jnp.array([0, 3])
    pick = lambda tree: jax.tree.map(lambda leaf: leaf[good], tree)
    # The same compiled program: bit for bit.
    assert_same(pick(bad), pick(clean), 0)
    if isinstance(bad, Solution):
        assert list(codes(bad.result)[1:3]) == ["nonfinite_measurement", "invalid_parameter"]
        np.testing.assert_array_equal(bad.value[1:3], 0)
        with pytest.raises(RuntimeError, match=r"(?s)problem\(s\) 1 of \(4,\).*problem\(s\) 2 of"):
            bad.check()
        assert codes(bad.lane(2).result) == "invalid_parameter"
    else:
        # An oracle has no code; its answer is NaN.
        assert all(np.isnan(leaf[1:3]).all() for leaf in answers(getattr(bad, "mean", bad))[0])


# The steps of a solver with a problem that cannot be solved, at most: it sees the NaN in one, and stops in another.
_AT_ONCE = 2


@rows()
def test_a_spoilt_input_is_flagged_and_alone(row):
    batch, clean, _, _ = outcome(row, "float64")
    good = jnp.array([0, 2, 3])
    pick = lambda tree: jax.tree.map(lambda leaf: leaf[good], tree)
    with precision("float64"):
        for name, spoilt in spoilt_inputs(batch):
            bad = batched(row)(spoilt)
            # The same compiled program: bit for bit.
            assert_same(pick(bad), pick(clean), 0)
            if not isinstance(bad, Solution):
                # An array has no code; it may be NaN.
                continue
            if same(bad, clean):
                continue
            assert np.all(codes(bad.result)[1] != "successful"), name
            assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(bad.value)), name
            # An infinite weight may saturate an activation, and all is finite until the end.
            saturated = re.search(r"(network|generator|model).*=inf", name)
            if "num_steps" in bad.stats and not saturated:
                # A solver with adaptive steps shortens its first step until it is lost in rounding.
                most = 30 if row.name.startswith(("diffusion-", "sample-flow")) else _AT_ONCE
                assert np.all(np.asarray(bad.stats["num_steps"])[1] <= most), name


def abstract_problem(row):
    """Shapes and dtypes of a problem in single precision: to make its numbers compiles many small programs."""
    return jax.eval_shape(lambda: row.problem(0, jnp.float32))


@rows(lambda row: row.likelihood)
def test_parameters_do_not_promote(row):
    # The operator is in float32; everything else comes in float64.
    wider = lambda leaf: leaf.update(dtype=jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
    double = lambda tree: jax.tree.map(wider, tree)
    with jax.enable_x64(True):
        problem = abstract_problem(row)
        operator = problem["likelihood"].operator
        problem = eqx.tree_at(lambda p: p["likelihood"].operator, double(problem), operator)
        out = jax.eval_shape(row.solve, problem)
    floats = [leaf for leaf in jax.tree.leaves(out) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    assert floats
    assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")}


# A program each: of the others all but four with the slow tests.
ON_TWO_DEVICES = {"tikhonov", "primal-dual", "mixture", "reconstruct-adam"}


def _device_cases():
    for row in TABLE:
        if row.sharded:
            few = row.name in ON_TWO_DEVICES
            yield pytest.param(row, "shard_map", id=f"{row!r}-shard_map", marks=_marks(not few))
            # The partitioner of `jax.jit` takes the mapped program apart without knowing which verb it is.
            if few:
                yield pytest.param(row, "jit", id=f"{row!r}-jit", marks=_marks(True))


@pytest.mark.parametrize(("row", "way"), list(_device_cases()))
def test_two_devices(row, way):
    batch, expected, _, _ = outcome(row, "float64")
    mesh = jax.make_mesh((2,), ("problems",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("problems")
    with jax.enable_x64(True):
        batch = jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(mesh, spec)), batch)
        solve = jax.vmap(row.solve)
        if way == "shard_map":
            solve = jax.shard_map(solve, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=row.check_vma)
        sharded = jax.jit(solve)(batch)
    leaf = jax.tree.leaves(sharded)[0]
    assert len(leaf.sharding.device_set) == 2
    assert_same(sharded, expected, 1e-10)
