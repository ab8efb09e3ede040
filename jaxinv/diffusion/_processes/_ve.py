"""The variance-exploding process."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ..._arrays import as_parameter
from ..._types import ArrayLike, Scalar
from ...requirements import Requirement
from ._process import AbstractProcess, check_scalars


class VE(AbstractProcess):
    """Variance exploding: `dx = sigma sqrt(2 log(sigma_max/sigma_min)) dw`, `sigma = sigma_min^(1-t) sigma_max^t`.

    The marginal is the exact one of this SDE, `std^2 = sigma^2 - sigma_min^2`, in training and in sampling (the
    authors' code takes `sigma^2` in training). The process ends at the time `t_min` at which `std = sigma_min`.

    - `sigma_min`, `sigma_max`: the noise levels in the unit of the image, `0 < sigma_min < sigma_max`. A good
        `sigma_max` is about the largest distance between two images of the data.
    - `t_max`: the time at which sampling starts.

    **Reference:** Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, Score-based generative modeling through stochastic
    differential equations, 2021.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import diffusion
        process = diffusion.VE(sigma_min=0.01, sigma_max=50.0)
        assert jnp.allclose(process.marginal(process.t_min)[1], 0.01, rtol=1e-4)
        ```
    """

    sigma_min: Array = eqx.field(default=0.01, converter=as_parameter)
    sigma_max: Array = eqx.field(default=50.0, converter=as_parameter)
    t_max: Array = eqx.field(default=1.0, converter=as_parameter)

    def __check_init__(self):
        check_scalars(self)

    def requirements(self) -> tuple[Requirement, ...]:
        return (
            Requirement(
                "VE needs 0 < sigma_min < sigma_max",
                {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max},
                lambda low, high: (low > 0) & (low < high) & (high < math.inf),
            ),
            Requirement(
                "VE needs t_max beyond t_min, where std = sigma_min",
                {"sigma_min": self.sigma_min, "sigma_max": self.sigma_max, "t_max": self.t_max},
                # That is, the variance there is above the square of sigma_min.
                lambda low, high, end: ((high / low) ** (2 * end) > 2) & (end < math.inf),
            ),
        )

    @property
    def _growth(self) -> Array:
        return jnp.log(self.sigma_max / self.sigma_min)

    @property
    def t_min(self) -> Array:
        """The time at which `std` is `sigma_min`."""
        return self.time(self.sigma_min)

    @property
    def prior_std(self) -> Array:
        return self.marginal(self.t_max)[1]

    def drift(self, t: Scalar, x: ArrayLike) -> Array:
        return jnp.zeros_like(t * jnp.asarray(x))

    def diffusion(self, t: Scalar) -> Array:
        return self.sigma_min * jnp.exp(t * self._growth) * jnp.sqrt(2 * self._growth)

    def marginal(self, t: Scalar) -> tuple[Array, Array]:
        std = self.sigma_min * jnp.sqrt(jnp.expm1(2 * t * self._growth))
        return jnp.ones_like(std), std

    def rates(self, t: Scalar) -> tuple[Array, Array]:
        _, std = self.marginal(t)
        return jnp.zeros_like(std), 0.5 * self.diffusion(t) ** 2 / std

    def time(self, noise_to_signal: Scalar) -> Array:
        ratio = jnp.asarray(noise_to_signal) / self.sigma_min
        return jnp.log1p(ratio**2) / (2 * self._growth)
