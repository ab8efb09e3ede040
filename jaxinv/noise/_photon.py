"""Photon noise: Poisson counts in emission and in transmission."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import safe_sqrt
from .._jit import without_explicit_axes
from .._types import Checked, Key, PyTree, Scalar, State
from .._workarounds import rounded
from ..requirements import Requirement, not_negative, positive
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
    """Photon counts `y ~ Poisson(gain * A x + background)`, for emission and for low-light images.

    The negative log-likelihood is exact where at least 1e-12 counts are expected, and continues along its tangent
    below, so an `A x` that is not positive gets a penalty whose gradient leads back. (Without a count it is 0.)

    - `gain`: the expected counts per unit of `A x`, positive; a scalar, or an array of the rank of `y`.
    - `background`: the expected counts that do not come from the image, such as scatter, randoms and dark counts; not
      negative, of the shapes that `gain` may have. `None`, the default, for none.

    **Raises:** `ValueError` if `gain` is not positive or `background` negative, where its value is known.

    !!! example
        ```python
        import jax, jaxinv
        counts = jaxinv.noise.Poisson(100.0).simulate(jax.numpy.ones((8, 8, 1)), key=jax.random.key(0))
        ```
    """

    gain: PyTree[Array]
    background: PyTree[Array] | None

    def __init__(self, gain: Checked[Scalar] = 1.0, background: Checked[Scalar | None] = None):
        self.gain = as_noise_parameter(gain, "gain")
        self.background = None if background is None else as_noise_parameter(background, "background")

    def requirements(self) -> tuple[Requirement, ...]:
        return positive("gain", self.gain), not_negative("background", self.background)

    def expected(self, prediction: State) -> State:
        """The expected counts, `gain * A x + background`. **Returns:** an array of the shape of `prediction`."""
        scale = lambda p, gain: fit_to(gain, p, "gain") * p
        means = jax.tree.map(scale, prediction, broadcast_to_parts(self.gain, prediction))
        return _with_background(means, self.background)

    def negative_log_likelihood(self, prediction: State, y: State, measured: State) -> Array:
        return total(_poisson, self.expected(prediction), y, measured)

    def simulate(self, prediction: State, *, key: Key) -> State:
        draw = lambda mean, k: _draw_counts(k, mean)
        return jax.tree.map(draw, self.expected(prediction), part_keys(key, prediction))

    def linearise(self, y: State) -> tuple[State, State]:
        """The intensities `(y - background) / gain`, and their standard deviations, from counts of at least .5."""
        # The inverse of the gain is computed once, since some programs divide by one gain of all bins, and others by a
        # gain for each.
        over = lambda leaf, gain: rounded(leaf) * rounded(1 / fit_to(gain, leaf, "gain"))
        gains = broadcast_to_parts(self.gain, y)
        counts = _with_background(y, self.background, -1)
        roots = jax.tree.map(lambda leaf: jnp.sqrt(jnp.maximum(leaf, 0.5)), y)
        return jax.tree.map(over, counts, gains), jax.tree.map(over, roots, gains)

    def prox(self, prediction: State, y: State, measured: State, step: State | Scalar) -> State:
        """The proximal map of the negative log-likelihood, in closed form, onto counts that are not negative."""

        def part(z: Array, mean: Array, y: Array, measured: Array, gain: Array, step: Array) -> Array:
            _check_real(mean, y)
            gain = fit_to(gain, y, "gain")
            # The expected count solves a quadratic equation; its positive root, in a form without cancellation.
            unit = step * gain**2
            centre = mean - unit
            root = safe_sqrt(centre**2 + 4 * unit * y)
            below = centre < 0
            sum_ = jnp.where(below, root - centre, 1)
            count = jnp.where(below, 2 * unit * y / sum_, 0.5 * (centre + root))
            return jnp.where(measured > 0, z + (count - mean) / gain, z)

        means, gains = self.expected(prediction), broadcast_to_parts(self.gain, y)
        return jax.tree.map(part, prediction, means, y, measured, gains, broadcast_to_parts(step, y))

    def invalid(self, measured: State) -> Array:
        return not_positive(self.gain, measured) | _negative(self.background, measured)

    def unit(self) -> "Poisson":
        return jax.tree.map(jnp.ones_like, self)


class TransmissionPoisson(AbstractNoise):
    """Photon counts behind an absorber, `y ~ Poisson(photons * exp(-A x) + background)`: X-ray tomography at low dose.

    The negative log-likelihood is exact for every line integral that leaves fewer than 1e26 expected counts, also where
    these underflow to zero; below that line integral, which is negative, it continues along its tangent.

    - `photons`: the dose, that is the expected counts per detector bin without the object, positive; a scalar, or an
      array of the rank of `y`.
    - `background`: the expected counts that did not come straight from the source, such as scatter and dark counts; not
      negative, of the shapes that `photons` may have. `None`, the default, for none. With one the negative
      log-likelihood is not convex, and has no proximal map.

    **Raises:** `ValueError` if `photons` is not positive or `background` negative, where its value is known.

    !!! example
        ```python
        import jax, jaxinv
        noise = jaxinv.noise.TransmissionPoisson(1e4)
        counts = noise.simulate(jax.numpy.ones((10, 16, 1)), key=jax.random.key(0))
        line_integrals, std = noise.linearise(counts)
        ```
    """

    photons: PyTree[Array]
    background: PyTree[Array] | None

    def __init__(self, photons: Checked[Scalar], background: Checked[Scalar | None] = None):
        self.photons = as_noise_parameter(photons, "photons")
        self.background = None if background is None else as_noise_parameter(background, "background")

    def requirements(self) -> tuple[Requirement, ...]:
        return positive("photons", self.photons), not_negative("background", self.background)

    def expected(self, prediction: State) -> State:
        """The expected counts, `photons * exp(-A x) + background`. **Returns:** an array like `prediction`."""
        attenuate = lambda p, photons: fit_to(photons, p, "photons") * jnp.exp(-p)
        means = jax.tree.map(attenuate, prediction, broadcast_to_parts(self.photons, prediction))
        return _with_background(means, self.background)

    def negative_log_likelihood(self, prediction: State, y: State, measured: State) -> Array:
        photons = broadcast_to_parts(self.photons, y)
        if self.background is None:
            part = lambda p, y, m, photons: _transmission(p, fit_to(photons, y, "photons"), y, m, None)
            return total(part, prediction, y, measured, photons)
        part = lambda p, y, m, n, b: _transmission(p, fit_to(n, y, "photons"), y, m, fit_to(b, y, "background"))
        return total(part, prediction, y, measured, photons, broadcast_to_parts(self.background, y))

    def simulate(self, prediction: State, *, key: Key) -> State:
        draw = lambda mean, k: _draw_counts(k, mean)
        return jax.tree.map(draw, self.expected(prediction), part_keys(key, prediction))

    def linearise(self, y: State) -> tuple[State, State]:
        """The line integrals `-log((y - background) / photons)`, and their standard deviations, by the delta method.

        Counts below .5, and those that are less than .5 above the background, count as .5.
        """
        counts = jax.tree.map(lambda leaf: jnp.maximum(leaf, 0.5), _with_background(y, self.background, -1))
        photons = broadcast_to_parts(self.photons, y)
        line_integrals = jax.tree.map(lambda c, n: jnp.log(fit_to(n, c, "photons")) - jnp.log(c), counts, photons)
        if self.background is None:
            return line_integrals, jax.tree.map(lambda c: 1 / jnp.sqrt(c), counts)
        deviation = lambda c, leaf: jnp.sqrt(jnp.maximum(leaf, 0.5)) / c
        return line_integrals, jax.tree.map(deviation, counts, y)

    def prox(self, prediction: State, y: State, measured: State, step: State | Scalar) -> State:
        """The proximal map of the negative log-likelihood, by Newton's method on the logarithm of Lambert's function.

        **Raises:** `ValueError` with a background.
        """
        if self.background is not None:
            raise ValueError(
                "The likelihood of transmission with a background is not convex. Take `exact=False`, for its Gaussian "
                "approximation, which knows the background too, or `generative.reconstruct` or `dip.reconstruct`."
            )

        def part(z: Array, y: Array, measured: Array, photons: Array, step: Array) -> Array:
            _check_real(z, y)
            # The map is `log(step photons) - u` with `exp(u) + u = level`: increasing and convex in `u`, so that
            # Newton's method converges downwards from a start that is too large. (It is `z - step y + exp(u)` too,
            # whose terms cancel for many counts.)
            largest = jnp.log(step * fit_to(photons, y, "photons"))
            level = largest - (z - step * y)
            u = jnp.where(level > 1, jnp.log(jnp.maximum(level, 1)), level)
            for _ in range(_NEWTON_STEPS):
                power = jnp.exp(u)
                u = u - (power + u - level) / (power + 1)
            return jnp.where(measured > 0, largest - u, z)

        photons = broadcast_to_parts(self.photons, y)
        return jax.tree.map(part, prediction, y, measured, photons, broadcast_to_parts(step, y))

    def invalid(self, measured: State) -> Array:
        return not_positive(self.photons, measured) | _negative(self.background, measured)

    def unit(self) -> "TransmissionPoisson":
        return jax.tree.map(jnp.ones_like, self)


def _with_background(counts: State, background: PyTree[Array] | None, sign: int = 1) -> State:
    if background is None:
        return counts
    add = lambda c, b: c + sign * fit_to(b, c, "background")
    return jax.tree.map(add, counts, broadcast_to_parts(background, counts))


def _negative(background: PyTree[Array] | None, measured: State) -> Array:
    """Whether a background is out of its range at a measured entry."""
    if background is None:
        return jnp.zeros((), bool)
    return not_positive(jax.tree.map(lambda b: jnp.where(b == 0, 1, b), background), measured)


def _poisson(mean: Array, y: Array, measured: Array) -> Array:
    mean, y = _only_measured(mean, y, measured)
    counted = y > 0
    count, tangent = jnp.where(counted, y, 1), jnp.minimum(mean - _FEWEST, 0)
    expected = jnp.where(counted, jnp.maximum(mean, _FEWEST), 1)
    surprise = _deviance(expected, jnp.log(expected), count) + tangent * (1 - count / _FEWEST) + _stirling(count)
    return jnp.sum(where_measured(measured, jnp.where(counted, surprise, jnp.maximum(mean, 0))))


def _transmission(line_integral: Array, photons: Array, y: Array, measured: Array, background: Array | None) -> Array:
    line_integral, y = _only_measured(line_integral, y, measured)
    photons = jnp.where(measured > 0, photons, 1)
    log_photons = jnp.log(photons)
    # The expected counts may underflow, since their logarithm is known. Where they would overflow, the exponential
    # continues along its tangent.
    exponent = jnp.minimum(-line_integral, jnp.minimum(_LOG_MOST - log_photons, _LARGEST_EXPONENT))
    mean = photons * jnp.exp(exponent) * (1 - line_integral - exponent)
    log_mean = log_photons - line_integral
    if background is not None:
        some = background > 0
        log_background = jnp.log(jnp.where(some, background, 1))
        log_mean = jnp.where(some, jnp.logaddexp(log_mean, log_background), log_mean)
        mean = mean + background
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
# Six steps from a start within 1 of the root reach the precision of float64.
_NEWTON_STEPS = 6
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
