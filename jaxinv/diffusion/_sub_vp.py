"""The sub-variance-preserving process."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._types import Scalar
from ..operators._base import as_parameter
from ._linear_rate import LinearRate, check_linear_rate
from ._process import AbstractProcess


class SubVP(AbstractProcess):
    """Sub-VP: the drift of `VP`, with less noise: `dx = -b/2 x dt + sqrt(b (1 - exp(-2 int_0^t b))) dw`.

    `scale` is that of `VP`, and `std = 1 - scale^2`. Of the processes of the paper it has the best likelihoods.

    - `beta_min`, `beta_max`, `t_min`, `t_max`: as of `VP`.

    **Reference:** Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, Score-based generative modeling through stochastic
    differential equations, 2021.

    !!! example
        ```python
        from jaxinv import diffusion
        assert diffusion.SubVP().marginal(0.5)[1] < diffusion.VP().marginal(0.5)[1]
        ```
    """

    beta_min: Array = eqx.field(default=0.1, converter=as_parameter)
    beta_max: Array = eqx.field(default=20.0, converter=as_parameter)
    t_min: Array = eqx.field(default=1e-3, converter=as_parameter)
    t_max: Array = eqx.field(default=1.0, converter=as_parameter)

    def __check_init__(self):
        check_linear_rate(self, self.beta_min, self.beta_max)

    @property
    def _rate(self) -> LinearRate:
        return LinearRate(self.beta_min, self.beta_max)

    @property
    def prior_std(self) -> Array:
        return jnp.ones_like(self.beta_max)

    def drift(self, t: Scalar, x: Any) -> Array:
        return -0.5 * self._rate(t) * jnp.asarray(x)

    def diffusion(self, t: Scalar) -> Array:
        return jnp.sqrt(-self._rate(t) * jnp.expm1(4 * self._rate.log_scale(t)))

    def marginal(self, t: Scalar) -> tuple[Array, Array]:
        log_scale = self._rate.log_scale(t)
        return jnp.exp(log_scale), -jnp.expm1(2 * log_scale)

    def rates(self, t: Scalar) -> tuple[Array, Array]:
        scale, _ = self.marginal(t)
        rate = self._rate(t)
        return -0.5 * rate * scale, rate * scale**2

    def time(self, noise_to_signal: Scalar) -> Array:
        # (1 - scale^2) / scale = r, solved for 1/scale: its logarithm is arcsinh(r / 2).
        return self._rate.time(-jnp.arcsinh(0.5 * jnp.asarray(noise_to_signal)))
