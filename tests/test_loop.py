import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from verbs import codes

import jaxinv
from jaxinv import RESULTS, Unrolled
from jaxinv._loop import has_converged, iterate, run
from jaxinv._method import AbstractMethod

BOTH = pytest.mark.parametrize("differentiate", [None, Unrolled()], ids=["while", "scan"])


def count_to(index, state, target):
    """Counts to a target in several leaves, so that one that is not frozen shows."""
    del index
    count, history, double = state
    return (
        (count + 1, history.at[0].add(1.0), {"double": double["double"] * 2}),
        count + 1 >= target,
        RESULTS.successful,
    )


def run_count(target, differentiate=None, max_steps=8, **options):
    state = (jnp.zeros((), int), jnp.zeros(3), {"double": jnp.ones(())})
    return iterate(count_to, state, target, max_steps=max_steps, differentiate=differentiate, **options)


@BOTH
def test_a_finished_lane_keeps_its_whole_state(differentiate):
    targets = jnp.array([[1, 5], [3, 20]])
    state, num_steps, result = jax.vmap(jax.vmap(lambda t: run_count(t, differentiate)))(targets)
    expected = np.array([[1, 5], [3, 8]])
    np.testing.assert_array_equal(num_steps, expected)
    np.testing.assert_array_equal(state[0], expected)
    np.testing.assert_array_equal(state[1][..., 0], expected)
    np.testing.assert_array_equal(state[2]["double"], 2.0**expected)
    assert codes(result).tolist() == [["successful", "successful"], ["successful", "max_steps_reached"]]


@BOTH
def test_one_lane_alone(differentiate):
    state, num_steps, result = run_count(jnp.array(3), differentiate)
    assert (int(num_steps), int(state[0]), str(codes(result))) == (3, 3, "successful")


def test_a_lane_that_does_not_start():
    code = lambda bad: RESULTS.where(bad, RESULTS.invalid_parameter, RESULTS.successful)
    solve = lambda bad: run_count(jnp.array(2), result=code(bad))
    state, num_steps, result = jax.vmap(solve)(jnp.array([True, False]))
    np.testing.assert_array_equal(num_steps, [0, 2])
    np.testing.assert_array_equal(state[0], [0, 2])
    assert list(codes(result)) == ["invalid_parameter", "successful"]


@BOTH
def test_nonfinite_keeps_the_last_finite_state(differentiate):
    def step(index, state, limit):
        # An infinity at step `limit`, in one leaf only.
        a, b = state
        return (a + 1, jnp.where(index + 1 == limit, jnp.inf, b + 1)), jnp.zeros((), bool), RESULTS.successful

    solve = lambda limit: iterate(step, (jnp.zeros(()), jnp.zeros(())), limit, max_steps=5, differentiate=differentiate)
    (a, b), num_steps, result = jax.vmap(solve)(jnp.array([3, 9]))
    np.testing.assert_array_equal(a, [2, 5])
    np.testing.assert_array_equal(b, [2, 5])
    np.testing.assert_array_equal(num_steps, [3, 5])
    assert list(codes(result)) == ["nonfinite", "max_steps_reached"]


class Walk(AbstractMethod):
    """A sum of random numbers, which stops at a number of steps."""

    scale: float = eqx.field(default=1.0, static=True)

    def prepare(self, target):
        return target, RESULTS.where(target > 0, RESULTS.successful, RESULTS.invalid_parameter)

    def init(self, problem, *, key=None):
        return jnp.zeros(())

    def step(self, problem, state, index, *, key=None):
        draw = self.scale if key is None else jax.random.normal(key)
        return state + draw, index + 1 >= problem, RESULTS.successful

    def finish(self, problem, state, *, key=None):
        return state, {"scaled": self.scale * state}


def walk(target, key=None, **options):
    method = Walk()
    problem, code = method.prepare(target)
    return run(method, problem, method.init(problem), key=key, result=code, **options)


@BOTH
def test_run_folds_the_key_of_each_step(differentiate):
    key = jax.random.key(4)
    solve = jax.vmap(lambda target: walk(target, key, max_steps=5, differentiate=differentiate))
    state, num_steps, result = solve(jnp.array([0, 2, 9]))
    draws = [float(jax.random.normal(jax.random.fold_in(key, i))) for i in range(5)]
    # Sums of up to 5 numbers of size 1.
    np.testing.assert_allclose(state, [0, sum(draws[:2]), sum(draws)], rtol=1e-5)
    np.testing.assert_array_equal(num_steps, [0, 2, 5])
    assert list(codes(result)) == ["invalid_parameter", "successful", "max_steps_reached"]


def test_run_goes_on_where_it_stopped():
    key, target = jax.random.key(5), jnp.array(6)
    whole, _, _ = walk(target, key, max_steps=10)
    half, num_steps, _ = walk(target, key, max_steps=3)
    rest, more, result = run(Walk(), target, half, key=key, first=num_steps, max_steps=10)
    assert (float(rest), int(more), str(codes(result))) == (float(whole), 3, "successful")
    assert float(walk(target, max_steps=10)[0]) == 6.0


def test_the_code_when_exhausted():
    result = run_count(jnp.array(99), max_steps=2, exhausted=RESULTS.successful)[2]
    assert str(codes(result)) == "successful"


def test_args_may_be_nan_where_no_lane_reads_them():
    state, num_steps, _ = iterate(
        lambda i, s, a: (s + 1, s + 1 >= 2, RESULTS.successful), jnp.zeros(()), jnp.array([jnp.nan, 1.0]), max_steps=5
    )
    assert (float(state), int(num_steps)) == (2, 2)


