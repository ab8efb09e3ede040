"""The conformance table of `posterior_sample`: a new method is a new row.

The references are written out in plain numpy, from the papers. A Gaussian prior with its exact score and a linear
operator make every step of every method but `DPS` affine in the state and the noise, so a law is known by carrying a
mean and a covariance through the steps. That of a cloud of infinitely many particles is known too: the prior's own
steps, and at the end the twist, which is Gaussian.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noising import COVARIANCE, MEAN, PROCESSES, gaussian, log_snr, spoil, uniform

from jaxinv import Likelihood, diffusion, noise, operators, oracles

MATRIX = np.array([[1.0, 0.5, -0.3], [0.2, -0.8, 0.6]])
STDS = np.array([0.9, 0.6])
Y = np.array([0.7, -0.2])
NOISE = np.diag(STDS**2)


def linear_gaussian():
    """The likelihood and the data."""
    return Likelihood(operators.Matrix(jnp.asarray(MATRIX), (3,)), noise.Gaussian(jnp.asarray(STDS))), jnp.asarray(Y)


def exact():
    """Mean and covariance of the posterior, and the log-evidence, by the textbook."""
    return told(MEAN[:, None], COVARIANCE, COVARIANCE)[:, 0] + MEAN, left(COVARIANCE), evidence(MEAN, COVARIANCE)


def told(image, covariance, within):
    """By how much the data shift an image, `(3, n)`, of this covariance, if they take it for `within`."""
    innovation = MATRIX @ within @ MATRIX.T + NOISE
    return covariance @ MATRIX.T @ np.linalg.solve(innovation, Y[:, None] - MATRIX @ image)


def left(covariance):
    """The covariance of an image that was told."""
    innovation = MATRIX @ covariance @ MATRIX.T + NOISE
    return covariance - covariance @ MATRIX.T @ np.linalg.solve(innovation, MATRIX @ covariance)


def evidence(mean, covariance, within=0.0):
    """`log N(y; A mean, A (covariance + within) A^T + N)`."""
    innovation = MATRIX @ (covariance + within) @ MATRIX.T + NOISE
    residual = Y - MATRIX @ mean
    square = residual @ np.linalg.solve(innovation, residual)
    return -0.5 * (square + np.linalg.slogdet(2 * np.pi * innovation)[1])


def conditional(formula, t, x):
    """`E[x_0 | x]`, `E[n | x]` and `Cov[x_0 | x]` of states `(3, n)`."""
    scale, std, *_ = formula(t)
    gain = np.linalg.solve(scale**2 * COVARIANCE + std**2 * np.eye(3), scale * COVARIANCE).T
    image = MEAN[:, None] + gain @ (x - scale * MEAN[:, None])
    return image, (x - scale * image) / std, COVARIANCE - scale * gain @ COVARIANCE


# What each twist takes the covariance of x_0 given x_t for.
def of_the_denoiser(formula, t, covariance):
    return covariance


def white(formula, t, covariance):
    scale, std, *_ = formula(t)
    return std**2 / (scale**2 + std**2) * np.eye(3)


def none(formula, t, covariance):
    return np.zeros((3, 3))


def _renoise(formula, t, s, image, implied, eta, z):
    (scale, std, *_), (scale_next, std_next, *_) = formula(t), formula(s)
    fresh = eta * np.sqrt(std_next**2 - (scale / scale_next) ** 2 * std_next**4 / std**2)
    return scale_next * image + np.sqrt(std_next**2 - fresh**2) * implied + fresh * z


def shifted(within, eta=1.0):
    """The steps of DDIM with a shifted image."""

    def step(formula, t, s, x, z):
        image, _, covariance = conditional(formula, t, x)
        image = image + told(image, covariance, within(formula, t, covariance))
        scale, std, *_ = formula(t)
        return _renoise(formula, t, s, image, (x - scale * image) / std, eta, z[:3])

    return step


def shifted_image(within):
    def finish(formula, t, x, z):
        image, _, covariance = conditional(formula, t, x)
        return image + told(image, covariance, within(formula, t, covariance))

    return finish


def _drawn(image, covariance, z):
    return image + np.linalg.cholesky(covariance + 1e-14 * np.eye(3)) @ z


def posterior_image(formula, t, x, z):
    image, _, covariance = conditional(formula, t, x)
    return _drawn(image + told(image, covariance, covariance), left(covariance), z[3:])


def _bridge(formula, t, s, x, image, z):
    """A draw of `x_s` given `x_t` and `x_0`: Bayes, of the marginal at s and the transition from s to t."""
    (scale, std, *_), (scale_next, std_next, *_) = formula(t), formula(s)
    ratio = scale / scale_next
    between = std**2 - ratio**2 * std_next**2
    mean = (ratio * std_next**2 * x + between * scale_next * image) / std**2
    return mean + np.sqrt(between * std_next**2 / std**2) * z


def matched(formula, t, s, x, z):
    return _bridge(formula, t, s, x, posterior_image(formula, t, x, z), z[:3])


# The steps of the prior, of which a cloud of particles is twisted.
def free(eta=1.0):
    def step(formula, t, s, x, z):
        image, implied, _ = conditional(formula, t, x)
        return _renoise(formula, t, s, image, implied, eta, z[:3])

    return step


def free_matched(formula, t, s, x, z):
    image, _, covariance = conditional(formula, t, x)
    return _bridge(formula, t, s, x, _drawn(image, covariance, z[3:]), z[:3])


def _dps_shift(formula, t, x, zeta):
    image, _, covariance = conditional(formula, t, x)
    scale, std, *_ = formula(t)
    # In units of the noise, times its root mean square.
    size = np.sqrt(np.mean(STDS**2))
    rows, residual = size * MATRIX / STDS[:, None], size * (Y[:, None] - MATRIX @ image) / STDS[:, None]
    return 2 * zeta * scale / std**2 * covariance @ rows.T @ residual / np.linalg.norm(residual, axis=0)


def dps(zeta):
    def step(formula, t, s, x, z):
        image, implied, _ = conditional(formula, t, x)
        return _renoise(formula, t, s, image, implied, 1.0, z[:3]) + _dps_shift(formula, t, x, zeta)

    return step


def dps_image(zeta):
    return lambda formula, t, x, z: conditional(formula, t, x)[0] + _dps_shift(formula, t, x, zeta)


def image_alone(formula, t, x, z):
    return conditional(formula, t, x)[0]


def through(function, mean, covariance, draws=6):
    """The law of an affine function of a Gaussian state and of standard normals: mean, covariance and slope."""
    inputs = np.eye(3 + draws, 4 + draws, k=1)
    ends = function(inputs[:3], inputs[3:])
    slopes = ends[:, 1:] - ends[:, :1]
    state, fresh = slopes[:, :3], slopes[:, 3:]
    return ends[:, 0] + state @ mean, state @ covariance @ state.T + fresh @ fresh.T, state


@dataclasses.dataclass(frozen=True)
class Row:
    """One method.

    - `make`: from the number of steps, and for particle methods the number of particles.
    - `step`, `finish`: the reference, `step(formula, t, s, x, z)` and `finish(formula, t, x, z)` with `x` `(3, n)` and
        `z` `(6, n)`; `None` where there is none. Of a particle method `step` is that of the prior.
    - `affine`: whether the steps are, so that the samples are Gaussian.
    - `within`: of a particle method, the covariance that its twist takes.
    - `times`: of the process `VP`, from the number of steps; `None` for uniform.
    - `exact`: whether the law is that of the posterior, for a Gaussian prior, whatever the number of steps.
    - `linear`: whether it needs a linear operator.
    - `noiseless`: whether it takes noise of standard deviation 0.
    - `twin`: whether it differs from another row by a number or its guidance, so that its law is all there is to test.
    - `paced`: whether it takes as many steps as it is told, uniform in time, each from a state to the next.
    - `optimises`: whether its steps are those of an optimiser, which amplify rounding, and turn away from where a score
        is not finite.
    - `sites`: how often its program holds an evaluation of the network, and a product with its derivative; see
        `test_network_sites`.
    - `operator`: of the promises, from the number of the problem and a dtype.
    """

    make: Callable[..., Any]
    step: Callable | None = None
    finish: Callable | None = None
    affine: bool = True
    within: Callable | None = None
    times: Callable[[int], np.ndarray] = uniform
    exact: bool = False
    linear: bool = True
    noiseless: bool = False
    twin: bool = False
    paced: bool = True
    optimises: bool = False
    sites: tuple[int, int] = (1, 0)
    operator: Callable[[int, Any], Any] = dataclasses.field(default_factory=lambda: matrix)

    @property
    def particles(self):
        return isinstance(self.make(2), diffusion.TDS)


def matrix(i, dtype):
    """An operator with three rows, for images of two by two pixels."""
    return operators.Matrix(jnp.asarray(np.random.default_rng(i).normal(size=(3, 4)), dtype), (2, 2, 1))


LOG = diffusion.UniformLogSNR()
LANGEVIN = diffusion.Langevin(num_steps=3, step_size=0.5)


def twisted(guidance):
    return lambda n, particles=16: diffusion.TDS(guidance(n), particles=particles)


METHODS = {
    "MomentMatching": Row(diffusion.MomentMatching, matched, posterior_image, exact=True, sites=(1, 2)),
    "TMPD": Row(diffusion.TMPD, shifted(of_the_denoiser), shifted_image(of_the_denoiser), sites=(1, 1)),
    "TMPD-0.5": Row(
        lambda n: diffusion.TMPD(n, eta=0.5),
        shifted(of_the_denoiser, 0.5),
        shifted_image(of_the_denoiser),
        twin=True,
        sites=(1, 1),
    ),
    "PiGDM": Row(diffusion.PiGDM, shifted(white), shifted_image(white), sites=(1, 1)),
    "DPS": Row(
        lambda n: diffusion.DPS(n, zeta=0.3), dps(0.3), dps_image(0.3), affine=False, linear=False, sites=(1, 1)
    ),
    "TDS-MomentMatching": Row(
        twisted(diffusion.MomentMatching),
        free_matched,
        posterior_image,
        within=of_the_denoiser,
        exact=True,
        sites=(1, 1),
    ),
    "TDS-TMPD": Row(
        twisted(lambda n: diffusion.TMPD(n, schedule=LOG)),
        free(),
        shifted_image(of_the_denoiser),
        within=of_the_denoiser,
        times=log_snr,
        twin=True,
        sites=(1, 1),
    ),
    "TDS-TMPD-0.5": Row(
        twisted(lambda n: diffusion.TMPD(n, eta=0.5, schedule=LOG)),
        free(0.5),
        shifted_image(of_the_denoiser),
        within=of_the_denoiser,
        times=log_snr,
        twin=True,
        sites=(1, 1),
    ),
    "TDS-PiGDM": Row(
        twisted(lambda n: diffusion.PiGDM(n, schedule=LOG)),
        free(),
        shifted_image(white),
        within=white,
        times=log_snr,
        twin=True,
        sites=(1, 1),
    ),
    "TDS-DPS": Row(
        twisted(lambda n: diffusion.DPS(n, schedule=LOG)),
        free(),
        image_alone,
        within=none,
        times=log_snr,
        twin=True,
        linear=False,
        sites=(1, 1),
    ),
    # No references: the law of the cloud is in `test_posterior_nonlinear`, and alone the guidance is no sampler.
    "LookAhead": Row(lambda n: diffusion.LookAhead(n, 4), affine=False, linear=False, sites=(1, 1)),
    "TDS-LookAhead": Row(
        twisted(lambda n: diffusion.LookAhead(n, 4)), affine=False, linear=False, twin=True, sites=(1, 1)
    ),
    # Their laws are in `test_posterior_projections` and `test_posterior_splitting`.
    "Replacement": Row(diffusion.Replacement, noiseless=True),
    "DDRM": Row(diffusion.DDRM, noiseless=True),
    "DiffPIR": Row(diffusion.DiffPIR),
    "REDDiff": Row(diffusion.REDDiff, linear=False),
    "AnnealedLangevin": Row(lambda n: diffusion.AnnealedLangevin(n, 2), linear=False, paced=False),
    "DAPS": Row(lambda n: diffusion.DAPS(n, 2), linear=False, paced=False),
    "DAPS-Langevin": Row(lambda n: diffusion.DAPS(n, 2, inner=LANGEVIN), linear=False, paced=False),
    "PnPDM": Row(lambda n: diffusion.PnPDM(n, 2), linear=False, paced=False),
    "PnPDM-Langevin": Row(lambda n: diffusion.PnPDM(n, 2, inner=LANGEVIN), linear=False, paced=False),
    "OTODE": Row(diffusion.OTODE, paced=False, sites=(1, 1)),
    "DFlow": Row(
        lambda n: diffusion.DFlow(n, diffusion.DDIM(3)), linear=False, paced=False, optimises=True, sites=(1, 1)
    ),
    "PnPFlow": Row(diffusion.PnPFlow, linear=False, paced=False),
}


def law(row, formula, times, prior_std=1.0):
    """Mean and covariance of the samples, and for particles the log-evidence, at so many steps."""
    mean, covariance = np.zeros(3), prior_std**2 * np.eye(3)
    # The last step is to the image.
    for t, s in zip(times[:-2], times[1:-1], strict=True):
        mean, covariance, _ = through(lambda x, z, t=t, s=s: row.step(formula, t, s, x, z), mean, covariance)
    end = times[-2]
    log_evidence = None
    if row.within is not None:
        mean, covariance, log_evidence = _twist(row, formula, end, mean, covariance)
    mean, covariance, _ = through(lambda x, z: row.finish(formula, end, x, z), mean, covariance)
    return mean, covariance, log_evidence


def _twist(row, formula, t, mean, covariance):
    """The last state, weighed by its twist, and the mean of that."""
    image, spread, slope = through(lambda x, z: conditional(formula, t, x)[0], mean, covariance)
    within = row.within(formula, t, conditional(formula, t, np.zeros((3, 1)))[2])
    innovation = MATRIX @ (spread + within) @ MATRIX.T + NOISE
    gain = np.linalg.solve(innovation, MATRIX @ slope @ covariance).T
    told_mean = mean + gain @ (Y - MATRIX @ image)
    return told_mean, covariance - gain @ MATRIX @ slope @ covariance, evidence(image, spread, within)


def mixture():
    """A prior of three modes in two dimensions, with one measurement: likelihood and data."""
    means, variances = np.array([[-3.0, 1.0], [0.5, -2.0], [2.5, 2.0]]), np.array([0.5, 0.3, 0.8])
    prior = oracles.GaussianMixture(jnp.array([0.5, 0.2, 0.3]), jnp.asarray(means), jnp.asarray(variances))
    operator = operators.Matrix(jnp.array([[0.8, 0.6]]), (2,))
    return prior, Likelihood(operator, noise.Gaussian(0.6)), jnp.array([-0.3])


def problem(row, i, dtype):
    """Problem number `i` of the promises: process, prior, operator, noise level, data and key, all its own.

    Its score is NaN below a time that is none.
    """
    draw = np.random.default_rng(100 + i).normal
    process = diffusion.VP(beta_max=jnp.asarray(15.0 + i, dtype))
    factor = draw(size=(4, 9)) / 3
    prior = oracles.Gaussian(jnp.asarray(draw(size=(2, 2, 1)), dtype), jnp.asarray(factor @ factor.T, dtype))
    likelihood = Likelihood(row.operator(i, dtype), noise.Gaussian(jnp.asarray(0.5 + 0.1 * i, dtype)))
    y = likelihood.simulate(prior.sample(1, key=jax.random.key(i))[0], key=jax.random.key(i))
    score = spoil(prior.score(process), jnp.asarray(-1.0, dtype))
    return {"likelihood": likelihood, "score": score, "y": y, "key": jax.random.key(i)}


def solve(row, num_samples=2, num_steps=4):
    """`solve(problem)`."""
    return lambda p: diffusion.posterior_sample(**p, method=row.make(num_steps), num_samples=num_samples)


VP = PROCESSES["VP"].formula
STEPS = 8
DRAWS = 4000
CLOUDS = 16


def names(belongs=lambda row: True, fast=()):
    """The names of rows, all but a few marked slow: a program of each costs seconds to compile."""
    chosen = [name for name, row in METHODS.items() if belongs(row)]
    marked = [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in chosen]
    return pytest.mark.parametrize("name", marked)


def promised(belongs=lambda row: True, fast=()):
    """The names of the rows whose methods differ by more than a number."""
    return names(lambda row: belongs(row) and not row.twin, fast)


def draw(method, key, num_samples, process=None, prior=None):
    """Samples of the posterior of the linear-Gaussian problem."""
    process, prior = process or diffusion.VP(), prior or gaussian()
    likelihood, y = linear_gaussian()
    return diffusion.posterior_sample(
        likelihood, prior.score(process), y, key=key, method=method, num_samples=num_samples
    )


def referenced(row):
    return row.step is not None and row.affine


def stepped(row):
    """Whether there is a reference whose steps are not affine, so that it is compared on a path, or drawn from."""
    return row.step is not None and not row.affine and not row.particles


def clouds(method, key, particles):
    """Whole clouds, one for each of a few keys."""
    prior, process = gaussian(), diffusion.VP()
    one = lambda key: draw(method, key, particles, process, prior)
    return jax.jit(jax.vmap(one))(jax.random.split(key, CLOUDS)).check()


def assert_mean(values, expected, errors=4.0):
    """The mean over clouds, which are independent; their members are not."""
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    assert np.all(abs(values.mean(0) - expected) < errors * error), (values.mean(0) - expected) / error


def assert_clouds(solution, mean, covariance, log_evidence):
    values = np.asarray(solution.value)
    assert_mean(values.mean(1), mean)
    assert_mean(np.array([np.cov(cloud.T) for cloud in values]), covariance)
    # The estimate of the evidence itself has no bias, its logarithm has.
    assert_mean(np.exp(np.asarray(solution.stats["log_evidence"]) - log_evidence), 1.0, 3.0)
