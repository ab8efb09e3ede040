"""Affine couplings."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._coupling import AbstractCoupling, check_bound


class Affine(AbstractCoupling):
    """Affine couplings, `y = x exp(s) + t`, with `|s| < bound`.

    `s = bound tanh(s' / bound)`, of what the network gives, keeps the inverse well-conditioned.

    **Arguments:**

    - `bound`: of the logarithm of the scale. Static.

    **Raises:** `ValueError` if it is not a positive number.

    !!! cite "Reference"
        Dinh, Sohl-Dickstein, Bengio, Density estimation using Real NVP, 2017
    """

    bound: Any = eqx.field(default=2.0, static=True)

    def __check_init__(self):
        check_bound(self.bound)

    @property
    def num_parameters(self) -> int:
        return 2

    def forward(
        self, x: Float[Array, "n m"], parameters: Float[Array, "n p m"]
    ) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
        log_scale = self._log_scale(parameters)
        return x * jnp.exp(log_scale) + parameters[:, 1], log_scale

    def inverse(self, y: Float[Array, "n m"], parameters: Float[Array, "n p m"]) -> Float[Array, "n m"]:
        return (y - parameters[:, 1]) * jnp.exp(-self._log_scale(parameters))

    def _log_scale(self, parameters: Float[Array, "n p m"]) -> Float[Array, "n m"]:
        return self.bound * jnp.tanh(parameters[:, 0] / self.bound)
