"""Every sampler, on a Gaussian with its exact score: laws, orders of convergence, failures."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_law
from noising import BASIS, PROCESSES, SAMPLERS, VARIANCES, affine, flow_exact, gaussian, spoil
from verbs import codes

from jaxinv import Unrolled, diffusion
from jaxinv.diffusion._samplers._sampler import Options

VP = PROCESSES["VP"].formula
STEPS = 16
DRAWS = 10_000


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def slow_but(*fast):
    """The names of the samplers, all but a few marked slow: a program of each costs seconds to compile."""
    return lambda names: [n if n in fast else pytest.param(n, marks=pytest.mark.slow) for n in names]


def exact_score(process):
    return gaussian().score(process)


def law(offset, latent, noise, prior_std=1.0):
    """Mean and covariance of what `affine` says, back from the principal directions."""
    variance = (prior_std * latent) ** 2 + np.sum(noise**2, axis=1)
    return BASIS @ offset, BASIS @ np.diag(variance) @ BASIS.T


STOCHASTIC = [name for name, row in SAMPLERS.items() if row.order is None and row.path]


@functools.cache
def drawn(name):
    """Many draws, of few steps."""
    process = diffusion.VP()
    return diffusion.sample(
        exact_score(process),
        (3,),
        key=jax.random.key(0),
        method=SAMPLERS[name].make(STEPS),
        num_samples=DRAWS,
        denoise=False,
    )


@pytest.mark.parametrize("name", slow_but("ReverseSDE", "Ancestral")(STOCHASTIC))
def test_law_of_the_samples(name):
    row, solution = SAMPLERS[name], drawn(name)
    expected = law(*affine(row.path, VP, row.times(STEPS)))
    assert_law(np.asarray(solution.check().value), *expected)
    np.testing.assert_array_equal(solution.stats["num_steps"], STEPS)
    if name != "ReverseSDE-ShARK":
        # So few steps that the reference is told from the law of many steps; this one is too accurate for that.
        limit = np.trace(law(*affine(row.path, VP, row.times(8 * STEPS)))[1])
        assert abs(np.trace(expected[1]) - limit) > 4 * np.trace(expected[1]) * np.sqrt(2 / DRAWS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ReverseSDE-SPaRK", "ProbabilityFlow"])
def test_law_of_adaptive_steps(name, key):
    process = diffusion.VP()
    draws = 1000 if name == "ReverseSDE-SPaRK" else DRAWS
    solution = diffusion.sample(
        exact_score(process),
        (3,),
        key=key,
        method=SAMPLERS[name].make(0),
        num_samples=draws,
        denoise=False,
    )
    scale, std, *_ = VP(1e-3)
    mean = BASIS @ flow_exact(VP, 1.0, 1e-3, np.zeros((3, 1)))[:, 0]
    covariance = BASIS @ np.diag(scale**2 * VARIANCES + std**2) @ BASIS.T
    # The tolerance of the steps, .03 of each, adds up to about that.
    assert_law(np.asarray(solution.check().value), mean, covariance, 0.03 if name == "ReverseSDE-SPaRK" else 1e-3)
    assert len(np.unique(solution.stats["num_steps"])) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ReverseSDE", "SubVP"),
        ("ReverseSDE", "VE"),
        ("ReverseSDE", "FlowMatching"),
        ("DDIM", "VE"),
        ("DDIM-0.5", "FlowMatching"),
        ("Ancestral", "SubVP"),
        ("Ancestral", "VE"),
        ("DPMSolver", "SubVP"),
        ("DPMSolver", "VE"),
        ("DPMSolver", "FlowMatching"),
    ],
)
def test_law_of_the_samples_of_other_processes(name, kind, key):
    row, process = SAMPLERS[name], PROCESSES[kind]
    low, high = process.interval
    method = row.make(STEPS)
    ratios = lambda t: process.formula(t)[1] / process.formula(t)[0]
    if name == "DPMSolver":
        # Times of equal steps in the logarithm of std / scale, by bisection.
        target = np.exp(np.linspace(np.log(ratios(high)), np.log(ratios(low)), STEPS + 1))
        below, above = np.full(STEPS + 1, low), np.full(STEPS + 1, high)
        for _ in range(60):
            middle = (below + above) / 2
            below, above = (
                np.where(ratios(middle) < target, middle, below),
                np.where(ratios(middle) < target, above, middle),
            )
        times = np.r_[high, above[1:-1], low]
    else:
        times = np.linspace(high, low, STEPS + 1)
    made = process.make()
    solution = diffusion.sample(exact_score(made), (3,), key=key, method=method, num_samples=DRAWS, denoise=False)
    assert_law(np.asarray(solution.check().value), *law(*affine(row.path, process.formula, times), process.prior_std))


DETERMINISTIC = [name for name, row in SAMPLERS.items() if row.order is not None]


@eqx.filter_jit
def ends(score, method, latents):
    run = lambda x: method.run(score, x, key=jax.random.key(0), options=Options()).end
    return jax.vmap(run)(latents)


@pytest.mark.parametrize("name", slow_but("DPMSolver")(DETERMINISTIC))
def test_order_of_convergence(name):
    row, process = SAMPLERS[name], diffusion.VP()
    latents = np.random.default_rng(0).normal(size=(3, 4))
    truth = flow_exact(VP, 1.0, 1e-3, latents)
    errors = []
    for num_steps in (32, 64):
        got = BASIS.T @ np.asarray(ends(exact_score(process), row.make(num_steps), (BASIS @ latents).T)).T
        # Step by step what the paper says, up to what rounding in the times is amplified to.
        reference = row.path(VP, row.times(num_steps), latents, np.zeros((num_steps, 2, 3, 4)))
        np.testing.assert_allclose(got, reference, atol=1e-8)
        errors.append(np.max(abs(got - truth)))
    assert abs(np.log2(errors[0] / errors[1]) - row.order) < 0.3, errors


@pytest.mark.parametrize(("name", "order"), [("ReverseSDE", 1), ("ReverseSDE-ShARK", 2)])
def test_weak_order_of_the_reverse_sde(name, order):
    # This looks at the references, to which `test_law_of_the_samples` holds the samplers: their law is exact.
    row = SAMPLERS[name]
    covariances = [law(*affine(row.path, VP, row.times(n)))[1] for n in (32, 64, 128)]
    steps = [np.max(abs(b - a)) for a, b in zip(covariances[:-1], covariances[1:], strict=True)]
    assert abs(np.log2(steps[0] / steps[1]) - order) < 0.3


@pytest.mark.parametrize("name", slow_but("Ancestral")(STOCHASTIC))
def test_a_sample_does_not_depend_on_their_number(name, key):
    process, many = diffusion.VP(), drawn(name)
    one = diffusion.sample(exact_score(process), (3,), key=key, method=SAMPLERS[name].make(STEPS), denoise=False)
    assert many.value.shape == (DRAWS, 3)
    assert one.value.shape == (3,)
    # Batches of different sizes are different programs, whose products round differently.
    np.testing.assert_allclose(many.value[0], one.value, rtol=1e-10)
    assert np.max(abs(many.value[1] - many.value[0])) > 1e-2


@pytest.mark.slow
def test_a_sample_of_adaptive_steps_does_not_depend_on_their_number(key):
    process, method = diffusion.VP(), SAMPLERS["ReverseSDE-SPaRK"].make(0)
    draw = lambda n: diffusion.sample(exact_score(process), (3,), key=key, method=method, num_samples=n)
    few, more = draw(2), draw(3)
    np.testing.assert_allclose(few.value, more.value[:2], rtol=1e-10)
    np.testing.assert_array_equal(few.stats["num_steps"], more.stats["num_steps"][:2])


@eqx.filter_jit
def paths(method, process, below, key, num_saved):
    """One sample for each time below which the score is NaN, with the same key."""
    draw = lambda b: diffusion.sample(
        spoil(exact_score(process), b),
        (3,),
        key=key,
        method=method,
        num_saved=num_saved,
        denoise=False,
    )
    return jax.vmap(draw)(below)


@pytest.mark.parametrize("name", slow_but("DDIM-0.5")([n for n, row in SAMPLERS.items() if row.path]))
def test_a_score_that_becomes_nan(name, key):
    row, process = SAMPLERS[name], diffusion.VP()
    times = np.asarray(row.times(STEPS))
    # The score of the first lane is NaN from step 6 on: evaluated at its start, or, by Heun's method, at its end.
    below = jnp.array([(times[5] + times[6]) / 2, -1.0, -1.0])
    bad = paths(row.make(STEPS), process, below, key, STEPS)
    clean = paths(row.make(STEPS), process, below.at[0].set(-1.0), key, STEPS)
    assert list(codes(bad.result)) == ["nonfinite", "successful", "successful"]
    looks_ahead = name in ("Heun", "Heun-churn", "ProbabilityFlow-Heun", "ReverseSDE-ShARK")
    done = 5 if looks_ahead else 6
    np.testing.assert_array_equal(bad.stats["num_steps"], [done + 1, STEPS, STEPS])
    states = np.asarray(clean.aux["states"])
    assert states.shape == (3, STEPS, 3)
    # The states of the run that went well: the last before the failure, and from there on that one.
    # diffrax interpolates what it saves.
    np.testing.assert_allclose(bad.value[0], states[0, done - 1], rtol=1e-14)
    np.testing.assert_array_equal(bad.aux["states"][0, :done], states[0, :done])
    stuck = np.broadcast_to(states[0, done - 1], (STEPS - done, 3))
    np.testing.assert_allclose(bad.aux["states"][0, done:], stuck, rtol=1e-14)
    # The other lanes: bit for bit.
    np.testing.assert_array_equal(bad.value[1:], clean.value[1:])
    np.testing.assert_array_equal(bad.aux["states"][1:], clean.aux["states"][1:])
    np.testing.assert_allclose(clean.aux["times"][0], times[1:], rtol=1e-9)
    np.testing.assert_allclose(states[:, -1], clean.value, rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DDIM", "ReverseSDE", "ProbabilityFlow", "ProbabilityFlow-Heun"])
def test_a_process_that_is_nan(name, key):
    # In a lane of a batch, where no error can be raised for it.
    method = SAMPLERS[name].make(4)

    @jax.jit
    @jax.vmap
    def draw(t_min):
        process = diffusion.VP(t_min=t_min)
        return diffusion.sample(exact_score(process), (3,), key=key, method=method)

    bad, clean = draw(jnp.array([1e-3, np.nan, 1e-2])), draw(jnp.array([1e-3, 2e-3, 1e-2]))
    assert list(codes(bad.result)[[0, 2]]) == ["successful", "successful"]
    assert codes(bad.result)[1] in ("invalid_parameter", "nonfinite")
    assert np.all(np.isfinite(bad.value))
    np.testing.assert_array_equal(bad.value[::2], clean.value[::2])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ProbabilityFlow", "ReverseSDE-SPaRK"])
def test_a_score_that_becomes_nan_under_adaptive_steps(name, key):
    process = diffusion.VP()
    bad = paths(SAMPLERS[name].make(0), process, jnp.array([0.5, -1.0]), key, 4)
    clean = paths(SAMPLERS[name].make(0), process, jnp.array([-1.0, -1.0]), key, 4)
    assert list(codes(bad.result)) == ["nonfinite", "successful"]
    assert np.all(np.isfinite(bad.value))
    np.testing.assert_array_equal(bad.value[1], clean.value[1])
    np.testing.assert_array_equal(bad.aux["states"][1], clean.aux["states"][1])
    # It stopped about where the score did: between the states that were saved before and after.
    np.testing.assert_allclose(clean.aux["times"][0], np.linspace(1, 1e-3, 5)[1:])
    np.testing.assert_allclose(bad.aux["states"][0, 0], clean.aux["states"][0, 0], atol=1e-6)
    np.testing.assert_array_equal(bad.aux["states"][0, 2:], np.broadcast_to(bad.value[0], (2, 3)))


@pytest.mark.parametrize("name", slow_but()(["DPMSolver", "ProbabilityFlow-Heun"]))
def test_few_states_saved_and_the_last_denoised(name, key):
    process = diffusion.VP()
    score, method = exact_score(process), SAMPLERS[name].make(7)
    draw = lambda **options: diffusion.sample(
        score, jax.ShapeDtypeStruct((3, 1), jnp.float32), key=key, method=method, num_saved=3, **options
    )
    score = eqx.tree_at(lambda s: s.mean, score, score.mean[:, None])
    solution = draw()
    times = np.asarray(solution.aux["times"])
    np.testing.assert_allclose(times, SAMPLERS[name].times(7)[[2, 4, 7]], rtol=1e-4)
    end = solution.aux["states"][-1]
    scale, std = process.marginal(1e-3)
    # The score times std^2 is small against the state: single precision, of the state.
    expected = (end + std**2 * score(jnp.float32(1e-3), end)) / scale
    np.testing.assert_allclose(solution.value, expected, rtol=1e-5, atol=1e-6)
    assert np.max(abs(end - solution.value)) > 1e-6
    assert {leaf.dtype for leaf in (solution.value, times, end)} == {jnp.dtype("float32")}
    # The step that denoises takes all stages of a solver of diffrax.
    assert solution.stats["network_evaluations"] == 8 * (2 if name == "ProbabilityFlow-Heun" else 1)


def dtypes(out):
    return {leaf.dtype for leaf in jax.tree.leaves(out) if jnp.issubdtype(leaf.dtype, jnp.floating)}


# Every sampler with a process, and every process with one sampler of each kind of loop.
SINGLE = list(zip(SAMPLERS, itertools.cycle(PROCESSES), strict=False))
SINGLE += [(name, kind) for name in ("DDIM", "ReverseSDE") for kind in PROCESSES if (name, kind) not in SINGLE]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), SINGLE)
def test_single_precision_stays_single(name, kind, key):
    # Process, oracle and method are double, as they are by default in this mode.
    process, method = PROCESSES[kind].make(), SAMPLERS[name].make(3)
    struct = jax.ShapeDtypeStruct((3,), jnp.float32)
    draw = lambda key: diffusion.sample(exact_score(process), struct, key=key, method=method, num_saved=2)
    assert dtypes(jax.eval_shape(draw, key)) == {jnp.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "ReverseSDE-SPaRK"])
def test_derivatives_in_the_parameters(name, key):
    method, forwards = SAMPLERS[name].make(8), name.startswith("ReverseSDE")

    def total(shift, beta):
        process = diffusion.VP(beta_max=beta)
        score = eqx.tree_at(lambda s: s.mean, exact_score(process), jnp.asarray([1.0, 0.5, 0.2]) + shift)
        # The noise of diffrax is not stored for a way back.
        differentiate = None if forwards else Unrolled()
        solution = diffusion.sample(score, (3,), key=key, method=method, differentiate=differentiate)
        return jnp.sum(solution.value)

    at = (jnp.asarray(0.1), jnp.asarray(10.0))
    got = jax.jit((jax.jacfwd if forwards else jax.grad)(total, argnums=(0, 1)))(*at)
    value = jax.jit(total)
    for i, derivative in enumerate(got):
        ends = [value(*(v + sign * 1e-3 * (j == i) for j, v in enumerate(at))) for sign in (1, -1)]
        numeric = (ends[0] - ends[1]) / 2e-3
        # The error of the differences is of their step squared; adaptive steps move by their tolerance.
        np.testing.assert_allclose(derivative, numeric, rtol=1e-2 if name == "ProbabilityFlow" else 1e-5, atol=1e-6)
        assert abs(derivative) > 1e-4


def test_reverse_mode_that_does_not_exist_is_named(key):
    process = diffusion.VP()
    with pytest.raises(ValueError, match="forward mode only"):
        diffusion.sample(exact_score(process), (3,), key=key, method=diffusion.ReverseSDE(4), differentiate=Unrolled())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SAMPLERS, "ProbabilityFlow-Tsit5"])
def test_evaluations_are_counted(name, key):
    method = SAMPLERS[name].make(4) if name in SAMPLERS else diffusion.ProbabilityFlow(num_steps=4)
    calls = []

    def score(t, x):
        jax.debug.callback(lambda t: calls.append(t), t)
        return -x

    solution = diffusion.sample(diffusion.Score(score, diffusion.VP()), (2,), key=key, method=method)
    jax.effects_barrier()
    assert len(calls) == solution.stats["network_evaluations"]


def test_equal_steps_of_the_share_of_noise():
    # Which is the time of flow matching, for another process too.
    for process in (diffusion.VP(), diffusion.FlowMatching()):
        times = diffusion.UniformFlow().times(process, 6)
        scale, std = process.marginal(times)
        shares = np.asarray(std / (scale + std))
        np.testing.assert_allclose(np.diff(shares), (shares[-1] - shares[0]) / 6, rtol=1e-4)
        assert (times[0], times[-1]) == (process.t_max, process.t_min)
