"""Photon noise: Poisson counts in emission and in transmission."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._jit import without_explicit_axes
from .._types import Checked, Key, PyTree, Scalar, State
from .._workarounds import rounded
from ..requirements import Requirement, positive
from ._base import (
    AbstractNoise,
    as_noise_parameter,
    broadcast_to_parts,
    fit_to,
    not_positive,
    part_keys,
    total,
    where_measured,
)


class Poisson(AbstractNoise):
    """Photon counts `y ~ Poisson(gain * A x)`, for emission and for low-light images.

    The negative log-likelihood is exact where at least 1e-12 counts are expected, and continues along its tangent
    below, so an `A x` that is not positive gets a penalty whose gradient leads back. (Without a count it is 0.)

    - `gain`: the expected counts per unit of `A x`, positive; a scalar, or an array of the rank of `y`.

    **Raises:** `ValueError` if `gain` is not positive, where its value is known.

    !!! example
        ```python
        import jax, jaxinv
        counts = jaxinv.noise.Poisson(100.0).simulate(jax.numpy.ones((8, 8, 1)), key=jax.random.key(0))
        ```
    """

    gain: PyTree[Array]

    def __init__(self, gain: Checked[Scalar] = 1.0):
        self.gain = as_noise_parameter(gain, "gain")

    def requirements(self) -> tuple[Requirement, ...]:
        return (positive("gain", self.gain),)

    def negative_log_likelihood(self, prediction: State, y: State, measured: State) -> Array:
        part = lambda p, y, m, gain: _poisson(fit_to(gain, y, "gain") * p, y, m)
        return total(part, prediction, y, measured, broadcast_to_parts(self.gain, y))

    def simulate(self, prediction: State, *, key: Key) -> State:
        draw = lambda p, gain, k: _draw_counts(k, fit_to(gain, p, "gain") * p)
        return jax.tree.map(draw, prediction, broadcast_to_parts(self.gain, prediction), part_keys(key, prediction))

    def linearise(self, y: State) -> tuple[State, State]:
        """The intensities `y / gain`, and their standard deviations, computed from counts of at least .5."""
        # By the inverse, made once: some programs divide by one gain of all bins, others by a gain for each.
        over = lambda leaf, gain: rounded(leaf) * rounded(1 / fit_to(gain, leaf, "gain"))
        gains = broadcast_to_parts(self.gain, y)
        roots = jax.tree.map(lambda leaf: jnp.sqrt(jnp.maximum(leaf, 0.5)), y)
        return jax.tree.map(over, y, gains), jax.tree.map(over, roots, gains)

    def invalid(self, measured: State) -> Array:
        return not_positive(self.gain, measured)

    def unit(self) -> "Poisson":
        return jax.tree.map(jnp.ones_like, self)


class TransmissionPoisson(AbstractNoise):
    """Photon counts behind an absorber, `y ~ Poisson(photons * exp(-A x))`: X-ray tomography at low dose.

    The negative log-likelihood is exact for every line integral that leaves fewer than 1e26 expected counts, also where
    these underflow to zero; below that line integral, which is negative, it continues along its tangent.

    - `photons`: the dose, that is the expected counts per detector bin without the object, positive; a scalar, or an
      array of the rank of `y`.

    **Raises:** `ValueError` if `photons` is not positive, where its value is known.

    !!! example
        ```python
        import jax, jaxinv
        noise = jaxinv.noise.TransmissionPoisson(1e4)
        counts = noise.simulate(jax.numpy.ones((10, 16, 1)), key=jax.random.key(0))
        line_integrals, std = noise.linearise(counts)
        ```
    """

    photons: PyTree[Array]

    def __init__(self, photons: Checked[Scalar]):
        self.photons = as_noise_parameter(photons, "photons")

    def requirements(self) -> tuple[Requirement, ...]:
        return (positive("photons", self.photons),)

    def negative_log_likelihood(self, prediction: State, y: State, measured: State) -> Array:
        part = lambda p, y, m, photons: _transmission(p, fit_to(photons, y, "photons"), y, m)
        return total(part, prediction, y, measured, broadcast_to_parts(self.photons, y))

    def simulate(self, prediction: State, *, key: Key) -> State:
        draw = lambda p, photons, k: _draw_counts(k, fit_to(photons, p, "photons") * jnp.exp(-p))
        return jax.tree.map(draw, prediction, broadcast_to_parts(self.photons, prediction), part_keys(key, prediction))

    def linearise(self, y: State) -> tuple[State, State]:
        """The line integrals `-log(y / photons)`, and their standard deviations; counts below .5 count as .5."""
        counts = jax.tree.map(lambda leaf: jnp.maximum(leaf, 0.5), y)
        photons = broadcast_to_parts(self.photons, y)
        line_integrals = jax.tree.map(lambda c, n: jnp.log(fit_to(n, c, "photons")) - jnp.log(c), counts, photons)
        return line_integrals, jax.tree.map(lambda c: 1 / jnp.sqrt(c), counts)

    def invalid(self, measured: State) -> Array:
        return not_positive(self.photons, measured)

    def unit(self) -> "TransmissionPoisson":
        return jax.tree.map(jnp.ones_like, self)


def _poisson(mean: Array, y: Array, measured: Array) -> Array:
    mean, y = _only_measured(mean, y, measured)
    counted = y > 0
    count, tangent = jnp.where(counted, y, 1), jnp.minimum(mean - _FEWEST, 0)
    expected = jnp.where(counted, jnp.maximum(mean, _FEWEST), 1)
    surprise = _deviance(expected, jnp.log(expected), count) + tangent * (1 - count / _FEWEST) + _stirling(count)
    return jnp.sum(where_measured(measured, jnp.where(counted, surprise, jnp.maximum(mean, 0))))


def _transmission(line_integral: Array, photons: Array, y: Array, measured: Array) -> Array:
    line_integral, y = _only_measured(line_integral, y, measured)
    photons = jnp.where(measured > 0, photons, 1)
    log_photons = jnp.log(photons)
    # The logarithm of the expected counts is at hand, so these may underflow. Where they would overflow, the
    # exponential continues along its tangent.
    exponent = jnp.minimum(-line_integral, jnp.minimum(_LOG_MOST - log_photons, _LARGEST_EXPONENT))
    mean = photons * jnp.exp(exponent) * (1 - line_integral - exponent)
    log_mean = log_photons - line_integral
    counted = y > 0
    count = jnp.where(counted, y, 1)
    surprise = _deviance(mean, log_mean, count) + _stirling(count)
    return jnp.sum(where_measured(measured, jnp.where(counted, surprise, mean)))


def _only_measured(mean: Array, y: Array, measured: Array) -> tuple[Array, Array]:
    _check_real(mean, y)
    # Select the inputs and not the outputs: a NaN of the unselected branch would reach the gradient as 0 * NaN.
    return jnp.where(measured > 0, mean, 1), jnp.where(measured > 0, y, 1)


# Below this number of expected counts the negative log-likelihood of a positive count continues along its tangent, so
# that it is finite and convex, and its gradient leads back.
_FEWEST = 1e-12
# The logarithm of the largest number of expected counts whose sum over all bins is finite in single precision, and
# the largest exponent whose exponential is.
_LOG_MOST, _LARGEST_EXPONENT = 60.0, 80.0


def _deviance(mean: Array, log_mean: Array, count: Array) -> Array:
    # mean - count - count log(mean / count) = count (u - log(1 + u)), in forms without cancellation.
    u = (mean - count) / count
    small, large = jnp.abs(u) < 1e-2, jnp.abs(u) > 0.5
    tiny = jnp.where(small, u, 0)
    series = tiny**2 * (1 / 2 - tiny * (1 / 3 - tiny * (1 / 4 - tiny * (1 / 5 - tiny * (1 / 6 - tiny / 7)))))
    middle = jnp.where(small | large, 0, u)
    far = u - (log_mean - jnp.log(count))
    return count * jnp.where(small, series, jnp.where(large, far, middle - jnp.log1p(middle)))


def _stirling(count: Array) -> Array:
    # log(count!) - count log(count) + count.
    large = count > 10
    many, few = jnp.where(large, count, 11), jnp.where(large, 1, count)
    asymptotic = 0.5 * jnp.log(2 * math.pi * many) + (1 / 12 - (1 / 360 - 1 / 1260 / many**2) / many**2) / many
    return jnp.where(large, asymptotic, jax.scipy.special.gammaln(few + 1) - few * jnp.log(few) + few)


def _check_real(*arrays: Array) -> None:
    if any(jnp.iscomplexobj(array) for array in arrays):
        raise ValueError(
            "Photon counts are real; the operator's measurements are complex. Count the intensities of "
            "`operators.Magnitude(operator)`, or take Gaussian noise."
        )


def _draw_counts(key: Key, mean: Array) -> Array:
    _check_real(mean)
    mean = jnp.maximum(mean, 0)
    # `jax.random.poisson` draws 32-bit integers; at 1e9 a Gaussian differs from it by less than float32 resolves.
    many = mean > 1e9
    counts = without_explicit_axes(jax.random.poisson, key, jnp.where(many, 0, mean)).astype(mean.dtype)
    gaussian = jnp.round(mean + jnp.sqrt(mean) * jax.random.normal(key, mean.shape, mean.dtype))
    return jnp.where(many, gaussian, counts)
