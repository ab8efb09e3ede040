"""The processes whose rate of noise grows linearly in time: variance preserving, and sub-variance preserving."""

import math
from typing import TYPE_CHECKING

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import as_parameter, name_of
from ..._types import Abstract, ArrayLike, Scalar
from ...requirements import Requirement
from ._process import AbstractProcess, check_scalars


class AbstractLinearRate(AbstractProcess):
    """`dx = -b/2 x dt + ...` with `b(t) = beta_min + t (beta_max - beta_min)`, from data to `N(0, I)`."""

    if TYPE_CHECKING:
        beta_min = Abstract[Array]()
        beta_max = Abstract[Array]()
    else:
        beta_min: eqx.AbstractVar[Array]
        beta_max: eqx.AbstractVar[Array]

    def __check_init__(self):
        check_scalars(self)

    def requirements(self) -> tuple[Requirement, ...]:
        return (
            Requirement(
                f"{name_of(self)} needs 0 <= beta_min <= beta_max, and beta_max > 0",
                {"beta_min": self.beta_min, "beta_max": self.beta_max},
                lambda low, high: (low >= 0) & (low <= high) & (high > 0) & (high < math.inf),
            ),
            Requirement(
                f"{name_of(self)} needs 0 <= t_min < t_max",
                {"t_min": self.t_min, "t_max": self.t_max},
                lambda low, high: (low >= 0) & (low < high) & (high < math.inf),
            ),
        )

    @property
    def prior_std(self) -> Array:
        return jnp.ones_like(self.beta_max)

    def drift(self, t: Scalar, x: ArrayLike) -> Array:
        return -0.5 * self.rate(t) * jnp.asarray(x)

    def rate(self, t: Scalar) -> Array:
        """`b(t)`."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def log_scale(self, t: Scalar) -> Array:
        """`-1/2 int_0^t b = -t^2 (beta_max - beta_min)/4 - t beta_min/2`."""
        return -0.25 * (self.beta_max - self.beta_min) * t**2 - 0.5 * self.beta_min * t

    def time_of(self, log_scale: Array) -> Array:
        """The inverse of `log_scale`, in a form without cancellation."""
        integral = -2 * log_scale
        root = jnp.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return 2 * integral / (self.beta_min + root)


class VP(AbstractLinearRate):
    """Variance preserving: `dx = -b(t)/2 x dt + sqrt(b(t)) dw`, `b(t) = beta_min + t (beta_max - beta_min)`.

    Here `log scale = -t^2 (beta_max - beta_min)/4 - t beta_min/2` and `std^2 = 1 - scale^2`, so data of unit variance
    keep that variance. Sampling starts from `N(0, I)`. The terminal law differs from it by `scale(1) x_0`, which is
    .0066 of the image for the default `beta_max = 20`.

    - `beta_min`, `beta_max`: the rates of noise per unit of time, `0 <= beta_min <= beta_max`, `beta_max > 0`.
    - `t_min`, `t_max`: the times at which sampling ends and starts.

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


class SubVP(AbstractLinearRate):
    """Sub-VP: the drift of `VP`, with less noise: `dx = -b/2 x dt + sqrt(b (1 - exp(-2 int_0^t b))) dw`.

    Its `scale` is that of `VP`, and `std = 1 - scale^2`. It has the best likelihoods among the processes of the paper.

    - `beta_min`, `beta_max`, `t_min`, `t_max`: those of `VP`.

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
