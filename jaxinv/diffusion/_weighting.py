"""How errors at different times are weighted in training."""

import abc

import equinox as eqx
from jaxtyping import Array

from ._process import AbstractProcess


class AbstractWeighting(eqx.Module):
    """A weight of the squared error of the noise at each time."""

    @abc.abstractmethod
    def __call__(self, process: AbstractProcess, t: Array) -> Array:
        """The weight of `||n - E[n | x_t]||^2`, which is `std^2` times the squared error of the score."""


class NoiseWeighting(AbstractWeighting):
    """1: the squared error of the noise, `std^2` times that of the score, as in the paper."""

    def __call__(self, process: AbstractProcess, t: Array) -> Array:
        return t * 0 + 1


class LikelihoodWeighting(AbstractWeighting):
    """`g^2/std^2`, that is `g^2` times the squared error of the score: the loss bounds the negative log-likelihood.

    **Reference:** Song, Durkan, Murray, Ermon, Maximum likelihood training of score-based diffusion models, 2021.
    """

    def __call__(self, process: AbstractProcess, t: Array) -> Array:
        return (process.diffusion(t) / process.marginal(t)[1]) ** 2


class VelocityWeighting(AbstractWeighting):
    """The squared error of the velocity, `(d std/dt - std d log scale/dt)^2` times that of the noise: flow matching."""

    def __call__(self, process: AbstractProcess, t: Array) -> Array:
        (scale, std), (scale_rate, std_rate) = process.marginal(t), process.rates(t)
        return (std_rate - std * scale_rate / scale) ** 2
