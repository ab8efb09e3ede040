"""Half-quadratic splitting with a schedule of noise levels (DPIR), a method of `pnp.reconstruct`."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_leaf, check_count
from .._solution import RESULTS
from .._types import IntLike, Key, Scalar, State as Measurement
from ..likelihood import Likelihood
from ..requirements import Requirement, not_negative, positive
from ._denoiser import AbstractDenoiser
from ._method import AbstractPlugAndPlay, Problem, QuadraticData, quadratic_problem


class _Numbers(NamedTuple):
    weight: Array
    sigmas: Array


class HQS(AbstractPlugAndPlay[Array]):
    """Half-quadratic splitting, as in DPIR: a few steps with noise levels that fall from `sigma_max` to `sigma_min`.

    Step `k` has the noise level `s`, equally spaced in its logarithm, and computes
    `x = argmin -log p(y | x) + weight / (2 s^2) ||x - z||^2`, then `z = D(x, s)`, which is the image. It takes linear
    operators and Gaussian noise, by conjugate gradients; photon noise by its Gaussian approximation. It minimises no
    objective, and does not converge: its number of steps is part of the method.

    - `num_steps`: static; 8 for deblurring, 24 to 40 where much of the image is missing.
    - `sigma_max`: the first noise level, in the unit of the image. 49/255 is for images in [0, 1].
    - `sigma_min`: the last one. By default it is the noise of the measurement as noise of the image,
      `sqrt(n) / ||B||_F` for `n` pixels and the whitened operator `B`, and at most `sigma_max`.
    - `weight`: positive. The paper uses .23; raise it for a smoother image.
    - `rtol`, `solver_steps`: the relative residual at which conjugate gradients stop, and their largest number of
        steps, static.

    **Reference:** Zhang, Li, Zuo, Zhang, Van Gool, Timofte, Plug-and-play image restoration with deep denoiser prior,
    2021, Algorithm 1.
    """

    num_steps: IntLike = eqx.field(default=8, static=True)
    sigma_max: Scalar = eqx.field(default=49 / 255, converter=as_leaf)
    sigma_min: Scalar | None = eqx.field(default=None, converter=lambda s: None if s is None else as_leaf(s))
    weight: Scalar = eqx.field(default=0.23, converter=as_leaf)
    rtol: Scalar = eqx.field(default=1e-4, converter=as_leaf)
    solver_steps: IntLike = eqx.field(default=100, static=True)

    def __check_init__(self):
        check_count(self.num_steps, "num_steps")
        check_count(self.solver_steps, "solver_steps")

    def requirements(self) -> tuple[Requirement, ...]:
        last = () if self.sigma_min is None else (_falling(self.sigma_min, self.sigma_max),)
        return (
            positive("sigma_max", self.sigma_max),
            positive("weight", self.weight),
            *last,
            not_negative("rtol", self.rtol),
        )

    @property
    def max_steps(self) -> int:
        return self.num_steps

    @property
    def exhausted(self) -> RESULTS:
        return RESULTS.successful

    def sigmas(self) -> tuple[Scalar | None, ...]:
        return self.sigma_max, self.sigma_min

    def prepare(
        self, likelihood: Likelihood, denoiser: AbstractDenoiser, y: Measurement, start: Array | None
    ) -> tuple[Problem[QuadraticData], RESULTS]:
        problem, code = quadratic_problem(
            likelihood,
            denoiser,
            y,
            start,
            (self.sigma_max, self.weight),
            name="HQS",
            solver_rtol=self.rtol,
            solver_steps=self.solver_steps,
        )
        sigma_max, weight = problem.options
        low, high = (jnp.asarray(end).astype(sigma_max.dtype) for end in denoiser.sigma_range)
        last = _image_noise(problem.data) if self.sigma_min is None else jnp.asarray(self.sigma_min)
        last = jnp.minimum(jnp.clip(last.astype(sigma_max.dtype), low, high), sigma_max)
        last = jnp.maximum(last, 1e-6 * sigma_max)
        share = jnp.linspace(0, 1, self.num_steps, dtype=sigma_max.dtype)
        sigmas = jnp.exp((1 - share) * jnp.log(sigma_max) + share * jnp.log(last))
        return eqx.tree_at(lambda p: p.options, problem, _Numbers(weight, sigmas)), code

    def begin(self, problem: Problem[QuadraticData]) -> Array:
        return problem.start

    def move(
        self, problem: Problem[QuadraticData], x: Array, memory: Array, index: Array, *, key: Key | None
    ) -> tuple[Array, Array, RESULTS]:
        del memory
        numbers: _Numbers = problem.options
        sigma = numbers.sigmas[index]
        image, _, code = problem.data.proximal(x, numbers.weight / sigma**2)
        return problem.denoise(image, sigma, key=key), image, code

    def is_done(self, change: Array, index: Array) -> Array:
        return index >= self.num_steps - 1


def _image_noise(data: QuadraticData) -> Array:
    """`sqrt(n) / ||B||_F`, with the Frobenius norm from one random sign for each pixel, whose error is small."""
    struct = data.image
    # The key is fixed, as for the start of a power iteration: the documented exception to "keys are never defaulted".
    signs = jax.random.rademacher(jax.random.key(0, impl="threefry2x32"), struct.shape, struct.dtype)
    square = sum(jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(data.operator(signs)))
    square = jax.lax.stop_gradient(jnp.asarray(square))
    size = jnp.asarray(signs.size, square.dtype)
    return jnp.sqrt(size / jnp.where(square > 0, square, size))


def _falling(sigma_min: Scalar, sigma_max: Scalar) -> Requirement:
    words = "`sigma_min` must be positive and at most `sigma_max`"
    return Requirement(
        words, {"sigma_min": sigma_min, "sigma_max": sigma_max}, lambda low, high: (low > 0) & (low <= high)
    )
