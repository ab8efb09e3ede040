"""Denoising diffusion restoration models (DDRM), a method of `posterior_sample`."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import HIGHEST, as_parameter, safe_sqrt
from ..._method import advance
from ..._score import AbstractProcess, AbstractScore
from ..._solution import RESULTS
from ..._types import Checked, IntLike, Key, State
from ...likelihood import Likelihood
from ...noise import AbstractNoise, Gaussian
from ...requirements import Requirement, share
from .._processes._process import noise_to_signal, target
from .._processes._schedule import AbstractSchedule, UniformTime, times_to_data
from .._samplers._sampler import check_steps
from ._method import AbstractPosteriorMethod
from ._problem import AbstractProblem, check_linear, dense_problem, unit_noise, usable_std

# The identity of this size, which the matrix is made from, takes 64 MB, and its decomposition minutes.
MOST_ENTRIES = 4096


class SpectralProblem(AbstractProblem):
    """The problem in the basis of singular directions: `data = values * coefficients + std n`.

    - `directions`: orthonormal rows, whose number is the smaller dimension of the matrix.
    - `values`: the singular values; those below rounding are 0.
    """

    score: AbstractScore
    directions: Array
    values: Array
    data: Array
    std: Array
    image: jax.ShapeDtypeStruct = eqx.field(static=True)

    def transition(
        self, image: Array, u: Array, before: Array, after: Array, eta: Array, eta_b: Array, key: Key
    ) -> Array:
        """The next `u`, from `E[x_0 | x_t]` and `u` at the noise-to-signal ratio `before`."""
        kept, fresh = safe_sqrt(1 - eta**2) * after, eta * after
        free = image + kept / before * (u - image)
        z = jax.random.normal(key, u.shape, u.dtype)
        measured = self.values > 0
        inverse = jnp.where(measured, 1 / jnp.where(measured, self.values, 1), 0)
        sharp = measured & (after >= self.std * inverse)
        blunt = measured & ~sharp
        expected, unmeasured = self._coefficients(image), self._coefficients(free)
        pull = (self.data - self.values * expected) / jnp.where(blunt, self.std, 1)
        mixed = (1 - eta_b) * expected + eta_b * inverse * self.data
        mean = jnp.where(sharp, mixed, jnp.where(blunt, expected + kept * pull, unmeasured))
        spread = jnp.where(sharp, safe_sqrt(after**2 - (eta_b * self.std * inverse) ** 2), fresh)
        change = mean - unmeasured + (spread - fresh) * self._coefficients(z)
        return free + fresh * z + jnp.matmul(change, self.directions, precision=HIGHEST).reshape(u.shape)

    def _coefficients(self, x: Array) -> Array:
        return jnp.matmul(self.directions, x.ravel(), precision=HIGHEST)


class DDRM(AbstractPosteriorMethod[SpectralProblem, Array]):
    """DDRM: denoising steps, separately in each singular direction of `A`, in the coordinates `u = x / scale`.

    Let `A = U S V^T`, `b = S^+ U^T y`, `s` the noise of `y`, `r = std / scale`; `p` and `v` the coefficients in a
    direction `V_i` of `E[x_0 | x_t]` and of `u_t`. The next `v`, at `r' < r`, is drawn from

    - `N(p + sqrt(1 - eta^2) r' (v - p) / r, eta^2 r'^2)` if `S_i = 0`;
    - `N(p + sqrt(1 - eta^2) r' (b - p) / (s / S_i), eta^2 r'^2)` if `r' < s / S_i`;
    - `N((1 - eta_b) p + eta_b b, r'^2 - eta_b^2 s^2 / S_i^2)` otherwise;

    and at the end `r' = 0`. It accepts linear operators on images of up to 4096 entries, and forms and decomposes the
    matrix once for a problem. The noise is Gaussian with any covariance, by whitening, or photon noise, by its
    approximation. A scalar std may be 0: then `A x = y` at the end with `eta_b = 1`, and `S` within rounding of 0
    counts as 0. It costs one evaluation per step and one at the end, and no vector-Jacobian products.

    Its bias: it uses measurements direction by direction, and leaves the information of one about another (by the
    covariance of `x_0` given `x_t`) to later denoising. The last step adds no noise, and `eta < 1` reduces the
    variance, so samples vary little.

    - `num_steps`: the number of steps, static.
    - `eta`: the share of fresh noise, between 0 and 1.
    - `eta_b`: the weight of the measurement, between 0 and 1, in directions in which it has less noise than the state.
    - `schedule`: the times of the steps.

    **Reference:** Kawar, Elad, Ermon, Song, Denoising diffusion restoration models, 2022, equations 7 and 8.

    Measured for a Gaussian prior (benchmarks, posterior gaussian: a row of 16 pixels blurred, every fourth of them):
    Wasserstein-2 to the posterior .46 and .90 of its size, where exact draws have .015 and .013; .40 and 1.23 of its
    variance.
    """

    num_steps: IntLike = eqx.field(default=20, static=True)
    eta: Array = eqx.field(default=0.85, converter=as_parameter)
    eta_b: Array = eqx.field(default=1.0, converter=as_parameter)
    schedule: Checked[AbstractSchedule] = UniformTime()

    def __check_init__(self):
        check_steps(self.num_steps, self.schedule)

    def requirements(self) -> tuple[Requirement, ...]:
        return (share("eta", self.eta), share("eta_b", self.eta_b))

    @property
    def max_steps(self) -> int:
        return self.num_steps + 1

    def times(self, process: AbstractProcess) -> Array:
        return times_to_data(self.schedule, process, self.num_steps)

    def prepare(self, likelihood: Likelihood, score: AbstractScore, y: State) -> tuple[SpectralProblem, RESULTS]:
        check_linear(likelihood, "DDRM")
        check_size(likelihood.operator.domain)
        std = scalar_std(likelihood.noise)
        known = likelihood if std is None else unit_noise(likelihood)
        dense, code = dense_problem(known, score, y, "DDRM")
        std = jnp.ones(()) if std is None else std
        std, code = usable_std(std.astype(dense.matrix.dtype), code)
        finite = jnp.all(jnp.isfinite(dense.matrix))
        code = RESULTS.where((code == RESULTS.successful) & ~finite, RESULTS.invalid_parameter, code)
        matrix = jnp.where(finite, dense.matrix, 0)
        left, values, directions = jnp.linalg.svd(matrix, full_matrices=False)
        floor = jnp.finfo(values.dtype).eps * max(matrix.shape) * values[0]
        values = jnp.where(values > floor, values, 0)
        data = jnp.matmul(left.T, dense.data, precision=HIGHEST)
        problem = SpectralProblem(
            score=score, directions=directions, values=values, data=data, std=std, image=dense.image
        )
        return problem, code

    def init(self, problem: SpectralProblem, *, key: Key) -> Array:
        nothing = jnp.zeros(problem.image.shape, problem.image.dtype)
        first = noise_to_signal(problem.process, self.times(problem.process)[0])
        # The initial law of the paper, equation 7, is its step from the zero image with fresh noise only.
        one = jnp.ones((), first.dtype)
        return problem.transition(nothing, nothing, first, first, one, one, key=key)

    def step(
        self, problem: SpectralProblem, u: Array, t: Array, t_next: Array, *, key: Key
    ) -> tuple[Array, Array, RESULTS]:
        process = problem.process
        scale_next, std_next = target(process, t_next)
        image = problem.score.denoiser(t, process.marginal(t)[0] * u)
        eta, eta_b = (value.astype(u.dtype) for value in (self.eta, self.eta_b))
        return advance(
            problem.transition(image, u, noise_to_signal(process, t), std_next / scale_next, eta, eta_b, key=key), u
        )


def scalar_std(noise: AbstractNoise) -> Array | None:
    """The standard deviation if it is one number, or `None`; nothing divides by it, so it may be 0."""
    if isinstance(noise, Gaussian) and isinstance(noise.std, jax.Array) and noise.std.ndim == 0:
        return noise.std
    return None


def check_size(domain: Any) -> None:
    """Raise for images that are too large for a matrix."""
    if math.prod(domain.shape) > MOST_ENTRIES:
        raise ValueError(
            f"`DDRM` decomposes the matrix of the operator, for images of at most {MOST_ENTRIES} entries; got shape "
            f"{tuple(domain.shape)}. `MomentMatching()`, `TMPD()`, `PiGDM()` and `DiffPIR()` need no matrix; or take a "
            "smaller image."
        )
