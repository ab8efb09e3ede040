"""Reduced-rank regression: the best learned SVD there is with linear maps."""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._arrays import (
    HIGHEST,
    as_array,
    as_parameter,
    check_count,
    check_floating,
    common_dtype,
    is_complex,
    is_concrete,
)
from .._checks import check_examples, checked
from .._jit import compiled_method
from .._solution import RESULTS
from .._types import ArrayLike, Checked, Struct
from ..likelihood import Likelihood, prepare, whiten
from ..noise import AbstractGaussianNoise
from ..oracles import Gaussian
from ..requirements import Parametric, Requirement, finite
from ._latent_map import SpectralFilter, filtered


class ReducedRankRegression(Parametric):
    """An affine map of low rank from measurements to images, `x = mean_x + sum_i s_i <e_i, y - mean_y> d_i`.

    The latents `<e_i, y - mean_y>` have mean 0 and covariance I, the images `d_i` are orthonormal, and the spectrum
    decreases: `s_i` is the standard deviation along `d_i` of what is reconstructed. `Truncation(r)` therefore gives the
    regression of rank `r`.

    - `image_mean`, `measurement_mean`: the means of the images and of the measurements.
    - `encoder`: the `e_i`, `(rank, *measurement_shape)`.
    - `spectrum`: the `s_i`, `(rank,)`.
    - `decoder`: the `d_i`, `(rank, h, w, c)`, the entry of largest modulus of each positive.
    - `rank`, `image_shape`, `measurement_shape`: static.
    """

    image_mean: Array = eqx.field(converter=as_parameter)
    measurement_mean: Array = eqx.field(converter=as_parameter)
    encoder: Array = eqx.field(converter=as_parameter)
    spectrum: Float[Array, " rank"] = eqx.field(converter=as_parameter)
    decoder: Array = eqx.field(converter=as_parameter)
    rank: int = eqx.field(static=True)
    image_shape: tuple[int, ...] = eqx.field(static=True)
    measurement_shape: tuple[int, ...] = eqx.field(static=True)
    # `lsvd.reconstruct` passes a filter to the call, and reads the latent from `encode`.
    takes_filter: ClassVar[bool] = True

    def requirements(self) -> tuple[Requirement, ...]:
        names = ("image_mean", "measurement_mean", "encoder", "spectrum", "decoder")
        return tuple(finite(name, getattr(self, name)) for name in names)

    @staticmethod
    def from_prior(
        likelihood: Checked[Likelihood], prior: Checked[Gaussian], rank: Checked[int | None] = None
    ) -> "ReducedRankRegression":
        """Make the exact regression for a known mean and covariance of images, a linear operator and Gaussian noise.

        With the full rank it is the posterior mean of `classical.gaussian`.

        **Arguments:**

        - `likelihood`: a linear operator and Gaussian noise.
        - `prior`: an `oracles.Gaussian` on images of the operator's domain; only its mean and covariance matter.
        - `rank`: static; by default the full one.

        **Raises:** `ValueError` for anything else, and for a rank that is larger than the problem allows.

        !!! example
            ```python
            import jax, jaxinv
            from jaxinv import lsvd
            prior = jaxinv.oracles.Gaussian.from_samples(jax.random.normal(jax.random.key(0), (50, 6, 6, 1)))
            likelihood = jaxinv.Likelihood(jaxinv.operators.Downsample((6, 6, 1), 2), jaxinv.noise.Gaussian(0.1))
            model = lsvd.ReducedRankRegression.from_prior(likelihood, prior, 4)
            image = model(jax.numpy.ones((3, 3, 1)))
            ```
        """
        return _from_prior(likelihood, prior, rank)

    def encode(self, y: ArrayLike) -> Array:
        """The latents of a measurement, `(rank,)`; of a batch `(n, ...)`, `(n, rank)`.

        **Raises:** `ValueError` for another shape, or a dtype that is not floating.
        """
        y = _check(y, self.measurement_shape, "a measurement")
        deviation = (y - jnp.broadcast_to(self.measurement_mean, y.shape)).reshape(*y.shape[: _lead(y, self)], -1)
        return jnp.matmul(deviation, self.encoder.reshape(self.rank, -1).T, precision=HIGHEST)

    def decode(self, z: ArrayLike, filter: SpectralFilter | None = None) -> Array:
        """The image `mean + sum_i s_i z_i d_i` of latents `(rank,)`; of a batch `(n, rank)`, `(n, ...)`.

        - `filter`: the filter of the spectrum: `Tikhonov(weight)`, `Truncation(rank)`, or a function `(rank,) ->
            (rank,)`.

        **Raises:** `ValueError` for another shape, or a dtype that is not floating.
        """
        z = _check(z, (self.rank,), "latents")
        matrix = filtered(self.spectrum, filter)[:, None] * self.decoder.reshape(self.rank, -1)
        images = jnp.matmul(z, matrix, precision=HIGHEST).reshape(*z.shape[:-1], *self.image_shape)
        return images + jnp.broadcast_to(self.image_mean, images.shape)

    def __call__(self, y: ArrayLike, filter: SpectralFilter | None = None) -> Array:
        """The reconstruction of a measurement, or of a batch of them."""
        return self.decode(self.encode(y), filter)


