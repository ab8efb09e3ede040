"""Proximal gradient descent with a denoiser for its proximal map (PnP-PGD), a method of `pnp.reconstruct`."""

import equinox as eqx
from jaxtyping import Array

from .._arrays import as_leaf, check_count
from .._solution import RESULTS
from .._types import IntLike, Key, Scalar, State as Measurement
from ..likelihood import Likelihood
from ..requirements import Requirement, not_negative, positive, requirement
from ._denoiser import AbstractDenoiser
from ._method import AbstractPlugAndPlay, Problem, SmoothData, smooth_problem


class PGD(AbstractPlugAndPlay[None]):
    """Proximal gradient descent, `x <- D(x - step grad(-log p(y | x)), sigma)`.

    With `step = step_size / L`, for the curvature `L` of the data. It takes any differentiable operator and any noise.
    It converges if `D` is nonexpansive and the data are strongly convex, or if `D` is averaged; `pnp.certify` measures
    both. With `Proximal(regulariser)` and the `sigma^2` of one step it minimises
    `-log p(y | x) + sigma^2 / step R(x)`.

    - `sigma`: positive, the noise level at which it calls the denoiser; the larger, the smoother the image.
    - `step_size`: the step in units of `1 / L`, positive and below 2. For an operator that is not linear and for photon
        noise, `L` is that at the first image; take less where the code is `diverged` or `nonfinite`.
    - `max_steps`: static.
    - `rtol`: the relative change of the image at which the steps end.

    **Reference:** Ryu, Liu, Wang, Chen, Wang, Yin, Plug-and-play methods provably converge with properly trained
    denoisers, 2019; Hurault, Leclaire, Papadakis, Proximal denoiser for convergent plug-and-play optimization with
    nonconvex regularization, 2022.
    """

    sigma: Scalar = eqx.field(converter=as_leaf)
    step_size: Scalar = eqx.field(default=1.0, converter=as_leaf)
    max_steps: IntLike = eqx.field(default=200, static=True)
    rtol: Scalar = eqx.field(default=1e-4, converter=as_leaf)

    def __check_init__(self):
        check_count(self.max_steps, "max_steps")

    def requirements(self) -> tuple[Requirement, ...]:
        return (positive("sigma", self.sigma), step_size(self.step_size), not_negative("rtol", self.rtol))

    def sigmas(self) -> tuple[Scalar | None, ...]:
        return (self.sigma,)

    def prepare(
        self, likelihood: Likelihood, denoiser: AbstractDenoiser, y: Measurement, start: Array | None
    ) -> tuple[Problem[SmoothData], RESULTS]:
        return smooth_problem(likelihood, denoiser, y, start, (self.sigma, self.step_size))

    def begin(self, problem: Problem[SmoothData]) -> None:
        del problem

    def move(
        self, problem: Problem[SmoothData], x: Array, memory: None, index: Array, *, key: Key | None
    ) -> tuple[Array, None, RESULTS]:
        del index
        sigma, size = problem.options
        moved = x - size / problem.data.curvature * problem.data.gradient(x)
        return problem.denoise(moved, sigma, key=key), memory, RESULTS.successful


def step_size(value: Scalar) -> Requirement:
    """What must hold of a step in units of the inverse of the curvature."""
    return requirement("`step_size` must be positive and below 2", value, lambda v: (v > 0) & (v < 2))
