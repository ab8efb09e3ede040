"""Methods that take turns between prior and measurement, and those made for flows, against references in plain numpy.

With a Gaussian prior, its exact score and a linear operator the steps of all of them are affine, so that the law of the
samples follows by carrying a mean and a covariance along, here in `u = x_t / scale = x_0 + r n`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noising import BASIS, COVARIANCE, MEAN, PROCESSES, affine, ddim, gaussian, karras, log_snr, uniform, walk

from jaxinv import Likelihood, diffusion, noise, operators

MATRIX = np.array([[1.0, 0.5, -0.3], [0.2, -0.8, 0.6]])
STDS = np.array([0.9, 0.6])
Y = np.array([0.7, -0.2])
# The negative log-likelihood is `1/2 x^T HESSIAN x - PULL^T x` up to a constant.
HESSIAN = MATRIX.T @ np.diag(1 / STDS**2) @ MATRIX
PULL = MATRIX.T @ (Y / STDS**2)
CURVATURE = np.linalg.norm(HESSIAN, 2)
IDENTITY = np.eye(3)
DRAWS = 10_000


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def likelihood(operator=None, std=STDS):
    operator = operators.Matrix(jnp.asarray(MATRIX), (3,)) if operator is None else operator
    return Likelihood(operator, noise.Gaussian(jnp.asarray(std)))


def sample(method, process="VP", num_samples=2, y=Y, **options):
    process = PROCESSES[process].make()
    score = gaussian().score(process)
    problem = options.get("likelihood", likelihood())
    key = options.get("key", jax.random.key(0))
    return diffusion.posterior_sample(problem, score, jnp.asarray(y), key=key, method=method, num_samples=num_samples)


@dataclasses.dataclass(frozen=True)
class Law:
    """The law of a Gaussian vector `v`."""

    mean: np.ndarray
    covariance: np.ndarray

    def then(self, factor, offset=0.0, covariance=0.0):
        """The law of `factor v + offset` with fresh noise of the given covariance."""
        return Law(factor @ self.mean + offset, factor @ self.covariance @ factor.T + covariance)


def denoiser(r):
    """`E[x_0 | u] = D u + e`, and `Cov[x_0 | u]`."""
    factor = COVARIANCE @ np.linalg.inv(COVARIANCE + r**2 * IDENTITY)
    return factor, MEAN - factor @ MEAN, r**2 * factor


def ratio(process, t):
    scale, std, *_ = PROCESSES[process].formula(t)
    return std / scale


def ends(process):
    low, high = PROCESSES[process].interval
    return ratio(process, low), ratio(process, high)


def descended(law, r, process, num_steps, stochastic):
    """From `u` of noise `r` to an image: Euler for the ODE in `r`, or Euler-Maruyama for the SDE in `r^2`."""
    levels = np.linspace(r ** (1 / 7), ends(process)[0] ** (1 / 7), num_steps) ** 7
    for before, after in zip(levels, [*levels[1:], 0.0], strict=True):
        factor, offset, _ = denoiser(before)
        score = (factor - IDENTITY) / before**2
        if stochastic:
            change = before**2 - after**2
            law = law.then(IDENTITY + change * score, change * offset / before**2, change * IDENTITY * (after > 0))
        else:
            kept = after / before
            law = law.then(factor + kept * (IDENTITY - factor), (1 - kept) * offset)
    return law


def drawn_exactly(law, variance):
    gain = variance * MATRIX.T @ np.linalg.inv(variance * MATRIX @ MATRIX.T + np.diag(STDS**2))
    return law.then(IDENTITY - gain @ MATRIX, gain @ Y, variance * (IDENTITY - gain @ MATRIX))


def drawn_by_langevin(num_steps, step_size):
    def draw(law, variance):
        length = step_size / (1 / variance + CURVATURE)
        contraction = IDENTITY - length * (IDENTITY / variance + HESSIAN)
        factor, offset, spread = IDENTITY, np.zeros(3), np.zeros((3, 3))
        for _ in range(num_steps):
            factor = contraction @ factor + length / variance * IDENTITY
            offset = contraction @ offset + length * PULL
            spread = contraction @ spread @ contraction.T + 2 * length * IDENTITY
        return law.then(factor, offset, spread)

    return draw


def daps(times, ode_steps, draw=drawn_exactly):
    def law(process):
        law = Law(np.zeros(3), np.zeros((3, 3)))
        for t in times[:-1]:
            r = ratio(process, t)
            law = draw(
                descended(law.then(IDENTITY, 0.0, r**2 * IDENTITY), r, process, ode_steps, stochastic=False), r**2
            )
        return law

    return law


def pnpdm(levels, prior_steps, draw=drawn_exactly):
    def law(process):
        law = Law(np.zeros(3), levels[0] ** 2 * IDENTITY)
        for rho in levels:
            law = descended(draw(law, rho**2), rho, process, prior_steps, stochastic=True)
        return law

    return law


def annealed_langevin(times, steps_per_level, step_size):
    def law(process):
        law = Law(np.zeros(3), IDENTITY / PROCESSES[process].formula(times[0])[0] ** 2)
        for t in times[1:]:
            r = ratio(process, t)
            factor, offset, _ = denoiser(r)
            length, weight = step_size * r**2 / 2, 1 / (1 + r**2 * CURVATURE)
            step = IDENTITY + length * ((factor - IDENTITY) / r**2 - weight * HESSIAN)
            for _ in range(steps_per_level):
                law = law.then(step, length * (offset / r**2 + weight * PULL), 2 * length * IDENTITY)
        return law.then(*denoiser(r)[:2])

    return law


def straight(process, start, num_times):
    low, high = (r / (1 + r) for r in ends(process))
    taus = np.linspace(min(start, high), low, num_times)
    return taus / (1 - taus)


def ot_ode(start, gamma, num_steps):
    def law(process):
        levels = straight(process, start, num_steps)
        back = MATRIX.T @ np.linalg.solve(MATRIX @ MATRIX.T + np.diag(STDS**2), Y)
        law = Law(back, levels[0] ** 2 * IDENTITY)
        for before, after in zip(levels, [*levels[1:], 0.0], strict=True):
            factor, offset, covariance = denoiser(before)
            within = before**2 / (1 + before**2) * MATRIX @ MATRIX.T + np.diag(STDS**2)
            gain = gamma * covariance @ MATRIX.T @ np.linalg.inv(within)
            factor, offset = (IDENTITY - gain @ MATRIX) @ factor, (IDENTITY - gain @ MATRIX) @ offset + gain @ Y
            law = law.then(factor + after / before * (IDENTITY - factor), (1 - after / before) * offset)
        return law

    return law


def pnp_flow(step_size, alpha, num_noises, num_steps):
    def law(process):
        law = Law(np.zeros(3), np.zeros((3, 3)))
        for r in straight(process, 1.0, num_steps):
            length = step_size * (r / (1 + r)) ** alpha / CURVATURE
            law = law.then(IDENTITY - length * HESSIAN, length * PULL, r**2 / num_noises * IDENTITY)
            law = law.then(*denoiser(r)[:2])
        return law

    return law


@dataclasses.dataclass(frozen=True)
class Row:
    """A method and its reference, `law(process) -> Law`, and the evaluations and vector-Jacobian products it takes."""

    method: Any
    law: Callable
    evaluations: int
    process: str = "VP"
    vjps: int = 0


UNIFORM = diffusion.UniformTime()
LANGEVIN = diffusion.Langevin(num_steps=3, step_size=0.5)
ROWS = {
    "DAPS": Row(diffusion.DAPS(8, ode_steps=1, schedule=UNIFORM), daps(uniform(8), 1), 8),
    "DAPS-ODE": Row(diffusion.DAPS(6, ode_steps=3), daps(karras(6), 3), 18),
    "DAPS-Langevin": Row(
        diffusion.DAPS(6, ode_steps=1, inner=LANGEVIN), daps(karras(6), 1, drawn_by_langevin(3, 0.5)), 6
    ),
    "PnPDM": Row(
        diffusion.PnPDM(6, prior_steps=4, first=3.0, last=0.3), pnpdm(3.0 * 0.1 ** np.linspace(0, 1, 6), 4), 24
    ),
    "PnPDM-FlowMatching": Row(
        diffusion.PnPDM(6, prior_steps=4, first=3.0, last=0.3),
        pnpdm(3.0 * 0.1 ** np.linspace(0, 1, 6), 4),
        24,
        "FlowMatching",
    ),
    "PnPDM-Langevin": Row(
        diffusion.PnPDM(6, prior_steps=2, first=3.0, last=0.3, inner=LANGEVIN),
        pnpdm(3.0 * 0.1 ** np.linspace(0, 1, 6), 2, drawn_by_langevin(3, 0.5)),
        12,
    ),
    "AnnealedLangevin": Row(
        diffusion.AnnealedLangevin(10, 3, step_size=0.8), annealed_langevin(log_snr(10), 3, 0.8), 31
    ),
    "OTODE": Row(diffusion.OTODE(8, start=0.7, gamma=0.9), ot_ode(0.7, 0.9, 8), 8, vjps=8),
    "OTODE-FlowMatching": Row(diffusion.OTODE(8), ot_ode(0.8, 1.0, 8), 8, "FlowMatching", vjps=8),
    "PnPFlow": Row(diffusion.PnPFlow(8, num_noises=2, alpha=0.3), pnp_flow(1.0, 0.3, 2, 8), 16),
    "PnPFlow-FlowMatching": Row(diffusion.PnPFlow(8, step_size=0.7), pnp_flow(0.7, 0.5, 1, 8), 8, "FlowMatching"),
}
FAST = ("DAPS",)
METHODS = {
    "AnnealedLangevin": diffusion.AnnealedLangevin(4, 2),
    "DAPS": diffusion.DAPS(4, ode_steps=2),
    "DAPS-Langevin": diffusion.DAPS(4, ode_steps=2, inner=LANGEVIN),
    "PnPDM": diffusion.PnPDM(4, prior_steps=2, first=3.0),
    "PnPDM-Langevin": diffusion.PnPDM(4, prior_steps=2, first=3.0, inner=LANGEVIN),
    "OTODE": diffusion.OTODE(4),
    "DFlow": diffusion.DFlow(4, sampler=diffusion.DDIM(3)),
    "PnPFlow": diffusion.PnPFlow(4),
}
GRADIENTS = ("AnnealedLangevin", "DAPS-Langevin", "PnPDM-Langevin", "DFlow", "PnPFlow")


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in ROWS])
def test_law_of_the_samples(name):
    row = ROWS[name]
    solution = sample(row.method, row.process, DRAWS)
    draws, law = np.asarray(solution.check().value), row.law(row.process)
    variances = np.diag(law.covariance)
    assert np.all(abs(draws.mean(0) - law.mean) < 4 * np.sqrt(variances / DRAWS))
    squares = np.outer(variances, variances) + law.covariance**2
    assert np.all(abs(np.cov(draws.T) - law.covariance) < 4 * np.sqrt(squares / DRAWS))
    np.testing.assert_array_equal(solution.stats["network_evaluations"], row.evaluations)
    np.testing.assert_array_equal(solution.stats["vjps"], row.vjps)


def test_split_gibbs_draws_from_the_posterior():
    # Many steps of the prior, and levels that stay small for long: by the reference, which is the law of the samples.
    law = pnpdm(np.geomspace(1.0, 0.1, 100), 30)("VP")
    posterior = np.linalg.inv(np.linalg.inv(COVARIANCE) + HESSIAN)
    mean = posterior @ (np.linalg.solve(COVARIANCE, MEAN) + PULL)
    np.testing.assert_allclose(law.mean, mean, atol=0.05)
    np.testing.assert_allclose(law.covariance, posterior, atol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("process", ["VP", "FlowMatching"])
def test_d_flow_finds_the_minimiser(process):
    method = diffusion.DFlow(40, sampler=diffusion.DDIM(4), weight=0.5)
    solution = sample(method, process)
    times = np.linspace(*PROCESSES[process].interval[::-1], 5)
    offset, factor, _ = affine(walk(ddim(0.0)), PROCESSES[process].formula, times, draws=1)
    offset, factor = BASIS @ offset, BASIS @ np.diag(factor) @ BASIS.T
    z = np.linalg.solve(factor.T @ HESSIAN @ factor + 0.5 * IDENTITY, factor.T @ (PULL - HESSIAN @ offset))
    np.testing.assert_allclose(solution.check().value, np.stack([offset + factor @ z] * 2), atol=5e-3)
    # All decodings, of four evaluations, have a derivative.
    np.testing.assert_array_equal(solution.stats["network_evaluations"], solution.stats["vjps"])
    assert np.all(solution.stats["network_evaluations"] % 4 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", GRADIENTS)
def test_any_differentiable_operator(name):
    # What is linear without saying so gives what the matrix gives.
    product = lambda x: jnp.matmul(jnp.asarray(MATRIX), x, precision=jax.lax.Precision.HIGHEST)
    problem = likelihood(operators.NonlinearFunction(product, jax.ShapeDtypeStruct((3,), float)))
    expected = sample(METHODS[name]).check().value
    np.testing.assert_allclose(sample(METHODS[name], likelihood=problem).check().value, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", GRADIENTS)
def test_photons_through_an_operator_that_is_not_linear(name):
    operator = operators.NonlinearFunction(lambda x: jnp.abs(x) ** 2 + 0.1, jax.ShapeDtypeStruct((3,), float))
    photons = Likelihood(operator, noise.Poisson(20.0))
    y = photons.simulate(jnp.asarray(MEAN), key=jax.random.key(3))
    images = sample(METHODS[name], likelihood=photons, y=y).check().value
    assert np.all(np.isfinite(images))


@pytest.mark.slow
def test_exact_draw_of_a_complex_measurement():
    mask = jnp.array([1.0, 0.0, 1.0])[:, None, None]
    operator = operators.MaskedFourier(mask) @ operators.Real((3, 1, 1))
    problem = Likelihood(operator, noise.Gaussian(0.4))
    y = problem.simulate(jnp.asarray(MEAN)[:, None, None], key=jax.random.key(1))
    inner, score = diffusion.Exact(), gaussian().score(diffusion.VP())
    prepared, _ = inner.prepare(problem, score, y, "this test")
    draw = lambda key: inner.draw(prepared, jnp.asarray(MEAN)[:, None, None], jnp.asarray(0.25), key=key)[0]
    draws = np.asarray(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(2), DRAWS)))[:, :, 0, 0]
    rows = np.asarray(jax.vmap(operator)(jnp.asarray(IDENTITY)[:, :, None, None]))[:, :, 0, 0].T
    matrix = np.concatenate([rows.real, rows.imag])
    data = np.concatenate([y.real, y.imag])[:, 0, 0]
    covariance = np.linalg.inv(IDENTITY / 0.25 + matrix.T @ matrix / 0.16)
    mean = covariance @ (MEAN / 0.25 + matrix.T @ data / 0.16)
    assert np.all(abs(draws.mean(0) - mean) < 4 * np.sqrt(np.diag(covariance) / DRAWS))
    squares = np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2
    assert np.all(abs(np.cov(draws.T) - covariance) < 4 * np.sqrt(squares / DRAWS))


INNER = diffusion.Exact()


@pytest.mark.parametrize("method", [diffusion.OTODE(), diffusion.DAPS(inner=INNER), diffusion.PnPDM(inner=INNER)])
def test_operators_that_are_not_linear_are_refused(method):
    operator = operators.Magnitude(operators.Matrix(jnp.asarray(MATRIX), (3,)))
    with pytest.raises(ValueError, match=r"needs a linear operator.*DPS\(\)"):
        sample(method, likelihood=likelihood(operator))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: diffusion.AnnealedLangevin(0), "num_levels"),
        (lambda: diffusion.AnnealedLangevin(steps_per_level=0), "steps_per_level"),
        (lambda: diffusion.AnnealedLangevin(step_size=2.0), "step_size"),
        (lambda: diffusion.AnnealedLangevin(schedule="log"), "schedule"),
        (lambda: diffusion.DAPS(0), "num_steps"),
        (lambda: diffusion.DAPS(ode_steps=0), "ode_steps"),
        (lambda: diffusion.DAPS(inner="exact"), "inner"),
        (lambda: diffusion.PnPDM(prior_steps=0), "prior_steps"),
        (lambda: diffusion.PnPDM(first=0.1, last=1.0), "first >= last"),
        (lambda: diffusion.PnPDM(inner=1), "inner"),
        (lambda: diffusion.Exact(solver_steps=0), "solver_steps"),
        (lambda: diffusion.Langevin(step_size=-1.0), "step_size"),
        (lambda: diffusion.OTODE(start=1.0), "start"),
        (lambda: diffusion.OTODE(gamma=-1.0), "gamma"),
        (lambda: diffusion.DFlow(weight=-1.0), "weight"),
        (lambda: diffusion.DFlow(sampler=diffusion.ProbabilityFlow()), "sampler"),
        (lambda: diffusion.PnPFlow(num_noises=0), "num_noises"),
        (lambda: diffusion.PnPFlow(alpha=jnp.nan), "alpha"),
    ],
)
def test_arguments_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
