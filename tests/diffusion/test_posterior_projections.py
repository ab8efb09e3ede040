"""Replacement, DDRM, DiffPIR and RED-diff against their papers: laws, exact constraints, lanes, what they refuse."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noising import BASIS, PROCESSES, gaussian, split_at, uniform

from jaxinv import Likelihood, diffusion, noise, operators, oracles
from jaxinv.diffusion._posterior._ddrm import DDRM
from jaxinv.diffusion._posterior._diffpir import DiffPIR
from jaxinv.diffusion._posterior._red_diff import REDDiff
from jaxinv.diffusion._posterior._replacement import Replacement

VP = PROCESSES["VP"].formula
MATRIX = np.array([[1.0, 0.5, -0.3], [0.2, -0.8, 0.6]])
Y = np.array([0.7, -0.2])
STEPS = 5
DRAWS = 10_000
KEY = jax.random.key(0)
SHAPE = (3, 2, 1)
METHODS = {"Replacement": Replacement(3), "DDRM": DDRM(3), "DiffPIR": DiffPIR(3), "REDDiff": REDDiff(3)}
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def denoised(t, x):
    """`E[x_0 | x]` of states `(3, n)`."""
    return BASIS @ split_at(VP, t, BASIS.T @ x)[0]


# Each reference takes one step, and the last one, from standard normals `z`; written from the papers.
def replacement(strength, eta, std):
    def project(x, y):
        return x + strength * np.linalg.pinv(MATRIX) @ (y - MATRIX @ x)

    def noisy(t, x, z):
        scale, sigma, *_ = VP(t)
        left = np.sqrt(np.maximum(sigma**2 - scale**2 * std**2, 0))
        return project(x, scale * Y[:, None] + left[:, None] * (MATRIX @ z))

    def step(t, s, x, z):
        (scale, sigma, *_), (scale_next, sigma_next, *_) = VP(t), VP(s)
        x = noisy(t, x, z[0])
        image = denoised(t, x)
        fresh = eta * sigma_next * np.sqrt(1 - (scale * sigma_next / (scale_next * sigma)) ** 2)
        implied = (x - scale * image) / sigma
        return scale_next * image + np.sqrt(sigma_next**2 - fresh**2) * implied + fresh * z[1]

    return lambda x: x, step, lambda t, x, z: project(denoised(t, noisy(t, x, z[0])), Y[:, None])


def ddrm(eta, eta_b, std):
    left, values, right = np.linalg.svd(MATRIX)
    bars = [left[:, i] @ Y / values[i] for i in range(2)]
    ratio = lambda t: VP(t)[1] / VP(t)[0]

    def start(z):
        r, v = ratio(1.0), right @ z
        rows = [bars[i] + np.sqrt(r**2 - std**2 / values[i] ** 2) * v[i] for i in range(2)]
        return right.T @ np.stack([*rows, r * v[2]])

    def move(t, r_next, u, z):
        r = ratio(t)
        p, v, z = right @ denoised(t, VP(t)[0] * u), right @ u, right @ z
        rows = []
        for i in range(3):
            kept = np.sqrt(1 - eta**2) * r_next
            if i == 2:
                rows.append(p[i] + kept * (v[i] - p[i]) / r + eta * r_next * z[i])
            elif r_next < std / values[i]:
                rows.append(p[i] + kept * (bars[i] - p[i]) / (std / values[i]) + eta * r_next * z[i])
            else:
                spread = np.sqrt(r_next**2 - std**2 / values[i] ** 2 * eta_b**2)
                rows.append((1 - eta_b) * p[i] + eta_b * bars[i] + spread * z[i])
        return right.T @ np.stack(rows)

    return start, lambda t, s, x, z: move(t, ratio(s), x, z[0]), lambda t, x, z: move(t, 0.0, x, z[0])


def diffpir(weight, zeta, std):
    inverse = MATRIX.T @ np.diag(1 / std**2)

    def mode(t, x):
        scale, sigma, *_ = VP(t)
        rho = weight * scale**2 / sigma**2
        return np.linalg.solve(inverse @ MATRIX + rho * np.eye(3), inverse @ Y[:, None] + rho * denoised(t, x))

    def step(t, s, x, z):
        (scale, sigma, *_), (scale_next, sigma_next, *_) = VP(t), VP(s)
        image = mode(t, x)
        implied = (x - scale * image) / sigma
        return scale_next * image + sigma_next * (np.sqrt(1 - zeta) * implied + np.sqrt(zeta) * z[0])

    return lambda x: x, step, lambda t, x, z: mode(t, x)


SCALAR, LEVELS = np.array([0.4, 0.4]), np.array([0.4, 0.25])
LAWS = {
    "Replacement": (Replacement(STEPS, rtol=1e-12), replacement(1.0, 1.0, LEVELS), LEVELS),
    "Replacement, weak": (Replacement(STEPS, 0.6, 0.5, rtol=1e-12), replacement(0.6, 0.5, SCALAR), SCALAR),
    "Replacement, std 0": (Replacement(STEPS, rtol=1e-12), replacement(1.0, 1.0, 0 * SCALAR), 0 * SCALAR),
    # At the times of the test some steps are sharper than the measurement and some are not.
    "DDRM": (DDRM(STEPS, schedule=diffusion.UniformLogSNR()), ddrm(0.85, 1.0, 0.4), np.array(0.4)),
    "DDRM, eta_b": (DDRM(STEPS, 0.5, 0.7, diffusion.UniformLogSNR()), ddrm(0.5, 0.7, 0.4), np.array(0.4)),
    "DDRM, std 0": (DDRM(STEPS, schedule=diffusion.UniformLogSNR()), ddrm(0.85, 1.0, 0.0), np.array(0.0)),
    "DiffPIR": (DiffPIR(STEPS, 7.0, 0.3, rtol=1e-12), diffpir(7.0, 0.3, LEVELS), LEVELS),
    "DiffPIR, defaults": (DiffPIR(STEPS, rtol=1e-12), diffpir(1.0, 1.0, LEVELS), LEVELS),
}


def follow(reference, times, z):
    """The end of a path, from the standard normals `(2 times + 1, 3, n)`: start, two for each step, two at the end."""
    start, step, end = reference
    x = start(z[0])
    for i in range(len(times) - 1):
        x = step(times[i], times[i + 1], x, z[1 + 2 * i : 3 + 2 * i])
    return end(times[-1], x, z[-2:])


@functools.cache
def drawn(name):
    (method, _, std), process = LAWS[name], diffusion.VP()
    likelihood = Likelihood(operators.Matrix(jnp.asarray(MATRIX), (3,)), noise.Gaussian(jnp.asarray(std)))
    solution = diffusion.posterior_sample(
        likelihood, gaussian().score(process), jnp.asarray(Y), key=KEY, method=method, num_samples=DRAWS
    )
    return solution.check(), np.asarray(method.schedule.times(process, STEPS))


def normal(key, *numbers):
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return np.asarray(jax.random.normal(key, (3,)))[:, None]


@pytest.mark.parametrize("name", [n if n == "DDRM" else pytest.param(n, marks=slow) for n in LAWS])
def test_the_steps_are_those_of_the_paper(name):
    method, reference, _ = LAWS[name]
    solution, times = drawn(name)
    for i, value in enumerate(solution.value[:2]):
        # The same noise: that of the start, of each step, in the order in which it is used, and of the end.
        steps = range(STEPS + 1)
        if isinstance(method, Replacement):
            numbers = [(0, 0), (0, 1), *((1, n, last) for n in steps for last in range(2))]
        else:
            numbers = [(0,), *((1, n) for n in steps for _ in range(2))]
        z = [normal(KEY, i, *number) for number in numbers]
        # Parameters of the methods, made without x64, are .85 and the like in single precision.
        np.testing.assert_allclose(value, follow(reference, times, np.stack(z))[:, 0], rtol=1e-5, atol=1e-5)
    assert np.all(solution.stats["network_evaluations"] == STEPS + 1)
    assert np.all(solution.stats["num_steps"] == STEPS)
    assert np.all(solution.stats["vjps"] == 0)


@slow
@pytest.mark.parametrize("name", LAWS)
def test_the_law_of_the_samples_is_that_of_the_paper(name):
    _, reference, _ = LAWS[name]
    solution, times = drawn(name)
    draws = np.asarray(solution.value)
    # An affine path makes a Gaussian of its noise: its offset, and what it makes of each unit vector.
    count = 1 + 2 * len(times)
    x = follow(reference, times, np.eye(3 * count, 3 * count + 1, k=1).reshape(count, 3, -1))
    mean, factor = x[:, 0], x[:, 1:] - x[:, :1]
    covariance = factor @ factor.T
    variances = np.diag(covariance)
    assert np.all(abs(draws.mean(0) - mean) < 4 * np.sqrt(variances / DRAWS) + 1e-8)
    spread = np.sqrt((np.outer(variances, variances) + covariance**2) / DRAWS)
    assert np.all(abs(np.cov(draws.T) - covariance) < 4 * spread + 1e-8)


@slow
def test_red_diff_takes_the_steps_of_the_paper():
    process, weight, rate = diffusion.VP(), 0.25, 0.1
    likelihood = Likelihood(operators.Matrix(jnp.asarray(MATRIX), (3,)), noise.Gaussian(0.4))
    method = REDDiff(STEPS, weight, rate)
    solution = diffusion.posterior_sample(
        likelihood, gaussian().score(process), jnp.asarray(Y), key=KEY, method=method, num_samples=2
    )
    assert np.all(solution.check().stats["network_evaluations"] == STEPS)
    for i in range(2):
        mu, first, second = np.linalg.pinv(MATRIX) @ Y, 0.0, 0.0
        steps = jax.random.fold_in(jax.random.fold_in(KEY, i), 1)
        for index, t in enumerate(uniform(STEPS)[:-1]):
            n = np.asarray(jax.random.normal(jax.random.fold_in(steps, index), (3,)))
            scale, std, *_ = VP(t)
            x = scale * mu + std * n
            predicted = (x - scale * denoised(t, x[:, None])[:, 0]) / std
            slope = -2 * MATRIX.T @ (Y - MATRIX @ mu) + weight * std / scale * (predicted - n)
            first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope**2
            unbiased = first / (1 - 0.9 ** (index + 1)), second / (1 - 0.99 ** (index + 1))
            mu = mu - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        # The start is by conjugate gradients, exact after two steps.
        np.testing.assert_allclose(solution.value[i], mu, atol=1e-9)


RNG = np.random.default_rng(0)
FACTOR, CENTRE, IMAGES = RNG.normal(size=(6, 6)) / 2, RNG.normal(size=SHAPE), RNG.normal(size=(4, *SHAPE))


def exact_score(process):
    return oracles.Gaussian.from_factor(jnp.asarray(CENTRE), jnp.asarray(FACTOR), 0.1).score(process)


MASK = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0]).reshape(SHAPE)
OPERATORS = {
    "Mask": lambda: operators.Mask(jnp.asarray(MASK, jnp.float32)),
    "Fourier": lambda: operators.MaskedFourier(jnp.asarray(MASK)) @ operators.Real(SHAPE),
    "Stack": lambda: operators.stack(
        [operators.Matrix(jnp.asarray(np.arange(6.0)[None] / 4), SHAPE), operators.Mask(jnp.asarray(MASK))]
    ),
}


def solve(method, likelihood, y, key=KEY, score=None, num_samples=2, process=None):
    process = diffusion.VP() if process is None else process
    score = exact_score(process) if score is None else score
    return diffusion.posterior_sample(likelihood, score, y, key=key, method=method, num_samples=num_samples)


def data(operator, std, index=0):
    return noise.Gaussian(std).simulate(operator(jnp.asarray(IMAGES[index])), key=jax.random.key(index))


EXACT = [(m, o) for m in ("Replacement", "DDRM") for o in OPERATORS]


@pytest.mark.parametrize(
    ("name", "kind"), [row if row == ("Replacement", "Mask") else pytest.param(*row, marks=slow) for row in EXACT]
)
def test_without_noise_the_measurement_is_met(name, kind):
    operator = OPERATORS[kind]()
    y = data(operator, 0.0)
    # What is not measured is not looked at.
    given = jax.tree.map(lambda y, m: jnp.where(jnp.broadcast_to(m, y.shape) > 0, y, jnp.nan), y, operator.measured)
    solution = solve(METHODS[name], Likelihood(operator, noise.Gaussian(0.0)), given).check()
    rounding = 1e-5 if solution.value.dtype == jnp.float32 else 1e-10
    for x in solution.value:
        difference = jax.tree.map(lambda p, y: float(jnp.max(jnp.abs(p - y))), operator(x), y)
        assert max(jax.tree.leaves(difference)) < rounding
    assert float(jnp.max(jnp.abs(solution.value[0] - solution.value[1]))) > 0.1


# Every method, and every process, in pairs.
PAIRS = list(zip(itertools.cycle(METHODS), PROCESSES, strict=False))
PAIRS += [("DDRM", process) for process in PROCESSES if ("DDRM", process) not in PAIRS]


@slow
@pytest.mark.parametrize(("name", "process"), PAIRS)
def test_every_process_and_jit(name, process):
    process = PROCESSES[process].make()
    operator = OPERATORS["Fourier"]()
    y = data(operator, 0.3)
    draw = functools.partial(solve, METHODS[name], score=exact_score(process), process=process)
    likelihood = Likelihood(operator, noise.Gaussian(0.3))
    eager, compiled = draw(likelihood, y).check(), jax.jit(draw)(likelihood, y)
    np.testing.assert_allclose(eager.value, compiled.value, rtol=1e-9, atol=1e-9)


@slow
@pytest.mark.parametrize("name", ["DDRM", "DiffPIR", "REDDiff"])
def test_correlated_and_photon_noise(name):
    operator = operators.Matrix(jnp.asarray(np.random.default_rng(3).uniform(size=(4, 6))), SHAPE)
    for model in (noise.CorrelatedGaussian(jnp.tril(jnp.ones((4, 4)))), noise.TransmissionPoisson(100.0)):
        likelihood = Likelihood(operator, model)
        y = likelihood.simulate(jnp.asarray(CENTRE**2), key=KEY)
        assert np.all(np.isfinite(solve(METHODS[name], likelihood, y).check().value))


@slow
def test_red_diff_descends_to_a_mode_of_an_operator_that_is_not_linear():
    operator = operators.Magnitude(OPERATORS["Fourier"]())
    x = jnp.asarray(IMAGES[0])
    likelihood = Likelihood(operator, noise.Gaussian(0.01))
    solution = solve(REDDiff(300), likelihood, operator(x), num_samples=3).check()
    start = [np.linalg.norm(operator(jax.random.normal(jax.random.key(i), SHAPE)) - operator(x)) for i in range(3)]
    assert max(np.linalg.norm(operator(v) - operator(x)) for v in solution.value) < 0.2 * min(start)


LINEAR = r"needs a linear operator; Magnitude.*`DPS\(\)`"
REFUSED = {
    "Replacement, photons": ("Replacement", OPERATORS["Mask"], noise.Poisson(), r"noise.Gaussian.*Poisson.*`TMPD\(\)`"),
    "Replacement, covariance": (
        "Replacement",
        OPERATORS["Mask"],
        noise.CorrelatedGaussian(np.eye(6)),
        r"got CorrelatedGaussian.*`DDRM\(\)`",
    ),
    "DDRM, large": (
        "DDRM",
        lambda: operators.Identity((65, 64, 1)),
        noise.Gaussian(0.1),
        r"4096 entries; got shape \(65, 64, 1\).*`PiGDM\(\)`",
    ),
} | {
    f"{name}, not linear": (name, lambda: operators.Magnitude(OPERATORS["Mask"]()), noise.Gaussian(0.1), LINEAR)
    for name in ("Replacement", "DDRM", "DiffPIR")
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_they_refuse(row):
    name, make, model, message = REFUSED[row]
    operator = make()
    y = jnp.ones(operator.codomain.shape)
    with pytest.raises(ValueError, match=message):
        solve(METHODS[name], Likelihood(operator, model), y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Replacement(strength=1.5), "`strength` must lie between 0 and 1; got 1.5"),
        (lambda: Replacement(eta=-0.1), "`eta` must lie between 0 and 1"),
        (lambda: Replacement(0), "`num_steps`"),
        (lambda: DDRM(eta=1.1), "`eta` must lie between 0 and 1"),
        (lambda: DDRM(eta_b=np.nan), "`eta_b` must lie between 0 and 1; got nan"),
        (lambda: DiffPIR(weight=0.0), "`weight` must be finite and positive"),
        (lambda: DiffPIR(zeta=2.0), "`zeta` must lie between 0 and 1; got 2"),
        (lambda: DiffPIR(solver_steps=0), "`solver_steps`"),
        (lambda: REDDiff(weight=-1.0), "`weight` must be finite and not negative"),
        (lambda: REDDiff(learning_rate=0.0), "`learning_rate` must be finite and positive"),
        (lambda: REDDiff(schedule="uniform"), "`schedule` must be"),
    ],
)
def test_numbers_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
