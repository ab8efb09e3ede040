"""The conformance tables of score-based diffusion: a new process, or a new sampler, is a new row.

The references are written out in plain numpy, from the papers. A Gaussian prior makes every step of every sampler
affine in the state and the noise, so a law is known by running a step-by-step reference over unit vectors.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from jaxinv import diffusion, oracles

MEAN = np.array([1.0, -0.5, 0.3])
COVARIANCE = np.array([[1.0, 0.3, 0.1], [0.3, 0.5, -0.2], [0.1, -0.2, 0.4]])
# Along the principal directions everything below is scalar.
VARIANCES, BASIS = np.linalg.eigh(COVARIANCE)
CENTRE = BASIS.T @ MEAN


def gaussian(dtype=None):
    return oracles.Gaussian(jnp.asarray(MEAN, dtype), jnp.asarray(COVARIANCE, dtype))


@dataclasses.dataclass(frozen=True)
class Process:
    """One noising process.

    - `make`: from its parameters, in the order of `lanes`; called without any for the defaults.
    - `formula`: `(scale, std, f, g)` of the defaults at times, `f` the factor of `x` in the drift.
    - `interval`: `t_min` and `t_max` of the defaults.
    - `lanes`: parameters of four processes.
    """

    make: Callable[..., Any]
    formula: Callable[[np.ndarray], tuple]
    interval: tuple[float, float]
    prior_std: float
    lanes: dict[str, list[float]]


def _vp(t):
    rate = 0.1 + 19.9 * t
    scale = np.exp(-0.25 * t**2 * 19.9 - 0.05 * t)
    return scale, np.sqrt(1 - scale**2), -rate / 2, np.sqrt(rate)


def _sub_vp(t):
    scale, _, f, g = _vp(t)
    return scale, 1 - scale**2, f, g * np.sqrt(1 - scale**4)


def _ve(t):
    sigma = 0.01 * 5000.0**t
    return np.ones_like(t), np.sqrt(sigma**2 - 0.01**2), 0 * t, sigma * np.sqrt(2 * np.log(5000))


def _discrete_vp(t):
    # The betas of DDPM; between two steps the logarithm of the scale is linear.
    depth = -np.log1p(-np.linspace(1e-4, 0.02, 1000))
    # A thousandth of a step is rounding.
    step = np.clip(np.ceil(t * 1000 - 1e-3) - 1, 0, 999).astype(int)
    square = np.exp(-np.concatenate([[0], np.cumsum(depth)])[step] - (t * 1000 - step) * depth[step])
    rate = 1000 * depth[step]
    return np.sqrt(square), np.sqrt(1 - square), -rate / 2, np.sqrt(rate)


def _edm(t):
    return np.ones_like(t), t, 0 * t, np.sqrt(2 * t)


def _flow_matching(t):
    return 1 - t, t, -1 / (1 - t), np.sqrt(2 * t / (1 - t))


PROCESSES = {
    "VP": Process(
        diffusion.VP, _vp, (1e-3, 1.0), 1.0, {"beta_min": [0.1, 0.2, 0.5, 0.0], "beta_max": [20.0, 10.0, 15.0, 40.0]}
    ),
    "SubVP": Process(
        diffusion.SubVP,
        _sub_vp,
        (1e-3, 1.0),
        1.0,
        {"beta_min": [0.1, 0.2, 0.5, 0.0], "beta_max": [20.0, 10.0, 15.0, 40.0]},
    ),
    "VE": Process(
        diffusion.VE,
        _ve,
        # sigma(t)^2 = 2 sigma_min^2 where the exact std is sigma_min.
        (np.log(2) / (2 * np.log(5000)), 1.0),
        np.sqrt(50**2 - 0.01**2),
        {"sigma_min": [0.01, 0.02, 0.05, 0.1], "sigma_max": [50.0, 10.0, 20.0, 5.0]},
    ),
    "FlowMatching": Process(
        diffusion.FlowMatching,
        _flow_matching,
        (1e-3, 1 - 1e-3),
        1.0,
        {"t_min": [1e-3, 2e-3, 5e-3, 1e-2], "t_max": [0.999, 0.99, 0.98, 0.95]},
    ),
    "DiscreteVP": Process(
        lambda beta_start=1e-4, beta_end=0.02: diffusion.DiscreteVP.linear(1000, beta_start, beta_end),
        _discrete_vp,
        (1e-3, 1.0),
        1.0,
        {"beta_start": [1e-4, 2e-4, 5e-4, 1e-3], "beta_end": [0.02, 0.01, 0.03, 0.05]},
    ),
    "EDM": Process(
        diffusion.EDM,
        _edm,
        (0.002, 80.0),
        80.0,
        {"sigma_min": [0.002, 0.01, 0.05, 0.1], "sigma_max": [80.0, 50.0, 20.0, 5.0]},
    ),
}


def score_at(formula, t, x):
    """The exact score of the Gaussian, along the principal directions: `x` is `(3, ...)`."""
    scale, std, _, _ = formula(t)
    column = (-1,) + (1,) * (x.ndim - 1)
    total = (scale**2 * VARIANCES + std**2).reshape(column)
    return -(x - scale * CENTRE.reshape(column)) / total


def split_at(formula, t, x):
    """`E[x_0 | x]` and `E[n | x]`."""
    scale, std, _, _ = formula(t)
    score = score_at(formula, t, x)
    return (x + std**2 * score) / scale, -std * score


# Each reference takes a path from `x` through the times, given the standard normals of each step, `(3, ...)` each.
def _reverse_drift(formula, t, x):
    _, _, f, g = formula(t)
    return f * x - g**2 * score_at(formula, t, x)


def euler_maruyama(formula, t, s, x, z):
    return x - (t - s) * _reverse_drift(formula, t, x) + np.sqrt(t - s) * formula(t)[3] * z[0]


def shark(formula, t, s, x, z):
    # Foster, dos Reis, Strange (2023), equation 6.1: Brownian increment and space-time Levy area.
    h = t - s
    increment, area = np.sqrt(h) * z[0], np.sqrt(h / 12) * z[1]
    g, g_next = formula(t)[3], formula(s)[3]
    first = -_reverse_drift(formula, t, x + g * area)
    second = -_reverse_drift(formula, t - 5 / 6 * h, x + 5 / 6 * h * first + g * (5 / 6 * increment + area))
    noise = g * increment + (g_next - g) * (increment / 2 - area)
    return x + h * (0.4 * first + 0.6 * second) + noise


def ddim(eta):
    def step(formula, t, s, x, z):
        (scale, std, *_), (scale_next, std_next, *_) = formula(t), formula(s)
        image, noise = split_at(formula, t, x)
        fresh = eta * np.sqrt(std_next**2 - (scale / scale_next) ** 2 * std_next**4 / std**2)
        return scale_next * image + np.sqrt(std_next**2 - fresh**2) * noise + fresh * z[0]

    return step


def ancestral(formula, t, s, x, z):
    # The transition of the forward process from s to t, multiplied by the marginal at s given x_0: Bayes.
    (scale, std, *_), (scale_next, std_next, *_) = formula(t), formula(s)
    image, _ = split_at(formula, t, x)
    ratio = scale / scale_next
    transition = std**2 - ratio**2 * std_next**2
    mean = (ratio * std_next**2 * x + transition * scale_next * image) / std**2
    return mean + np.sqrt(transition * std_next**2 / std**2) * z[0]


def heun(churn, num_steps):
    def step(formula, t, s, x, z):
        growth = 1 + min(churn / num_steps, np.sqrt(2) - 1)
        ratios = lambda v: formula(v)[1] / formula(v)[0]
        ratio, ratio_next = ratios(t), ratios(s)
        raised = min(ratio * growth, ratios(1.0)) if churn else ratio
        # The time at which `std / scale` of VP has this value.
        log_scale = -0.5 * np.log1p(raised**2)
        t_raised = 2 * -2 * log_scale / (0.1 + np.sqrt(0.01 + 2 * 19.9 * -2 * log_scale))
        u = x / formula(t)[0] + np.sqrt(max(raised**2 - ratio**2, 0)) * z[0]
        slope = split_at(formula, t_raised, formula(t_raised)[0] * u)[1]
        ahead = u + (ratio_next - raised) * slope
        slope_ahead = split_at(formula, s, formula(s)[0] * ahead)[1]
        return formula(s)[0] * (u + (ratio_next - raised) * (slope + slope_ahead) / 2)

    return step


def predictor_corrector(snr):
    def step(formula, t, s, x, z):
        size = 2 * (snr * formula(t)[1]) ** 2
        x = x + size * score_at(formula, t, x) + np.sqrt(2 * size) * z[0]
        return euler_maruyama(formula, t, s, x, z[1:])

    return step


def walk(step):
    def path(formula, times, x, z):
        for i in range(len(times) - 1):
            x = step(formula, times[i], times[i + 1], x, z[i])
        return x

    return path


def dpm_solver(formula, times, x, z):
    before = length_before = None
    half_log_snr = lambda t: np.log(formula(t)[0] / formula(t)[1])
    for t, s in zip(times[:-1], times[1:], strict=True):
        length = half_log_snr(s) - half_log_snr(t)
        image = split_at(formula, t, x)[0]
        ratio = 0.0 if before is None else length_before / length
        data = image if before is None else (1 + 1 / (2 * ratio)) * image - before / (2 * ratio)
        x = formula(s)[1] / formula(t)[1] * x - formula(s)[0] * np.expm1(-length) * data
        before, length_before = image, length
    return x


def flow_heun(formula, t, s, x, z):
    velocity = lambda v, y: formula(v)[2] * y - formula(v)[3] ** 2 / 2 * score_at(formula, v, y)
    first = velocity(t, x)
    return x + (s - t) / 2 * (first + velocity(s, x + (s - t) * first))


def flow_exact(formula, t, s, x):
    """The solution of the probability-flow ODE: each direction keeps its quantile."""
    (scale, std, *_), (scale_next, std_next, *_) = formula(t), formula(s)
    column = (-1,) + (1,) * (x.ndim - 1)
    spread = np.sqrt((scale_next**2 * VARIANCES + std_next**2) / (scale**2 * VARIANCES + std**2)).reshape(column)
    centre = CENTRE.reshape(column)
    return scale_next * centre + spread * (x - scale * centre)


def affine(path, formula, times, draws=2):
    """What a path makes of the latent and of the noise: offset `(3,)`, and factors `(3,)` and `(3, steps * draws)`."""
    steps = len(times) - 1
    inputs = np.eye(1 + steps * draws, 2 + steps * draws, k=1)
    noise = np.broadcast_to(inputs[1:].reshape(steps, draws, 1, -1), (steps, draws, 3, inputs.shape[1]))
    ends = path(formula, times, np.broadcast_to(inputs[0], (3, inputs.shape[1])), noise)
    factors = ends[:, 1:] - ends[:, :1]
    return ends[:, 0], factors[:, 0], factors[:, 1:]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """One sampler.

    - `make`: from the number of steps.
    - `path`: the reference, `path(formula, times, x, z)`; `None` where the steps are adaptive.
    - `times`: of the process `VP`, from the number of steps.
    - `order`: of convergence to the solution of the ODE, of deterministic ones.
    """

    make: Callable[[int], Any]
    path: Callable | None
    times: Callable[[int], np.ndarray] | None = None
    order: int | None = None


def uniform(num_steps):
    return np.linspace(1.0, 1e-3, num_steps + 1)


def _between(grow, shrink):
    def times(num_steps):
        high, low = (np.sqrt(1 / _vp(t)[0] ** 2 - 1) for t in (1.0, 1e-3))
        ratios = shrink(np.linspace(grow(high), grow(low), num_steps + 1))
        integral = np.log1p(ratios**2)
        return 2 * integral / (0.1 + np.sqrt(0.01 + 2 * 19.9 * integral))

    return times


log_snr = _between(np.log, np.exp)
karras = _between(lambda r: r ** (1 / 7), lambda r: r**7)

SAMPLERS = {
    "ReverseSDE": Sampler(diffusion.ReverseSDE, walk(euler_maruyama), uniform),
    "ReverseSDE-ShARK": Sampler(lambda n: diffusion.ReverseSDE(n, solver=diffrax.ShARK()), walk(shark), uniform),
    "ReverseSDE-SPaRK": Sampler(
        lambda n: diffusion.ReverseSDE(
            2000, solver=diffrax.SPaRK(), controller=diffrax.PIDController(rtol=3e-2, atol=3e-2), tolerance=1e-3
        ),
        None,
    ),
    "ProbabilityFlow": Sampler(lambda n: diffusion.ProbabilityFlow(), None),
    "ProbabilityFlow-Heun": Sampler(
        lambda n: diffusion.ProbabilityFlow(num_steps=n, solver=diffrax.Heun()), walk(flow_heun), uniform, order=2
    ),
    "PredictorCorrector": Sampler(
        lambda n: diffusion.PredictorCorrector(n, snr=0.1), walk(predictor_corrector(0.1)), uniform
    ),
    "Ancestral": Sampler(diffusion.Ancestral, walk(ancestral), uniform),
    "DDIM": Sampler(diffusion.DDIM, walk(ddim(0.0)), uniform, order=1),
    "DDIM-0.5": Sampler(lambda n: diffusion.DDIM(n, eta=0.5), walk(ddim(0.5)), uniform),
    "Heun": Sampler(diffusion.Heun, walk(heun(0.0, 1)), karras, order=2),
    "Heun-churn": Sampler(lambda n: diffusion.Heun(n, churn=4.0), walk(heun(4.0, 16)), karras),
    "DPMSolver": Sampler(diffusion.DPMSolver, dpm_solver, log_snr, order=2),
}


def _nan_below(score, below, t, x):
    return jnp.where(t < below, jnp.nan, score(t, x))


def spoil(score, below):
    """A score that is NaN below a time."""
    return diffusion.Score(jax.tree_util.Partial(_nan_below, score, below), score.process)
