"""The sub-variance-preserving process."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._types import Scalar
from ..operators._base import as_parameter
from ._linear_rate import AbstractLinearRate


class SubVP(AbstractLinearRate):
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

    def diffusion(self, t: Scalar) -> Array:
        return jnp.sqrt(-self.rate(t) * jnp.expm1(4 * self.log_scale(t)))

    def marginal(self, t: Scalar) -> tuple[Array, Array]:
        log_scale = self.log_scale(t)
        return jnp.exp(log_scale), -jnp.expm1(2 * log_scale)

    def rates(self, t: Scalar) -> tuple[Array, Array]:
        scale, _ = self.marginal(t)
        rate = self.rate(t)
        return -0.5 * rate * scale, rate * scale**2

    def time(self, noise_to_signal: Scalar) -> Array:
        # (1 - scale^2) / scale = r, solved for 1/scale: its logarithm is arcsinh(r / 2).
        return self.time_of(-jnp.arcsinh(0.5 * jnp.asarray(noise_to_signal)))
