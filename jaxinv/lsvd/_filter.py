"""Filters of the spectrum of a learned SVD."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from ..operators._base import is_concrete


class AbstractFilter(eqx.Module):
    """What is done to a spectrum before it is used, `(k,) -> (k,)`."""

    @abc.abstractmethod
    def __call__(self, spectrum: Array) -> Array:
        """The filtered spectrum."""

    @abc.abstractmethod
    def invalid(self) -> Bool[Array, ""]:
        """Whether a parameter is out of its range."""


class Tikhonov(AbstractFilter):
    """`s -> s * s^2 / (s^2 + weight)`: components that the measurement says little about are damped.

    - `weight`: a scalar, not negative; the square of the value below which a component counts as small.

    **Raises:** `ValueError` for anything but a scalar that is not negative, where its value is known.
    """

    weight: Array = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        if self.weight.ndim == 0 and is_concrete(self.weight) and not self.invalid():
            return
        if self.weight.ndim != 0 or is_concrete(self.weight):
            raise ValueError(f"`weight` must be a scalar that is finite and not negative; got {self.weight}.")

    def __call__(self, spectrum: Array) -> Array:
        square = spectrum**2
        total = square + self.weight.astype(spectrum.dtype)
        return jnp.where(total > 0, spectrum * square / jnp.where(total > 0, total, 1), 0)

    def invalid(self) -> Bool[Array, ""]:
        return ~(jnp.isfinite(self.weight) & (self.weight >= 0))


class Truncation(AbstractFilter):
    """Keeps the `rank` components of largest modulus, as the truncated singular value decomposition does.

    - `rank`: an integer, or an integer array, so that `jax.vmap` maps over ranks. More than there are keeps all.

    **Raises:** `ValueError` for anything but a scalar integer of at least 1, where its value is known.
    """

    rank: Array = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        integer = self.rank.ndim == 0 and jnp.issubdtype(self.rank.dtype, jnp.integer)
        if not integer or (is_concrete(self.rank) and bool(self.invalid())):
            raise ValueError(f"`rank` must be an integer of at least 1; got {self.rank} of dtype {self.rank.dtype}.")

    def __call__(self, spectrum: Array) -> Array:
        order = jnp.argsort(jnp.argsort(jnp.abs(spectrum), descending=True))
        return jnp.where(order < self.rank, spectrum, 0)

    def invalid(self) -> Bool[Array, ""]:
        return self.rank < 1


def filtered(spectrum: Array, spectral_filter: Any) -> Array:
    """The spectrum, filtered if there is a filter.

    **Raises:** `ValueError` if the filter is not a function, or does not give an array of the same shape.
    """
    if spectral_filter is None:
        return spectrum
    if not callable(spectral_filter):
        raise ValueError(
            "`filter` must be `Tikhonov(weight)`, `Truncation(rank)`, or a function of the spectrum; got "
            f"{type(spectral_filter).__name__}."
        )
    new = jnp.asarray(spectral_filter(spectrum))
    if new.shape != spectrum.shape or not jnp.issubdtype(new.dtype, jnp.floating):
        raise ValueError(
            f"`filter` must take a spectrum of shape {spectrum.shape} to another; it gave {new.dtype} of shape "
            f"{new.shape}."
        )
    return new.astype(spectrum.dtype)
