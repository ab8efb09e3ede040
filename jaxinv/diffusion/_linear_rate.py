"""A rate of noise that grows linearly in time."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._types import Scalar
from ._process import AbstractProcess, check_numbers


class LinearRate(eqx.Module):
    """`b(t) = low + t (high - low)`, and the scale it leaves of the data, `log scale = -1/2 int_0^t b`."""

    low: Array
    high: Array

    def __call__(self, t: Scalar) -> Array:
        return self.low + t * (self.high - self.low)

    def log_scale(self, t: Scalar) -> Array:
        """`-t^2 (high - low)/4 - t low/2`."""
        return -0.25 * (self.high - self.low) * t**2 - 0.5 * self.low * t

    def time(self, log_scale: Array) -> Array:
        """The inverse of `log_scale`, in the form that does not cancel."""
        integral = -2 * log_scale
        root = jnp.sqrt(self.low**2 + 2 * (self.high - self.low) * integral)
        return 2 * integral / (self.low + root)


def check_linear_rate(process: AbstractProcess, low: Array, high: Array) -> None:
    """What `VP` and `SubVP` demand of their numbers."""
    conditions = {
        "0 <= beta_min <= beta_max, and beta_max > 0": (low >= 0) & (low <= high) & (high > 0),
        "0 <= t_min < t_max": (process.t_min >= 0) & (process.t_min < process.t_max),
    }
    check_numbers(process, conditions)
