"""Parametrisations: the quantities that a score network may predict, and the exact conversions between them."""

import abc

from jaxtyping import Array

from ..._score import AbstractProcess
from ..._types import Scalar
from ...requirements import Parametric


class AbstractParametrisation(Parametric):
    """A parametrisation: the quantity that a network predicts from `x_t = scale x_0 + std n`."""

    @abc.abstractmethod
    def split(self, process: AbstractProcess, t: Scalar, x: Array, output: Array) -> tuple[Array, Array]:
        """The denoised image and the noise, `(E[x_0 | x], E[n | x])`, from the prediction.

        The two satisfy `x = scale E[x_0 | x] + std E[n | x]`.

        **Arguments:**

        - `process`: the noising process.
        - `t`: one time.
        - `x`: the state at that time.
        - `output`: what the network returned for it.
        """

    @abc.abstractmethod
    def target(self, process: AbstractProcess, t: Scalar, x0: Array, noise: Array) -> Array:
        """The regression target for an image and the noise added to it; the network learns its conditional mean."""


class Noise(AbstractParametrisation):
    """The noise, `E[n | x_t]`."""

    def split(self, process: AbstractProcess, t: Scalar, x: Array, output: Array) -> tuple[Array, Array]:
        scale, std = process.marginal(t)
        return (x - std * output) / scale, output

    def target(self, process: AbstractProcess, t: Scalar, x0: Array, noise: Array) -> Array:
        return noise


class ScoreParametrisation(AbstractParametrisation):
    """The score, `grad log p_t(x_t) = -E[n | x_t] / std`, which `diffusion.Score()` makes."""

    def split(self, process: AbstractProcess, t: Scalar, x: Array, output: Array) -> tuple[Array, Array]:
        scale, std = process.marginal(t)
        return (x + std**2 * output) / scale, -std * output

    def target(self, process: AbstractProcess, t: Scalar, x0: Array, noise: Array) -> Array:
        return -noise / process.marginal(t)[1]


class Denoiser(AbstractParametrisation):
    """The clean image, `E[x_0 | x_t]`."""

    def split(self, process: AbstractProcess, t: Scalar, x: Array, output: Array) -> tuple[Array, Array]:
        scale, std = process.marginal(t)
        return output, (x - scale * output) / std

    def target(self, process: AbstractProcess, t: Scalar, x0: Array, noise: Array) -> Array:
        return x0


class Velocity(AbstractParametrisation):
    """The velocity of the probability flow, `d scale/dt E[x_0 | x_t] + d std/dt E[n | x_t]`."""

    def split(self, process: AbstractProcess, t: Scalar, x: Array, output: Array) -> tuple[Array, Array]:
        scale, std = process.marginal(t)
        scale_rate, std_rate = process.rates(t)
        determinant = scale * std_rate - scale_rate * std
        return (std_rate * x - std * output) / determinant, (scale * output - scale_rate * x) / determinant

    def target(self, process: AbstractProcess, t: Scalar, x0: Array, noise: Array) -> Array:
        scale_rate, std_rate = process.rates(t)
        return scale_rate * x0 + std_rate * noise
