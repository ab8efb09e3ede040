"""The variance-preserving process."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._types import Scalar
from ..operators._base import as_parameter
from ._linear_rate import AbstractLinearRate


class VP(AbstractLinearRate):
    """Variance preserving: `dx = -b(t)/2 x dt + sqrt(b(t)) dw`, `b(t) = beta_min + t (beta_max - beta_min)`.

    `log scale = -t^2 (beta_max - beta_min)/4 - t beta_min/2` and `std^2 = 1 - scale^2`, so that data of unit variance
    keeps it. Sampling starts from `N(0, I)`: the terminal law is that up to `scale(1) x_0`, .0066 of the image for the
    default `beta_max = 20`.

    - `beta_min`, `beta_max`: rates of noise per unit of time, `0 <= beta_min <= beta_max`, `beta_max > 0`.
    - `t_min`, `t_max`: the times between which is sampled.

    **Reference:** Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, Score-based generative modeling through stochastic
    differential equations, 2021.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import diffusion
        scale, std = diffusion.VP().marginal(0.5)
        assert jnp.allclose(scale**2 + std**2, 1)
        ```
    """

    beta_min: Array = eqx.field(default=0.1, converter=as_parameter)
    beta_max: Array = eqx.field(default=20.0, converter=as_parameter)
    t_min: Array = eqx.field(default=1e-3, converter=as_parameter)
    t_max: Array = eqx.field(default=1.0, converter=as_parameter)

    def diffusion(self, t: Scalar) -> Array:
        return jnp.sqrt(self.rate(t))

    def marginal(self, t: Scalar) -> tuple[Array, Array]:
        log_scale = self.log_scale(t)
        return jnp.exp(log_scale), jnp.sqrt(-jnp.expm1(2 * log_scale))

    def rates(self, t: Scalar) -> tuple[Array, Array]:
        scale, std = self.marginal(t)
        half = 0.5 * self.rate(t)
        return -half * scale, half * scale**2 / std

    def time(self, noise_to_signal: Scalar) -> Array:
        return self.time_of(-0.5 * jnp.log1p(jnp.asarray(noise_to_signal) ** 2))