class Ticks(diffrax.AbstractProgressMeter):
    """Writes down what it is told."""

    ticks: list = eqx.field(static=True)

    def init(self):
        return jnp.zeros(())

    def step(self, state, progress):
        jax.debug.callback(lambda p: self.ticks.append(np.asarray(p).tolist()), progress)
        return state + 1

    def close(self, state):
        jax.debug.callback(lambda _: self.ticks.append("closed"), state)


def test_the_step_counter_and_the_progress_are_the_batchs():
    batched = []

    @jax.custom_batching.custom_vmap
    def probe(index, x):
        return x

    @probe.def_vmap
    def _(axis_size, in_batched, index, x):
        del axis_size, index
        batched.append(in_batched)
        return x, in_batched[1]

    def step(index, state, args):
        key, target = args
        draw = jax.random.normal(jax.random.fold_in(key, index))
        return probe(index, state + draw), index + 1 >= target, RESULTS.successful

    ticks = []

    def solve(target):
        key = jax.random.key(3)
        return iterate(step, jnp.zeros(()), (key, target), max_steps=8, progress=Ticks(ticks))

    state, num_steps, _ = jax.jit(jax.vmap(solve))(jnp.array([1, 3, 5]))
    jax.effects_barrier()
    np.testing.assert_array_equal(num_steps, [1, 3, 5])
    draws = [jax.random.normal(jax.random.fold_in(jax.random.key(3), i)) for i in range(5)]
    # Sums of up to 5 numbers of size 1.
    np.testing.assert_allclose(state, [sum(draws[:n]) for n in (1, 3, 5)], rtol=1e-5)
    assert batched
    assert all(index is False for index, _ in batched)
    assert ticks == [1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, "closed"]


def test_diffrax_meters(capfd):
    jax.block_until_ready(
        run_count(jnp.array(4), max_steps=4, progress=diffrax.TextProgressMeter(minimum_increase=0.0))
    )
    jax.effects_barrier()
    assert "100.00%" in capfd.readouterr().out


@pytest.mark.parametrize("max_steps", [0, -1, True])
def test_max_steps_must_be_a_positive_integer(max_steps):
    with pytest.raises(ValueError, match=f"`max_steps` must be a static integer of at least 1; got {max_steps!r}"):
        run_count(jnp.array(1), max_steps=max_steps)


def newton_root(a, max_steps=5):
    """The root of `a` from 1, by Newton's method."""

    def step(index, x, a):
        del index
        # Guarded at the input: a frozen lane computes it too.
        gap = x**2 - a
        new = x - jnp.where(gap == 0, 0, gap / jnp.where(gap == 0, 1, 2 * x))
        return new, jnp.abs(new**2 - a) < 1e-6, RESULTS.successful

    return iterate(step, jnp.ones_like(a), a, max_steps=max_steps, differentiate=Unrolled())


def test_unrolled_gradient_of_a_lane_that_converges_at_once():
    with jax.enable_x64(True):
        a = jnp.array([1.0 + 1e-9, 2.0])
        np.testing.assert_array_equal(jax.vmap(newton_root)(a)[1], [1, 4])
        gradient = jax.vmap(jax.grad(lambda a: newton_root(a)[0]))(a)
        h = 1e-6
        difference = (jax.vmap(newton_root)(a + h)[0] - jax.vmap(newton_root)(a - h)[0]) / (2 * h)
    # Central differences of step 1e-6 are good to 1e-9 or so here.
    np.testing.assert_allclose(gradient, difference, rtol=1e-7)


@BOTH
def test_in_shard_map(differentiate):
    mesh = jax.make_mesh((2,), ("i",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("i")
    solve = jax.vmap(lambda t: run_count(t, differentiate)[:2])
    targets = jnp.array([1, 3, 5, 20])
    sharded = jax.jit(jax.shard_map(solve, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=True))(targets)
    jax.tree.map(np.testing.assert_array_equal, sharded, solve(targets))


@pytest.mark.parametrize(
    ("change", "objective", "expected"),
    [(1e-4, 1e-4, True), (1e-2, 1e-4, False), (1e-4, 1e-2, False)],
    ids=["both still", "iterate moves", "objective moves"],
)
def test_convergence_needs_both(change, objective, expected):
    x = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    new = jax.tree.map(lambda leaf: leaf + change, x)
    one, rtol, atol = jnp.ones(()), jnp.array(1e-3), jnp.zeros(())
    assert bool(has_converged(new, x, one + objective, one, rtol, atol)) is expected


def test_convergence_is_scaled():
    x = jnp.full(3, 1e6)
    one, rtol, atol = jnp.full((), 1e12), jnp.array(1e-3), jnp.zeros(())
    assert bool(has_converged(x + 10, x, one, one, rtol, atol))
    assert not bool(has_converged(x * 1e-6 + 10, x * 1e-6, one, one, rtol, atol))


def test_lane_says_when_there_is_none():
    likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((2,)), jaxinv.noise.Gaussian(1.0))
    solve = jax.vmap(lambda y: jaxinv.classical.tikhonov(likelihood, y, weight=1.0))
    solutions = solve(jnp.ones((3, 2)))
    assert solutions.lane(-1).value.shape == (2,)
    with pytest.raises(ValueError, match="no number 100"):
        solutions.lane(100)
