"""The interface of noising processes."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._keys import check_key
from .._types import Key, Scalar
from ..operators._base import as_parameter, is_concrete


class AbstractProcess(eqx.Module):
    """A process that turns an image into noise: `dx = f(t) x dt + g(t) dw` from data at time 0.

    Its marginals are `x_t = scale(t) x_0 + std(t) n` with `n` standard normal. All methods take one time; parameters
    are array leaves, so that `jax.vmap` maps over them. A process of your own says the eight below.
    """

    t_min: eqx.AbstractVar[Array]
    t_max: eqx.AbstractVar[Array]

    @abc.abstractmethod
    def drift(self, t: Scalar, x: Any) -> Array:
        """`f(t) x`, the drift of the forward SDE."""

    @abc.abstractmethod
    def diffusion(self, t: Scalar) -> Array:
        """`g(t)`, a scalar."""

    @abc.abstractmethod
    def marginal(self, t: Scalar) -> tuple[Array, Array]:
        """`(scale, std)` of `x_t = scale x_0 + std n`."""

    @abc.abstractmethod
    def rates(self, t: Scalar) -> tuple[Array, Array]:
        """The derivatives of `marginal` in time."""

    @abc.abstractmethod
    def time(self, noise_to_signal: Scalar) -> Array:
        """The time at which `std / scale` is this: the inverse of that increasing function."""

    @property
    @abc.abstractmethod
    def prior_std(self) -> Array:
        """The standard deviation of the noise from which sampling starts."""

    def prior_sample(self, shape: Any, *, key: Key, dtype: Any = None) -> Array:
        """A draw from the noise at `t_max`, `prior_std` times a standard normal."""
        check_key(key)
        noise = jax.random.normal(key, shape, jnp.result_type(float) if dtype is None else dtype)
        return jnp.asarray(self.prior_std).astype(noise.dtype) * noise

    def prior_log_prob(self, x: Any) -> Array:
        """The log-density of that noise at one image."""
        x = as_parameter(x)
        std = jnp.asarray(self.prior_std).astype(x.dtype)
        return -0.5 * jnp.sum((x / std) ** 2) - x.size * (jnp.log(std) + 0.5 * jnp.log(2 * jnp.pi).astype(x.dtype))


def noise_to_signal(process: AbstractProcess, t: Scalar) -> Array:
    """`std / scale` at a time."""
    scale, std = process.marginal(t)
    return std / scale


def is_data(t: Scalar) -> Bool[Array, "..."]:
    """Whether a time is that of data, 0: a step there ends at the denoised image."""
    return jnp.asarray(t) <= 0


def target(process: AbstractProcess, t: Scalar) -> tuple[Array, Array]:
    """`(scale, std)` of the time that a step goes to, which may be 0: those of data are 1 and 0.

    The formula of a process has no derivative there, so it is asked for another time and its answer is not taken.
    """
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
    """Times in the interval of the process: an error where they are known and outside."""
    t = as_parameter(t)
    if is_concrete(t) and is_concrete(process.t_min) and is_concrete(process.t_max):
        low, high = float(process.t_min), float(process.t_max)
        # Times that were computed in single precision may round past an end.
        slack = 1e-6 * (high - low)
        if not bool(jnp.all((t >= low - slack) & (t <= high + slack))):
            raise ValueError(
                f"`{name}` must lie in [t_min, t_max] = [{low:g}, {high:g}] of {type(process).__name__}; got "
                f"{float(jnp.min(t)):g} to {float(jnp.max(t)):g}. Time 0 is data, where the score is not defined."
            )
    return t


def check_numbers(process: AbstractProcess, conditions: dict[str, Any]) -> None:
    """Raise, naming it, for a condition on the parameters that is known and false; they must be scalars."""
    for name, leaf in vars(process).items():
        if jnp.ndim(leaf) != 0 and is_concrete(leaf):
            raise ValueError(
                f"`{name}` of {type(process).__name__} must be a scalar; got shape {jnp.shape(leaf)}. Map over several "
                "processes with `jax.vmap`."
            )
    if all(is_concrete(leaf) for leaf in jax.tree.leaves(process)):
        for condition, holds in conditions.items():
            if not bool(holds):
                numbers = ", ".join(f"{name}={float(leaf):g}" for name, leaf in vars(process).items())
                raise ValueError(f"{type(process).__name__} needs {condition}; got {numbers}.")
