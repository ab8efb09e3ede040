"""Noise models: the law of a measurement `y` given the noiseless one, `A x`. `Likelihood` pairs one with an operator.

A measurement is an array, or for `operators.stack` a tuple of arrays. Parameters are array leaves that broadcast to a
measurement (a scalar, or an array of its rank), so a sweep over noise levels or doses is one `jax.vmap`.
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._keys import check_key
from ._module import Module
from ._types import Key, State
from .operators._base import as_parameter, is_concrete, real_dtype


class AbstractNoise(Module):
    """The law `p(y | mean)` of a measurement.

    The arguments of its methods are the noiseless measurement, `prediction = A x`, the measurement `y` of the same
    shape, and the weights of `operator.measured`: an entry is measured where `measured > 0`.
    """

    @abc.abstractmethod
    def negative_log_likelihood(self, prediction: State, y: State, measured: State) -> Array:
        """`-log p(y | A x)` with all constants, over the measured entries. **Returns:** a scalar."""

    @abc.abstractmethod
    def simulate(self, prediction: State, *, key: Key) -> State:
        """Draw a measurement, with a typed key. **Returns:** a draw of `y`, of the shape of `prediction`."""

    @abc.abstractmethod
    def linearise(self, y: State) -> tuple[State, State]:
        """The Gaussian approximation at `y`. **Returns:** `(data, std)`, with `data` roughly `N(A x, std^2)`."""

    @abc.abstractmethod
    def invalid(self, measured: State) -> Array:
        """Whether a parameter is out of its range at a measured entry. **Returns:** a boolean scalar."""

    @abc.abstractmethod
    def unit(self) -> "AbstractNoise":
        """The same noise with valid parameters, for a problem that has a code. **Returns:** a noise of this class."""


class AbstractGaussianNoise(AbstractNoise):
    """Gaussian noise: `-log p = 1/2 ||whiten(y - A x)||^2 + constant`."""

    @abc.abstractmethod
    def whiten(self, residual: State) -> State:
        """`W r` with `W* W` the inverse covariance. **Returns:** an array of the shape of the residual `r`."""

    @abc.abstractmethod
    def whiten_adjoint(self, residual: State) -> State:
        """`W* r`, the adjoint of `whiten`. **Returns:** an array of the shape of the residual `r`."""

    @abc.abstractmethod
    def restrict(self, measured: State, struct: Any) -> "AbstractGaussianNoise":
        """The noise of the measured entries alone; `y - A x` must be zero at the others.

        **Arguments:** `measured`, and `struct`, the codomain of the operator. **Returns:** a noise of this class.
        """


class Gaussian(AbstractGaussianNoise):
    """`y = A x + std * n`, `n` standard normal; for complex `y` in real and imaginary part each.

    - `std`: the standard deviation, in the unit of `y`; a scalar, an array of the rank of `y`, or for a stack also a
      tuple of these.

    **Raises:** `ValueError` if it is negative or not finite, where its value is known. (Zero is allowed here, for
    simulation; a verb that divides by it returns the code `RESULTS.invalid_parameter`.)

    !!! example
        ```python
        import jax, jaxinv
        noise = jaxinv.noise.Gaussian(0.1)
        y = noise.simulate(jax.numpy.ones((8, 8, 1)), key=jax.random.key(0))
        ```
    """

    std: PyTree[Array]

    def __init__(self, std: Any):
        self.std = _parameter(std, "std", positive=False)

    def negative_log_likelihood(self, prediction: State, y: State, measured: State) -> Array:
        def part(prediction, y, measured, std):
            std = jnp.where(measured > 0, _fit(std, y, "std"), 1)
            residual = _where_measured(measured, y - prediction) / std
            constant = jnp.log(std) + 0.5 * math.log(2 * math.pi)
            parts = 2 if jnp.iscomplexobj(residual) else 1
            return jnp.sum(0.5 * _square(residual) + parts * constant * (jnp.broadcast_to(measured, y.shape) > 0))

        return _total(part, prediction, y, measured, spread(self.std, y))

    def simulate(self, prediction: State, *, key: Key) -> State:
        draw = lambda mean, std, k: mean + _fit(std, mean, "std") * _standard_normal(k, mean)
        return jax.tree.map(draw, prediction, spread(self.std, prediction), _keys(key, prediction))

    def linearise(self, y: State) -> tuple[State, State]:
        full = lambda leaf, s: jnp.broadcast_to(_fit(s, leaf, "std"), leaf.shape)
        return y, jax.tree.map(full, y, spread(self.std, y))

    def whiten(self, residual: State) -> State:
        return jax.tree.map(lambda r, s: r / _fit(s, r, "std"), residual, spread(self.std, residual))

    def whiten_adjoint(self, residual: State) -> State:
        return self.whiten(residual)

    def restrict(self, measured: State, struct: Any) -> "Gaussian":
        del struct
        keep = lambda std, m: jnp.where(m > 0, std, 1) if std.ndim == m.ndim else std
        return eqx.tree_at(lambda n: n.std, self, jax.tree.map(keep, spread(self.std, measured), measured))

    def invalid(self, measured: State) -> Array:
        return _not_positive(self.std, measured)

    def unit(self) -> "Gaussian":
        return jax.tree.map(jnp.ones_like, self)


class CorrelatedGaussian(AbstractGaussianNoise):
    """`ravel(y) = ravel(A x) + factor @ n`, `n` standard normal: covariance `factor factor^T`.

    - `factor`: a real, invertible factor of the covariance, `(m, m)`, such as its Cholesky factor, for a measurement
      (one array) of `m` entries. It is stored as the lower triangular factor of the same covariance.

    **Raises:** `ValueError` if it is complex, not square, or not finite.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        factor = jnp.linalg.cholesky(0.1 * jnp.eye(16) + 0.01)
        y = jaxinv.noise.CorrelatedGaussian(factor).simulate(jnp.ones((4, 4, 1)), key=jax.random.key(0))
        ```
    """

    factor: Array

    def __init__(self, factor: Any):
        factor = as_parameter(factor)
        shape = factor.shape
        if len(shape) != 2 or shape[0] != shape[1] or jnp.iscomplexobj(factor):
            raise ValueError(
                "`factor` must be a real square matrix, a row for each entry of the measurement; got shape "
                f"{shape} and dtype {factor.dtype}."
            )
        if is_concrete(factor) and not bool(jnp.all(jnp.isfinite(factor))):
            raise ValueError("`factor` holds values that are not finite.")
        self.factor = _triangular(factor)

    def negative_log_likelihood(self, prediction: State, y: State, measured: State) -> Array:
        y = _one_array(y)
        noise = self.restrict(measured, y)
        residual = noise.whiten(_where_measured(measured, y - prediction))
        entries = (jnp.broadcast_to(measured, y.shape) > 0).ravel()
        constant = jnp.log(jnp.abs(jnp.diagonal(noise._factor(y)))) + 0.5 * math.log(2 * math.pi)
        parts = 2 if jnp.iscomplexobj(residual) else 1
        return 0.5 * jnp.sum(_square(residual)) + parts * jnp.sum(jnp.where(entries, constant, 0))

    def simulate(self, prediction: State, *, key: Key) -> State:
        check_key(key)
        prediction = _one_array(prediction)
        self._check_size(prediction)
        draw = jnp.matmul(
            self._factor(prediction), _standard_normal(key, prediction.ravel()), precision=jax.lax.Precision.HIGHEST
        )
        return prediction + draw.reshape(prediction.shape)

    def linearise(self, y: State) -> tuple[State, State]:
        y = _one_array(y)
        return y, jnp.sqrt(jnp.sum(self._factor(y) ** 2, axis=1)).reshape(y.shape)

    def whiten(self, residual: State) -> State:
        return self._solve(residual, transpose=False)

    def whiten_adjoint(self, residual: State) -> State:
        return self._solve(residual, transpose=True)

    def restrict(self, measured: State, struct: Any) -> "CorrelatedGaussian":
        """The noise of the measured entries, with a lower triangular factor that is the identity on the others."""
        self._check_size(struct)
        if measured.size == 1:
            return self
        kept = (jnp.broadcast_to(measured, struct.shape) > 0).ravel()
        missing = jnp.where(kept, 0.0, 1.0).astype(self.factor.dtype)
        rows = jnp.where(kept[:, None], self.factor, 0)
        wide = jnp.concatenate([rows, jnp.diag(missing)], axis=1)
        return eqx.tree_at(lambda noise: noise.factor, self, _triangular(wide))

    def invalid(self, measured: State) -> Array:
        del measured
        return ~jnp.all(jnp.isfinite(self.factor)) | jnp.any(jnp.diagonal(self.factor) == 0)

    def unit(self) -> "CorrelatedGaussian":
        return jax.tree.map(lambda factor: jnp.eye(factor.shape[0], dtype=factor.dtype), self)

    def _factor(self, y: Array) -> Array:
        return self.factor.astype(real_dtype(y.dtype))

    def _check_size(self, struct: Any) -> None:
        if self.factor.shape[0] != math.prod(struct.shape):
            raise ValueError(
                f"`factor` has {self.factor.shape[0]} rows; a measurement of shape {tuple(struct.shape)} has "
                f"{math.prod(struct.shape)} entries."
            )

    def _solve(self, residual: State, transpose: bool) -> Array:
        residual = _one_array(residual)
        trans = 1 if transpose else 0
        factor = self._factor(residual)
        solve = lambda r: jax.scipy.linalg.solve_triangular(factor, r, lower=True, trans=trans)
        flat = residual.ravel()
        if jnp.iscomplexobj(flat):
            return jax.lax.complex(solve(flat.real), solve(flat.imag)).reshape(residual.shape)
        return solve(flat).reshape(residual.shape)


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

    def __init__(self, gain: Any = 1.0):
        self.gain = _parameter(gain, "gain", positive=True)

    def negative_log_likelihood(self, prediction: State, y: State, measured: State) -> Array:
        part = lambda p, y, m, gain: _poisson(_fit(gain, y, "gain") * p, y, m)
        return _total(part, prediction, y, measured, spread(self.gain, y))

    def simulate(self, prediction: State, *, key: Key) -> State:
        draw = lambda p, gain, k: _draw_counts(k, _fit(gain, p, "gain") * p)
        return jax.tree.map(draw, prediction, spread(self.gain, prediction), _keys(key, prediction))

    def linearise(self, y: State) -> tuple[State, State]:
        """The intensities `y / gain`, and their standard deviations, computed from counts of at least .5."""
        gains = spread(self.gain, y)
        intensities = jax.tree.map(lambda leaf, gain: leaf / _fit(gain, leaf, "gain"), y, gains)
        stds = jax.tree.map(lambda leaf, g: jnp.sqrt(jnp.maximum(leaf, 0.5)) / _fit(g, leaf, "gain"), y, gains)
        return intensities, stds

    def invalid(self, measured: State) -> Array:
        return _not_positive(self.gain, measured)

    def unit(self) -> "Poisson":
        return jax.tree.map(jnp.ones_like, self)


class TransmissionPoisson(AbstractNoise):
    """Photon counts behind an absorber, `y ~ Poisson(photons * exp(-A x))`: X-ray tomography at low dose.

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

    def __init__(self, photons: Any):
        self.photons = _parameter(photons, "photons", positive=True)

    def negative_log_likelihood(self, prediction: State, y: State, measured: State) -> Array:
        part = lambda p, y, m, photons: _poisson(_fit(photons, y, "photons") * jnp.exp(-p), y, m)
        return _total(part, prediction, y, measured, spread(self.photons, y))

    def simulate(self, prediction: State, *, key: Key) -> State:
        draw = lambda p, photons, k: _draw_counts(k, _fit(photons, p, "photons") * jnp.exp(-p))
        return jax.tree.map(draw, prediction, spread(self.photons, prediction), _keys(key, prediction))

    def linearise(self, y: State) -> tuple[State, State]:
        """The line integrals `-log(y / photons)`, and their standard deviations; counts below .5 count as .5."""
        counts = jax.tree.map(lambda leaf: jnp.maximum(leaf, 0.5), y)
        photons = spread(self.photons, y)
        line_integrals = jax.tree.map(lambda c, n: jnp.log(_fit(n, c, "photons")) - jnp.log(c), counts, photons)
        return line_integrals, jax.tree.map(lambda c: 1 / jnp.sqrt(c), counts)

    def invalid(self, measured: State) -> Array:
        return _not_positive(self.photons, measured)

    def unit(self) -> "TransmissionPoisson":
        return jax.tree.map(jnp.ones_like, self)


def spread(parameter: PyTree[Array], like: State) -> PyTree[Array]:
    """The parameter for each part of a stacked measurement: a single one is repeated, a matching tuple stays."""
    if jax.tree.structure(parameter) == jax.tree.structure(like):
        return parameter
    if jax.tree.structure(parameter) != jax.tree.structure(0):
        raise ValueError(
            f"The parameter of the noise has {len(jax.tree.leaves(parameter))} parts, the measurement "
            f"{len(jax.tree.leaves(like))}. Give one for each part, or one for all."
        )
    return jax.tree.map(lambda _: parameter, like)


def _parameter(value: Any, name: str, positive: bool) -> PyTree[Array]:
    def one(leaf):
        leaf = jnp.asarray(leaf) if isinstance(leaf, float) else as_parameter(leaf)
        if jnp.iscomplexobj(leaf):
            raise ValueError(f"`{name}` must be real; got dtype {leaf.dtype}.")
        if is_concrete(leaf):
            good = jnp.isfinite(leaf) & ((leaf > 0) if positive else (leaf >= 0))
            if not bool(jnp.all(good)):
                kind = "positive" if positive else "not negative"
                raise ValueError(f"`{name}` must be finite and {kind}; got {leaf}.")
        return leaf

    return tuple(one(part) for part in value) if isinstance(value, tuple) else one(value)


def _fit(parameter: Array, y: Array, name: str) -> Array:
    fits = parameter.ndim == y.ndim and all(p in (1, n) for p, n in zip(parameter.shape, y.shape, strict=True))
    if parameter.ndim != 0 and not fits:
        raise ValueError(
            f"`{name}` must be a scalar or broadcast, at equal rank, to the measurement, whose shape is {y.shape}; its "
            f"shape is {parameter.shape}. Add axes of size 1."
        )
    return parameter.astype(real_dtype(y.dtype))


def _where_measured(measured: Array, residual: Array) -> Array:
    return jnp.where(measured > 0, residual, jnp.zeros((), residual.dtype))


def _square(z: Array) -> Array:
    return z.real**2 + z.imag**2 if jnp.iscomplexobj(z) else z**2


def _total(part, *trees: State) -> Array:
    return jax.tree.reduce(jnp.add, jax.tree.map(part, *trees))


def _not_positive(parameter: PyTree[Array], measured: State) -> Array:
    def bad(value, measured):
        wrong = ~(jnp.isfinite(value) & (value > 0))
        return jnp.any(wrong & (measured > 0) if value.ndim == measured.ndim else wrong)

    return jax.tree.reduce(jnp.logical_or, jax.tree.map(bad, spread(parameter, measured), measured))


def _keys(key: Key, like: State) -> PyTree[Array]:
    check_key(key)
    leaves, treedef = jax.tree.flatten(like)
    # A single array draws with the key itself; only the parts of a stack fold it.
    keys = [key] if len(leaves) == 1 else [jax.random.fold_in(key, i) for i in range(len(leaves))]
    return treedef.unflatten(keys)


def _standard_normal(key: Key, like: Array) -> Array:
    if jnp.iscomplexobj(like):
        # `jax.random.normal` gives complex numbers of unit variance in total.
        return math.sqrt(2) * jax.random.normal(key, like.shape, like.dtype)
    return jax.random.normal(key, like.shape, like.dtype)


def _draw_counts(key: Key, mean: Array) -> Array:
    _check_real(mean)
    mean = jnp.maximum(mean, 0)
    # `jax.random.poisson` draws 32-bit integers; at 1e9 a Gaussian differs from it by less than float32 resolves.
    many = mean > 1e9
    counts = jax.random.poisson(key, jnp.where(many, 0, mean)).astype(mean.dtype)
    gaussian = jnp.round(mean + jnp.sqrt(mean) * jax.random.normal(key, mean.shape, mean.dtype))
    return jnp.where(many, gaussian, counts)


def _triangular(factor: Array) -> Array:
    # The lower triangular L with L L^T = F F^T, from a QR decomposition of F^T, which does not square the condition.
    upper = jnp.linalg.qr(factor.T, mode="r")
    return upper.T * jnp.where(jnp.diagonal(upper) < 0, -1.0, 1.0).astype(upper.dtype)[None, :]


def _poisson(mean: Array, y: Array, measured: Array) -> Array:
    _check_real(mean, y)
    # Select the inputs and not the outputs: a NaN of the unselected branch would reach the gradient as 0 * NaN.
    mean, y = (jnp.where(measured > 0, v, jnp.ones((), v.dtype)) for v in (mean, y))
    counted = y > 0
    count, tangent = jnp.where(counted, y, 1), jnp.minimum(mean - _FEWEST, 0)
    expected = jnp.where(counted, jnp.maximum(mean, _FEWEST), 1)
    surprise = _deviance(expected, count) + tangent * (1 - count / _FEWEST) + _stirling(count)
    return jnp.sum(_where_measured(measured, jnp.where(counted, surprise, jnp.maximum(mean, 0))))


# Below this number of expected counts the negative log-likelihood of a positive count continues along its tangent, so
# that it is finite and convex, and its gradient leads back.
_FEWEST = 1e-12


def _deviance(mean: Array, count: Array) -> Array:
    # mean - count - count log(mean / count) = count (u - log(1 + u)), in forms without cancellation.
    u = (mean - count) / count
    small, large = jnp.abs(u) < 1e-2, jnp.abs(u) > 0.5
    tiny = jnp.where(small, u, 0)
    series = tiny**2 * (1 / 2 - tiny * (1 / 3 - tiny * (1 / 4 - tiny * (1 / 5 - tiny * (1 / 6 - tiny / 7)))))
    middle = jnp.where(small | large, 0, u)
    far = u - (jnp.log(mean) - jnp.log(count))
    return count * jnp.where(small, series, jnp.where(large, far, middle - jnp.log1p(middle)))


def _stirling(count: Array) -> Array:
    # log(count!) - count log(count) + count.
    large = count > 10
    many, few = jnp.where(large, count, 11), jnp.where(large, 1, count)
    asymptotic = 0.5 * jnp.log(2 * math.pi * many) + (1 / 12 - (1 / 360 - 1 / 1260 / many**2) / many**2) / many
    return jnp.where(large, asymptotic, jax.scipy.special.gammaln(few + 1) - few * jnp.log(few) + few)


def _one_array(y: State) -> Array:
    if isinstance(y, tuple):
        raise ValueError(
            "CorrelatedGaussian is for a measurement that is one array; give a stack `noise.Gaussian((std1, std2))`."
        )
    return jnp.asarray(y)


def _check_real(*arrays: Array) -> None:
    if any(jnp.iscomplexobj(array) for array in arrays):
        raise ValueError(
            "Photon counts are real; the operator's measurements are complex. Count the intensities of "
            "`operators.Magnitude(operator)`, or take Gaussian noise."
        )
