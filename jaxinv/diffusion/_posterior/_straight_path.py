"""Any noising process as the straight path from image to noise."""

import jax.numpy as jnp
from jaxtyping import Array

from .._processes._process import AbstractProcess
from ._problem import ratio


def straight_times(process: AbstractProcess, start: Array, num_times: int) -> Array:
    """Times of equal steps along `x_t / (scale + std) = (1 - tau) x_0 + tau n`, from `tau = start` to that of `t_min`.

    That path is `FlowMatching()`, whose time is `tau`; so what is made for flow matching is made for any process.
    """
    top = jnp.minimum(start, _tau(process, process.t_max))
    taus = jnp.linspace(top, _tau(process, process.t_min), num_times)
    # A time that rounds past an end would be outside the process.
    return jnp.clip(process.time(taus / (1 - taus)), process.t_min, process.t_max)


def _tau(process: AbstractProcess, t: Array) -> Array:
    r = ratio(process, t)
    return r / (1 + r)
