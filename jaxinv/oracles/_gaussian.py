"""Gaussian priors, and their exact posteriors under linear-Gaussian measurements."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._arrays import HIGHEST, as_array, as_parameter, check_count, check_key, is_concrete
from .._jit import compiled_method
from .._linear_gaussian import condition, observe, prepare_update, triangle
from .._module import Module
from .._score import AbstractProcess
from .._types import ArrayLike, Checked, Key, Scalar, State
from ..likelihood import Likelihood
from ..requirements import Requirement, finite, not_negative
from ._latent import GaussianLatent
from ._noised import GaussianDenoiser, GaussianScore

# Up to so many entries, a matrix of the size of a covariance is made of a diagonal.
_DENSE = 2**11
# A covariance whose least eigenvalue is below minus this share of the largest is negative by more than rounding.
NEGATIVE = 1e-3


class Gaussian(Module):
    """The Gaussian prior `x ~ N(mean, covariance)` on images.

    - `mean`: the mean image, `(h, w, c)` or any other shape, with `d` entries.
    - `covariance`: a symmetric matrix, `(d, d)`; it may be singular. It is stored as a factor, from its eigenvalues:
      those below `10 eps` times the largest are rounding, and become 0.
    - `factor`, `diagonal`: in place of the covariance, a factor `F`, `(d, r)`, and variances `D`, `(d,)` or a number,
      of `covariance = F F^T + diag(D)`; they are not checked, as they are by `Gaussian.from_factor`.

    For a covariance of low rank, or of low rank plus a diagonal, use `Gaussian.from_factor`.

    **Raises:** `ValueError` if the covariance has the wrong shape, is not symmetric, or has a negative eigenvalue
    beyond rounding, where its values are known.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        data = jax.random.normal(jax.random.key(0), (100, 4, 4, 1))
        prior = jaxinv.oracles.Gaussian.from_samples(data)
        operator = jaxinv.operators.Downsample((4, 4, 1), 2)
        likelihood = jaxinv.Likelihood(operator, jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(data[0], key=jax.random.key(1))
        posterior = prior.posterior(likelihood, y)
        draws, log_evidence = posterior.sample(5, key=jax.random.key(2)), prior.evidence(likelihood, y)
        ```
    """

    mean: Array
    factor: Array
    diagonal: Array | None
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        mean: ArrayLike,
        covariance: Checked[Array | np.ndarray | None] = None,
        *,
        factor: ArrayLike | None = None,
        diagonal: Checked[Array | np.ndarray | None] = None,
    ):
        self.mean = as_parameter(mean)
        self.shape = self.mean.shape
        size = math.prod(self.shape)
        if factor is None:
            if covariance is None:
                raise ValueError("`covariance` is missing. For a covariance of low rank see `Gaussian.from_factor`.")
            covariance = as_parameter(covariance)
            _check_covariance(covariance, self.shape)
            factor = _clipped_factor(covariance)
        self.factor = as_parameter(factor)
        if self.factor.ndim != 2 or self.factor.shape[0] != size:
            raise ValueError(
                f"`factor` must have shape ({size}, rank), a row for each entry of the mean, whose shape is "
                f"{self.shape}; got {self.factor.shape}."
            )
        self.diagonal = None if diagonal is None else jnp.broadcast_to(as_parameter(diagonal).ravel(), (size,))

    def requirements(self) -> tuple[Requirement, ...]:
        # A covariance that is traced and none has a factor of NaN.
        return (
            finite("mean", self.mean),
            finite("factor", self.factor, "The covariance must be finite and positive semi-definite"),
            not_negative("diagonal", self.diagonal, "`diagonal` must be finite and not negative: it is a variance"),
        )

    @staticmethod
    def from_factor(mean: ArrayLike, factor: ArrayLike, diagonal: Checked[Scalar] = 0.0) -> "Gaussian":
        """`N(mean, factor factor^T + diag(diagonal))`.

        **Arguments:**

        - `mean`: the mean image, with `d` entries.
        - `factor`: the factor of the covariance, `(d, rank)`.
        - `diagonal`: the variance added to each entry: a scalar, or one value for each entry of the mean; not negative.

        **Returns:** a `Gaussian`.

        **Raises:** `ValueError` for wrong shapes, or a negative diagonal where its value is known.
        """
        if isinstance(diagonal, int | float) and diagonal == 0:
            return Gaussian(mean, factor=factor)
        diagonal = as_parameter(diagonal)
        if diagonal.size not in (1, jnp.size(mean)):
            raise ValueError(f"`diagonal` must have 1 or {jnp.size(mean)} entries; got shape {diagonal.shape}.")
        return Gaussian(mean, factor=factor, diagonal=diagonal)

    @staticmethod
    def from_samples(samples: ArrayLike) -> "Gaussian":
        """The Gaussian with the mean and the covariance of a set of images.

        **Arguments:**

        - `samples`: the images, `(n, *shape)`.

        **Returns:** a `Gaussian`, whose rank is at most `n - 1`; its memory is that of the smaller of `n` images and
        the covariance.

        **Raises:** `ValueError` for fewer than two samples.
        """
        samples = as_parameter(samples)
        if samples.ndim < 2 or samples.shape[0] < 2:
            raise ValueError(
                f"`samples` must be at least two images, of shape (n, h, w, c); got shape {samples.shape}."
            )
        mean = samples.mean(0)
        centred = (samples - mean[None]).reshape(samples.shape[0], -1)
        if centred.shape[0] > centred.shape[1]:
            covariance = jnp.matmul(centred.T, centred, precision=HIGHEST) / (samples.shape[0] - 1)
            return Gaussian(mean, covariance)
        # With fewer images than entries, nothing has the size of entries squared.
        _, std, rows = jnp.linalg.svd(centred / math.sqrt(samples.shape[0] - 1), full_matrices=False)
        return Gaussian(mean, factor=_clipped_columns(std[::-1] ** 2, rows[::-1].T))

    @property
    def covariance(self) -> Float[Array, "d d"]:
        """The covariance as a matrix."""
        covariance = jnp.matmul(self.factor, self.factor.T, precision=HIGHEST)
        return covariance if self.diagonal is None else covariance + jnp.diag(self.diagonal)

    @property
    def variance(self) -> Array:
        """The variance of each entry, of the shape of the mean."""
        variance = jnp.sum(self.factor**2, axis=1)
        return (variance if self.diagonal is None else variance + self.diagonal).reshape(self.shape)

    def full_factor(self) -> Float[Array, "d r"]:
        """`F` with `covariance = F F^T`, where further columns hold the diagonal, one for each entry of the mean."""
        if self.diagonal is None:
            return self.factor
        return jnp.concatenate([self.factor, jnp.diag(jnp.sqrt(self.diagonal))], axis=1)

    def spectrum(self) -> tuple[Array, Array]:
        """Principal directions, orthonormal columns `(d, r)`, and standard deviations along them, `(r,)`, decreasing.

        Standard deviations below `eps` times dimension times the largest are rounding, and become 0.
        """
        basis, std, _ = jnp.linalg.svd(self.full_factor(), full_matrices=False)
        floor = jnp.finfo(std.dtype).eps * max(self.factor.shape) * std[0]
        # A NaN stays one.
        return basis, jnp.where(std <= floor, 0, std)

    @compiled_method
    def sample(self, n: int, *, key: Key) -> Array:
        """`n` draws, `(n, *shape)`. Draw `i` depends on the key and `i` only."""
        check_key(key)
        check_count(n, "n")
        size, rank = self.factor.shape
        columns = rank if self.diagonal is None else rank + size

        def draw(index):
            z = jax.random.normal(jax.random.fold_in(key, index), (columns,), self.factor.dtype)
            x = jnp.matmul(self.factor, z[:rank], precision=HIGHEST)
            x = x if self.diagonal is None else x + jnp.sqrt(self.diagonal) * z[rank:]
            return self.mean + x.reshape(self.shape)

        return jax.vmap(draw)(jnp.arange(n))

    def log_prob(self, x: State) -> Array:
        """The log-density at one image.

        If the covariance is singular, this is the density on the affine space that supports the distribution, and minus
        infinity for images whose relative distance from that space exceeds `sqrt(eps)`. If the image is large and the
        diagonal is traced, the diagonal must be positive.
        """
        x = as_array(x)
        if x.shape != self.shape:
            raise ValueError(
                f"The prior is on images of shape {self.shape}; got an image of shape {x.shape}. Map over a batch with "
                "`jax.vmap`."
            )
        return self._log_density(x) if self._is_large_and_full() else self._log_density_on_support(x)

    @compiled_method
    def _log_density_on_support(self, x: Array) -> Array:
        deviation = (x - self.mean).ravel()
        basis, std = self.spectrum()
        coefficients = jnp.matmul(basis.T, deviation, precision=HIGHEST)
        kept = std > 0
        inside = jnp.where(kept, coefficients, 0)
        outside = deviation - jnp.matmul(basis, inside, precision=HIGHEST)
        safe = jnp.where(kept, std, 1)
        exponent = 0.5 * jnp.sum((inside / safe) ** 2) + jnp.sum(jnp.log(safe))
        value = -exponent - 0.5 * jnp.sum(kept) * math.log(2 * math.pi)
        limit = math.sqrt(jnp.finfo(std.dtype).eps) * (std[0] + jnp.sqrt(jnp.sum(deviation**2)))
        return jnp.where(jnp.sum(outside**2) <= limit**2, value, -jnp.inf)

    def _is_large_and_full(self) -> bool:
        """Whether the matrix of the diagonal would be large, and the covariance is not known to be singular."""
        if self.diagonal is None or self.diagonal.size <= max(_DENSE, self.factor.shape[1]):
            return False
        return not is_concrete(self.diagonal) or bool(jnp.all(self.diagonal > 0))

    @compiled_method
    def _log_density(self, x: Array) -> Array:
        # The covariance has full rank; the matrices here have the size of the factor only.
        assert self.diagonal is not None
        deviation = (x - self.mean).ravel()
        root = jnp.sqrt(self.diagonal)
        design, data = self.factor / root[:, None], deviation / root
        lower = triangle(design)
        z = jax.scipy.linalg.cho_solve((lower, True), jnp.matmul(design.T, data, precision=HIGHEST))
        # The residual, since `|data|^2 - |L^{-1} B^T data|^2` is a difference of large numbers.
        square = jnp.sum((data - jnp.matmul(design, z, precision=HIGHEST)) ** 2) + jnp.sum(z**2)
        constant = 0.5 * data.size * math.log(2 * math.pi)
        return -0.5 * square - jnp.sum(jnp.log(jnp.diagonal(lower))) - jnp.sum(jnp.log(root)) - constant

    def denoiser(self, process: Checked[AbstractProcess]) -> GaussianDenoiser:
        """`E[x_0 | x_t = x]` for a noising process with `marginal(t) -> (scale, std)`, as a module `(t, x) -> x_0`."""
        return GaussianDenoiser(self.mean, *self.spectrum(), process)

    def score(self, process: Checked[AbstractProcess]) -> GaussianScore:
        """The score `grad log p_t(x)` under a noising process, a `diffusion.AbstractScore`: `score(t, x)` of one image.

        The score itself uses only `marginal(t) -> (scale, std)` of the process; the verbs of `diffusion` need a
        `diffusion.AbstractProcess`.
        """
        basis, deviations = self.spectrum()
        return GaussianScore(mean=self.mean, basis=basis, deviations=deviations, process=process)

    def noised(self, process: Checked[AbstractProcess], t: Scalar) -> "Gaussian":
        """The law of `x_t = scale x_0 + std n`, with `(scale, std) = process.marginal(t)`: again a Gaussian."""
        scale, std = (jnp.asarray(v).astype(self.mean.dtype) for v in process.marginal(t))
        diagonal = std**2 if self.diagonal is None else scale**2 * self.diagonal + std**2
        return Gaussian(scale * self.mean, factor=scale * self.factor, diagonal=diagonal)

    @compiled_method
    def posterior(self, likelihood: Likelihood, y: State) -> "Gaussian":
        """The exact posterior `p(x | y)` for a linear operator and Gaussian noise, again a Gaussian.

        With `F` the factor of the covariance, `B = W A F` whitened by the noise, `b = W (y - A mean)`:
        mean `mean + F z` with `z = B^T (I + B B^T)^{-1} b` (the gain form), factor `F G` with
        `G G^T = (I + B^T B)^{-1}`. Square roots throughout do not square the condition number, so float32 suffices.
        It costs `rank` applications of the operator and a QR decomposition of size min(measurements, rank).

        **Arguments:**

        - `likelihood`: a likelihood with a linear operator and Gaussian noise.
        - `y`: one measurement, of the shape of the operator's codomain.

        **Returns:** a `Gaussian`; its mean is NaN if the measurement or a noise level is not finite.

        **Raises:** `ValueError` if the operator is not linear, the noise is not Gaussian, or the shapes differ.

        **Reference:** Andrews, A square root formulation of the Kalman covariance equations, 1968.
        """
        prior, problem, failed = self._prepare(likelihood, y)
        mean, factor = condition(problem, prior.mean, prior.full_factor())
        return Gaussian(jnp.where(failed, jnp.nan, mean), factor=factor)

    @compiled_method
    def evidence(self, likelihood: Likelihood, y: State) -> Array:
        """The exact log-evidence `log p(y) = log N(y; A mean, A C A^T + noise covariance)`, over the measured entries.

        **Arguments, Raises:** as for `posterior`.

        **Returns:** a scalar.
        """
        prior, problem, failed = self._prepare(likelihood, y)
        del prior
        return jnp.where(failed, jnp.nan, problem.log_evidence())

    def as_latent(self) -> GaussianLatent:
        """The generative prior `x = mean + F z` with `z` standard normal."""
        return GaussianLatent(self.mean, self.full_factor())

    def _prepare(self, likelihood: Likelihood, y: State) -> tuple["Gaussian", Any, Array]:
        likelihood, y, failed, dtype = prepare_update(self.shape, likelihood, y)
        prior = jax.tree.map(lambda leaf: leaf.astype(dtype), self)
        return prior, observe(likelihood, y, prior.mean, prior.full_factor()), failed


def _check_covariance(covariance: Array, shape: tuple[int, ...]) -> None:
    size = math.prod(shape)
    if covariance.shape != (size, size):
        raise ValueError(
            f"`covariance` must have shape ({size}, {size}) for a mean of shape {shape}; got {covariance.shape}."
        )
    if is_concrete(covariance):
        gap, largest = (float(value) for value in _asymmetry(covariance))
        # Either is NaN where a value is not finite.
        if not math.isfinite(gap) or not math.isfinite(largest):
            raise ValueError("`covariance` holds values that are not finite.")
        if gap > 1e-3 * largest:
            raise ValueError(f"`covariance` is not symmetric: it differs from its transpose by up to {gap:.3g}.")


# Compiled whole: a user waits for each program.
@jax.jit
def _asymmetry(covariance: Array) -> tuple[Array, Array]:
    return jnp.max(jnp.abs(covariance - covariance.T)), jnp.max(jnp.abs(covariance))


@jax.jit
def _eigenvectors(covariance: Array) -> tuple[Array, Array]:
    values, vectors = jnp.linalg.eigh((covariance + covariance.T) / 2)
    return values, vectors


def _clipped_factor(covariance: Array) -> Array:
    values, vectors = _eigenvectors(covariance)
    if is_concrete(values):
        least, largest = np.asarray(values)[[0, -1]]
        if least < -NEGATIVE * abs(largest):
            raise ValueError(
                f"`covariance` is not positive semi-definite: its eigenvalues reach from {least:.3g} to {largest:.3g}."
            )
    return _clipped_columns(values, vectors)


def _clipped_columns(values: Array, vectors: Array) -> Array:
    """`F` with `F F^T = V diag(values) V^T`, from increasing eigenvalues, of which those that are rounding become 0."""
    count = len(values)
    if is_concrete(values):
        # Drop the columns that are 0, so that a covariance of low rank is cheap; inside a trace the rank is unknown.
        count = max(int(np.sum(_kept(np.asarray(values)))), 1)
    return _last_columns(values, vectors, count)


def _kept(values: Any) -> Any:
    return values > 10 * jnp.finfo(values.dtype).eps * values[-1]


@functools.partial(jax.jit, static_argnames="count")
def _last_columns(values: Array, vectors: Array, count: int) -> Array:
    largest = values[-1]
    good = (values[0] >= -NEGATIVE * jnp.abs(largest)) & jnp.isfinite(largest)
    kept, values, vectors = _kept(values)[-count:], values[-count:], vectors[:, -count:]
    return vectors * jnp.where(kept & good, jnp.sqrt(jnp.where(kept, values, 1)), jnp.where(good, 0, jnp.nan))[None, :]
