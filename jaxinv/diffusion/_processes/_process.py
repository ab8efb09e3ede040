"""Functions of a noising process, and checks of its parameters and times."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool

from ..._arrays import as_parameter, is_concrete
from ..._score import AbstractProcess
from ..._types import Scalar


def noise_to_signal(process: AbstractProcess, t: Scalar) -> Array:
    """`std / scale` at a time."""
    scale, std = process.marginal(t)
    return std / scale


def is_data(t: Scalar) -> Bool[Array, "..."]:
    """Whether a time is 0, that of data; a step to it ends at the denoised image."""
    return jnp.asarray(t) <= 0


def target(process: AbstractProcess, t: Scalar) -> tuple[Array, Array]:
    """`(scale, std)` at the end of a step, whose time may be 0: there they are 1 and 0.

    **Arguments:**

    - `process`: the noising process.
    - `t`: the time at the end of the step, 0 for the data.

    **Returns:** two scalars.
    """
    # The formula of a process need not have a derivative at time 0: it is evaluated at another time instead.
    data = is_data(t)
    scale, std = process.marginal(jnp.where(data, process.t_max, t))
    return jnp.where(data, jnp.ones_like(scale), scale), jnp.where(data, jnp.zeros_like(std), std)


def check_process(process: Any) -> None:
    """Raise unless this is a noising process."""
    if not isinstance(process, AbstractProcess):
        raise ValueError(
            f"`process` must be a noising process, such as `diffusion.VP()`; got {type(process).__name__}. One of your "
            "own is a `diffusion.AbstractProcess`."
        )


def check_times(process: AbstractProcess, t: Any, name: str) -> Array:
    """Times as an array; raises for known times outside the interval of the process."""
    t = as_parameter(t)
    if is_concrete(t) and is_concrete(process.t_min) and is_concrete(process.t_max):
        low, high = float(process.t_min), float(process.t_max)
        if not bool(jnp.all(within(process, t))):
            raise ValueError(
                f"`{name}` must lie in [t_min, t_max] = [{low:g}, {high:g}] of {type(process).__name__}; got "
                f"{float(jnp.min(t)):g} to {float(jnp.max(t)):g}. Time 0 is data, where the score is not defined."
            )
    return t


def within(process: AbstractProcess, t: Array) -> Bool[Array, "..."]:
    """Whether times lie in the interval of the process."""
    # Times that were computed in single precision may round past an end of the interval.
    slack = 1e-6 * (process.t_max - process.t_min)
    return (t >= process.t_min - slack) & (t <= process.t_max + slack)


def check_scalars(process: AbstractProcess) -> None:
    """Raise unless the known parameters are scalars."""
    for name, leaf in vars(process).items():
        if jnp.ndim(leaf) != 0 and is_concrete(leaf):
            raise ValueError(
                f"`{name}` of {type(process).__name__} must be a scalar; got shape {jnp.shape(leaf)}. Map over several "
                "processes with `jax.vmap`."
            )