@checked()
def reduced_rank_regression(
    images: ArrayLike,
    measurements: ArrayLike,
    rank: Checked[int | None] = None,
    *,
    noise: Checked[AbstractGaussianNoise | None] = None,
) -> ReducedRankRegression:
    """Fit the best affine map of rank `r` from measurements to images: `min sum_i ||x_i - B y_i - b||^2, rank B <= r`.

    With the covariances of the pairs, `B = P_r P_r^T C_xy C_yy^{-1}`, where the columns of `P_r` are the leading left
    singular vectors of `C_xy C_yy^{-1/2}`. It is the limit, in closed form, of a learned SVD with linear networks and
    weights `a_x = a_y = 0`, and the linear minimum mean squared error estimator if the rank is full. No covariance is
    formed, so no condition number is squared; directions in which the measurements vary by rounding only are dropped.
    For known covariances see `ReducedRankRegression.from_prior`.

    **Arguments:**

    - `images`: `(n, ...)`, of a real floating dtype.
    - `measurements`: `(n, ...)`, one of each image.
    - `rank`: static; at most n - 1 and the numbers of pixels and of entries of a measurement, which is the default.
    - `noise`: a Gaussian noise of `jaxinv.noise`, for measurements that were simulated without noise: its covariance is
        added to theirs, which is exact where drawn noise would be one sample.

    **Returns:** a `ReducedRankRegression`: `model(y)`, `model.encode`, `model.decode`, `model.spectrum`.

    **Raises:** `ValueError` for data that are empty, not finite (naming the first such example) or not paired, and for
    a rank that is larger than the data allow. Inside a trace, data that are not finite give NaN.

    **Reference:** Izenman, Reduced-rank regression for the multivariate linear model, 1975.

    !!! example
        ```python
        import jax, jaxinv
        from jaxinv import lsvd
        images = jax.random.normal(jax.random.key(0), (200, 6, 6, 1))
        operator = jaxinv.operators.Downsample((6, 6, 1), 2)
        model = lsvd.reduced_rank_regression(
            images, jax.vmap(operator)(images), 4, noise=jaxinv.noise.Gaussian(0.1)
        )
        image = model(operator(images[0]))
        ```
    """
    x = check_examples(images, "reduced_rank_regression", "images")
    y = check_examples(measurements, "reduced_rank_regression", "measurements")
    if len(x) != len(y):
        raise ValueError(f"`images` and `measurements` must be pairs; there are {len(x)} and {len(y)}.")
    if len(x) < 2:
        raise ValueError("One pair has no covariance; `reduced_rank_regression` needs two at least.")
    if noise is not None and not isinstance(noise, AbstractGaussianNoise):
        raise ValueError(f"`noise` must be a Gaussian noise of `jaxinv.noise`; got {type(noise).__name__}.")
    dtype = common_dtype(x, y)
    most = min(len(x) - 1, x[0].size, y[0].size)
    count = most if rank is None else _check_rank(rank, most, f"{len(x)} pairs")
    if noise is not None:
        cast: AbstractGaussianNoise = jax.tree.map(lambda leaf: leaf.astype(dtype), noise)
        noise, invalid = cast, cast.invalid(jnp.ones((1,) * (y.ndim - 1), dtype))
        if is_concrete(invalid) and bool(invalid):
            raise ValueError("`noise` must be positive; without noise in the measurements leave it out.")
    return _checked(_from_samples(x.astype(dtype), y.astype(dtype), count, noise), rank)


