"""Processes whose rate of noise grows linearly in time."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._types import Scalar
from ._process import AbstractProcess, check_numbers


class AbstractLinearRate(AbstractProcess):
    """`dx = -b/2 x dt + ...` with `b(t) = beta_min + t (beta_max - beta_min)`, from data to `N(0, I)`."""

    beta_min: eqx.AbstractVar[Array]
    beta_max: eqx.AbstractVar[Array]

    def __check_init__(self):
        conditions = {
            "0 <= beta_min <= beta_max, and beta_max > 0": (self.beta_min >= 0)
            & (self.beta_min <= self.beta_max)
            & (self.beta_max > 0),
            "0 <= t_min < t_max": (self.t_min >= 0) & (self.t_min < self.t_max),
        }
        check_numbers(self, conditions)

    @property
    def prior_std(self) -> Array:
        return jnp.ones_like(self.beta_max)

    def drift(self, t: Scalar, x: Any) -> Array:
        return -0.5 * self.rate(t) * jnp.asarray(x)

    def rate(self, t: Scalar) -> Array:
        """`b(t)`."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def log_scale(self, t: Scalar) -> Array:
        """`-1/2 int_0^t b = -t^2 (beta_max - beta_min)/4 - t beta_min/2`."""
        return -0.25 * (self.beta_max - self.beta_min) * t**2 - 0.5 * self.beta_min * t

    def time_of(self, log_scale: Array) -> Array:
        """The inverse of `log_scale`, in the form that does not cancel."""
        integral = -2 * log_scale
        root = jnp.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
        return 2 * integral / (self.beta_min + root)
