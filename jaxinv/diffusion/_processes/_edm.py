"""The process whose time is the noise level."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import as_parameter
from ..._types import Scalar
from ...requirements import Requirement
from ._process import AbstractProcess, check_scalars


class EDM(AbstractProcess):
    """Noise of the standard deviation `t` is added to the image: `x_t = x_0 + t n`, `dx = sqrt(2 t) dw`.

    It is the process of "EDM", and that of `VE` at other times. Networks that were trained with it see the image
    divided by `sqrt(t^2 + std^2)` and a logarithm of `t`; `diffusion.from_diffusers` makes a score of one.
    Samplers with times in geometric progression suit it: `Heun()`, whose steps are those of the paper, or
    `DPMSolver()`.

    - `sigma_min`, `sigma_max`: the noise levels, and times, at which sampling ends and starts, in the unit of the
        image.

    **Reference:** Karras, Aittala, Aila, Laine, Elucidating the design space of diffusion-based generative models,
    2022.

    !!! example
        ```python
        from jaxinv import diffusion
        scale, std = diffusion.EDM().marginal(2.5)  # 1 and 2.5
        ```
    """

    sigma_min: Array = eqx.field(default=0.002, converter=as_parameter)
    sigma_max: Array = eqx.field(default=80.0, converter=as_parameter)

    def __check_init__(self):
        check_scalars(self)

    def requirements(self) -> tuple[Requirement, ...]:
        return (
            Requirement(
                "EDM needs 0 < sigma_min < sigma_max",
                {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max},
                lambda low, high: (low > 0) & (low < high) & (high < math.inf),
            ),
        )

    @property
    def t_min(self) -> Array:
        return self.sigma_min

    @property
    def t_max(self) -> Array:
        return self.sigma_max

    @property
    def prior_std(self) -> Array:
        return self.sigma_max

    def drift(self, t: Scalar, x: Any) -> Array:
        return jnp.zeros_like(t * jnp.asarray(x))

    def diffusion(self, t: Scalar) -> Array:
        return jnp.sqrt(2 * as_parameter(t))

    def marginal(self, t: Scalar) -> tuple[Array, Array]:
        t = as_parameter(t)
        return jnp.ones_like(t), t

    def rates(self, t: Scalar) -> tuple[Array, Array]:
        one = jnp.ones_like(as_parameter(t))
        return jnp.zeros_like(one), one

    def time(self, noise_to_signal: Scalar) -> Array:
        return jnp.asarray(noise_to_signal)