@compiled_method
def _from_samples(x: Array, y: Array, rank: int, noise: Any) -> ReducedRankRegression:
    finite = jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(y))
    x, y = jnp.where(finite, x, 0), jnp.where(finite, y, 0)
    scale = 1 / math.sqrt(len(x) - 1)
    means = x.mean(0), y.mean(0)
    x, y = (scale * (data - mean[None]) for data, mean in zip((x, y), means, strict=True))
    white = y if noise is None else jax.vmap(noise.whiten)(y)
    parts = _reduce(x.reshape(len(x), -1), white.reshape(len(y), -1), rank, noise is not None)
    encoder = parts[0].reshape(rank, *y.shape[1:])
    encoder = encoder if noise is None else jax.vmap(noise.whiten_adjoint)(encoder)
    return _assemble(means, encoder, *parts[1:], ok=finite)


def _from_prior(likelihood: Any, prior: Any, rank: Any) -> ReducedRankRegression:
    for name, value, kind, where in (
        ("likelihood", likelihood, Likelihood, "Likelihood"),
        ("prior", prior, Gaussian, "oracles.Gaussian"),
    ):
        if not isinstance(value, kind):
            raise ValueError(f"`{name}` must be a `jaxinv.{where}`; got {type(value).__name__}.")
    domain, codomain = likelihood.operator.domain, likelihood.operator.codomain
    if not isinstance(likelihood.noise, AbstractGaussianNoise):
        raise ValueError(f"Reduced-rank regression needs Gaussian noise; got {type(likelihood.noise).__name__}.")
    if not isinstance(codomain, jax.ShapeDtypeStruct) or is_complex((domain, codomain)):
        raise ValueError("Reduced-rank regression takes real images and real measurements, in one array each.")
    if tuple(domain.shape) != prior.shape:
        raise ValueError(f"The prior is on images of shape {prior.shape}; the operator takes {tuple(domain.shape)}.")
    freedom = prior.full_factor().shape[1]
    most = min(freedom, math.prod(domain.shape), math.prod(codomain.shape))
    count = most if rank is None else _check_rank(rank, most, f"a covariance of rank {freedom}")
    invalid = likelihood.noise.invalid(likelihood.operator.measured)
    if is_concrete(invalid) and bool(invalid):
        raise ValueError("The noise must be positive and finite wherever something is measured.")
    return _checked(_exact(likelihood, prior, count, codomain), rank)


@compiled_method
def _exact(likelihood: Likelihood, prior: Gaussian, rank: int, codomain: Struct) -> ReducedRankRegression:
    prepared, _, result = prepare(likelihood, jnp.zeros(codomain.shape, codomain.dtype))
    dtype = likelihood.operator.domain.dtype
    mean, factor = prior.mean.astype(dtype), prior.full_factor().astype(dtype)
    whitened, _ = whiten(prepared, jnp.zeros(codomain.shape, codomain.dtype), "reduced-rank regression")
    design = jax.vmap(lambda column: whitened(column.reshape(mean.shape)).ravel(), in_axes=1)(factor)
    parts = _reduce(factor.T, design, rank, True)
    measured = likelihood.operator.measured
    only = lambda y: jnp.where(measured > 0, y, jnp.zeros((), y.dtype))
    encoder = jax.vmap(lambda e: only(whitened.noise.whiten_adjoint(e)))(parts[0].reshape(rank, *codomain.shape))
    means = mean, only(likelihood.operator(mean))
    return _assemble(means, encoder, *parts[1:], ok=result == RESULTS.successful)


