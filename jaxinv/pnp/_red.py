"""Regularisation by denoising (RED), a method of `pnp.reconstruct`."""

import equinox as eqx
from jaxtyping import Array

from .._arrays import as_leaf, check_count
from .._solution import RESULTS
from .._types import IntLike, Key, Scalar, State as Measurement
from ..likelihood import Likelihood
from ..requirements import Requirement, not_negative, positive
from ._denoiser import AbstractDenoiser
from ._method import AbstractPlugAndPlay, Problem, SmoothData, smooth_problem
from ._pgd import step_size


class RED(AbstractPlugAndPlay[None]):
    """Regularisation by denoising: descent along `grad(-log p(y | x)) + weight / sigma^2 (x - D(x, sigma))`.

    By Tweedie's formula `(x - D(x, sigma)) / sigma^2` is the negative score of the images with noise `sigma`, if `D` is
    their conditional mean. So weight 1 is Bayes' rule with the prior of those images, and the image is a stationary
    point of their posterior density. It takes any differentiable operator and any noise.

    The step is `step_size / (L + 2 weight / sigma^2)`, for the curvature `L` of the data: the steps converge if `D` is
    nonexpansive and the data are convex.

    - `sigma`: positive, the noise level at which it calls the denoiser.
    - `weight`: not negative; the larger, the smoother the image.
    - `step_size`: positive and below 2.
    - `max_steps`: static.
    - `rtol`: the relative change of the image at which the steps end. The steps are short where `sigma` is small: lower
        it with them.

    **Reference:** Romano, Elad, Milanfar, The little engine that could: regularization by denoising (RED), 2017;
    Reehorst, Schniter, Regularization by denoising: clarifications and new interpretations, 2019.
    """

    sigma: Scalar = eqx.field(converter=as_leaf)
    weight: Scalar = eqx.field(default=1.0, converter=as_leaf)
    step_size: Scalar = eqx.field(default=1.0, converter=as_leaf)
    max_steps: IntLike = eqx.field(default=500, static=True)
    rtol: Scalar = eqx.field(default=1e-5, converter=as_leaf)

    def __check_init__(self):
        check_count(self.max_steps, "max_steps")

    def requirements(self) -> tuple[Requirement, ...]:
        return (
            positive("sigma", self.sigma),
            not_negative("weight", self.weight),
            step_size(self.step_size),
            not_negative("rtol", self.rtol),
        )

    def sigmas(self) -> tuple[Scalar | None, ...]:
        return (self.sigma,)

    def prepare(
        self, likelihood: Likelihood, denoiser: AbstractDenoiser, y: Measurement, start: Array | None
    ) -> tuple[Problem[SmoothData], RESULTS]:
        return smooth_problem(likelihood, denoiser, y, start, (self.sigma, self.weight, self.step_size))

    def begin(self, problem: Problem[SmoothData]) -> None:
        del problem

    def move(
        self, problem: Problem[SmoothData], x: Array, memory: None, index: Array, *, key: Key | None
    ) -> tuple[Array, None, RESULTS]:
        del index
        sigma, weight, size = problem.options
        penalty = weight / sigma**2
        slope = problem.data.gradient(x) + penalty * (x - problem.denoise(x, sigma, key=key))
        return x - size / (problem.data.curvature + 2 * penalty) * slope, memory, RESULTS.successful
