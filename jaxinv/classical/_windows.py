"""What filtered back-projection does to high frequencies."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array


class AbstractWindow(eqx.Module):
    """A factor on the ramp filter, as a function of the frequency over the Nyquist frequency, between 0 and 1."""

    @abc.abstractmethod
    def __call__(self, frequency: Array) -> Array:
        """The factor at these frequencies, 1 at frequency 0."""


class RamLak(AbstractWindow):
    """No window: the ramp filter itself, the sharpest and the noisiest. Ramachandran and Lakshminarayanan, 1971."""

    def __call__(self, frequency: Array) -> Array:
        return jnp.ones_like(frequency)


class SheppLogan(AbstractWindow):
    """`sinc(f / 2)`, which is .64 at the Nyquist frequency. Shepp and Logan, 1974."""

    def __call__(self, frequency: Array) -> Array:
        return jnp.sinc(frequency / 2)


class Cosine(AbstractWindow):
    """`cos(pi f / 2)`, which is 0 at the Nyquist frequency."""

    def __call__(self, frequency: Array) -> Array:
        return jnp.cos(jnp.pi * frequency / 2)


class Hann(AbstractWindow):
    """`(1 + cos(pi f)) / 2`, the smoothest of the four: 0 at the Nyquist frequency, with its slope."""

    def __call__(self, frequency: Array) -> Array:
        return (1 + jnp.cos(jnp.pi * frequency)) / 2