def _reduce(x: Array, y: Array, rank: int, noisy: bool) -> tuple[Array, Array, Array]:
    """Encoder `(rank, m)`, spectrum, decoder `(rank, d)` for covariances `x^T x`, `x^T y`, `y^T y`, plus I if noisy."""
    times = lambda a, b: jnp.matmul(a, b, precision=HIGHEST)
    identity = jnp.eye(y.shape[1], dtype=y.dtype)
    upper = jnp.linalg.qr(jnp.concatenate([y, identity]) if noisy else y, mode="r")
    _, std, directions = jnp.linalg.svd(upper, full_matrices=False)
    kept = std > jnp.finfo(std.dtype).eps * max(y.shape) * std[0]
    whitener = directions * jnp.where(kept, 1 / jnp.where(kept, std, 1), 0)[:, None]
    components, spectrum, mix = jnp.linalg.svd(times(times(whitener, y.T), x).T, full_matrices=False)
    spectrum = jnp.where(spectrum > jnp.finfo(spectrum.dtype).eps * max(x.shape) * spectrum[0], spectrum, 0)
    return times(mix[:rank], whitener), spectrum[:rank], components[:, :rank].T


def _assemble(
    means: tuple[Array, Array], encoder: Array, spectrum: Array, decoder: Array, *, ok: Array
) -> ReducedRankRegression:
    largest = jnp.take_along_axis(decoder, jnp.argmax(jnp.abs(decoder), axis=1)[:, None], axis=1)
    sign = jnp.where(largest < 0, -1, 1).astype(decoder.dtype)
    decoder = (sign * decoder).reshape(-1, *means[0].shape)
    encoder = jnp.broadcast_to(sign.reshape(-1, *[1] * (encoder.ndim - 1)), encoder.shape) * encoder
    model = ReducedRankRegression(*means, encoder, spectrum, decoder, decoder.shape[0], means[0].shape, means[1].shape)
    return jax.tree.map(lambda leaf: jnp.where(ok, leaf, jnp.nan), model)


def _checked(model: ReducedRankRegression, rank: Any) -> ReducedRankRegression:
    if rank is not None and is_concrete(model.spectrum):
        significant = int(np.sum(np.asarray(model.spectrum) > 0))
        if significant < rank:
            raise ValueError(
                f"`rank` is {rank}, more than the data allow: the measurements determine {significant} directions of "
                "the images, up to rounding. Give a smaller rank."
            )
    return model


def _check_rank(rank: Any, most: int, why: str) -> int:
    rank = check_count(rank, "rank")
    if rank > most:
        raise ValueError(
            f"`rank` is {rank}, more than the data allow, {most}: there are {why}, and no more directions than pixels "
            "or entries of a measurement."
        )
    return rank


def _check(x: Any, shape: tuple[int, ...], what: str) -> Array:
    x = as_array(x)
    if x.shape != shape and x.shape[1:] != shape:
        advice = "Add the channel axis: `y[..., None]`." if (*x.shape, 1) == shape else "Check the sizes."
        raise ValueError(f"The regression takes {what} of shape {shape}, or a batch of them; got {x.shape}. {advice}")
    x = check_floating(x, what, "ReducedRankRegression")
    return x.astype(common_dtype(x.dtype))


def _lead(y: Array, model: ReducedRankRegression) -> int:
    return y.ndim - len(model.measurement_shape)
