"""Deviations from the range of a generator, fitted to images: their weight, or a Gaussian, which is eliminated."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .. import oracles
from .._arrays import HIGHEST, as_parameter, is_concrete
from .._linear_gaussian import Observation, observe, real_rows
from .._prior import AbstractGenerativePrior, check_prior
from .._types import ArrayLike, Checked, IntLike, State
from ..likelihood import Likelihood, Whitened, whiten
from ..regularisers import L1, AbstractRegulariser
from ._method import AbstractLatentOnly

# A pixel that never deviates in the data gets this part of the largest pixel variance.
_FLOOR = 1e-6


class Eliminated(AbstractLatentOnly):
    """`min_z min_u -log p(y | G(z) + u) + weight * energy(z) + R(u)` with the inner minimum in closed form.

    For a linear operator, Gaussian noise and `u = mean + factor w` with `R(u) = 1/2 ||w||^2` it is
    `1/2 r^T (I + B B^T)^{-1} r` with `r` the whitened residual of `G(z) + mean` and `B` the whitened operator on the
    factor, that is `1/2 ||r - B w||^2 + 1/2 ||w||^2` at `w = gain r`: two products with matrices made once, whose
    rounding enters squared. The Hessian in `z` is the Schur complement of the joint one, so a minimiser, and its
    derivatives, are those of the joint problem.

    **Reference:** Golub, Pereyra, The differentiation of pseudo-inverses and nonlinear least squares problems whose
    variables separate, 1973.
    """

    operator: Whitened
    observation: Observation
    gain: Array
    mean: Array
    factor: Array

    def objective(
        self, likelihood: Likelihood, prior: AbstractGenerativePrior, y: State, weight: Array, variables: Array
    ) -> tuple[Array, Array | float]:
        del likelihood, y
        residual, deviation = self._best(prior.decode(variables))
        unexplained = residual - jnp.matmul(self.observation.design, deviation, precision=HIGHEST)
        fit = 0.5 * (jnp.sum(unexplained**2) + jnp.sum(deviation**2)) + self.observation.noise_constant
        return fit + weight * prior.energy(variables), 0.0

    def image(self, prior: AbstractGenerativePrior, variables: Array) -> Array:
        decoded = prior.decode(variables)
        step = jnp.matmul(self.factor, self._best(decoded)[1], precision=HIGHEST)
        return decoded + self.mean + step.reshape(decoded.shape)

    def _best(self, decoded: Array) -> tuple[Array, Array]:
        """The residual of a decoded image, and the coefficients of the deviation that is best for it."""
        residual = self.observation.data - real_rows(self.operator(decoded))
        return residual, jnp.matmul(self.gain, residual, precision=HIGHEST)


def eliminate(likelihood: Likelihood, y: State, deviation: AbstractRegulariser, weight: Array) -> Eliminated | None:
    """The objective without the deviation, where the best deviation has a closed form; otherwise `None`.

    It has one for a linear operator, Gaussian noise and a Gaussian `deviation`; the weight is positive.
    """
    gaussian = deviation.gaussian_factor(weight)
    if gaussian is None or not likelihood.is_linear_gaussian:
        return None
    mean, factor = gaussian
    observation = observe(likelihood, y, mean, factor)
    whitened, _ = whiten(likelihood, y, "a Gaussian deviation")
    return Eliminated(whitened, observation, observation.gain(), mean, factor)


def residual_gaussian(
    prior: Checked[AbstractGenerativePrior], images: ArrayLike, *, rank: IntLike, latents: ArrayLike | None = None
) -> oracles.Gaussian:
    """The Gaussian of the residuals `x - G(E(x))` of images: their mean, and a covariance of low rank plus a diagonal.

    The covariance keeps the first `rank` principal components, and per pixel the variance that these leave. It is made
    for `Relaxed(regularisers.Gaussian(residual_gaussian(...)))`, where unlikely deviations then cost more.

    **Arguments:**

    - `prior`: a generative prior.
    - `images`: `(n, *image_shape)`, best not those that the generator was trained on, which it fits too well.
    - `rank`: static, less than `n` and at most the number of pixels.
    - `latents`: `(n, *latent_shape)`, whose images are close to `images`. Default: `prior.encode` of each image; a
      prior without an encoder needs those of `generative.encode`.

    **Returns:** an `oracles.Gaussian`.

    **Raises:** `ValueError` for shapes that do not fit, a rank larger than the data allow, or images that are not
    finite.

    **Reference:** Duff, Campbell, Ehrhardt, VAEs with structured image covariance applied to compressed sensing MRI,
    2023; Tipping, Bishop, Probabilistic principal component analysis, 1999.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        images = jax.random.normal(jax.random.key(0), (100, 8, 8, 1))
        prior = jaxinv.generative.PCAPrior(jaxinv.subspace.pca(images, rank=4))
        missed = jaxinv.generative.residual_gaussian(prior, images, rank=10)
        method = jaxinv.generative.Relaxed(jaxinv.regularisers.Gaussian(missed))
        ```
    """
    prior, images, latents = _checked(prior, images, latents)
    count, size = images.shape[0], images[0].size
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(count - 1, size):
        raise ValueError(
            f"`rank` must be a static integer from 1 to {min(count - 1, size)}, for {count} images of {size} pixels; "
            f"got {rank!r}."
        )
    mean, factor, diagonal = _fit(prior, images, latents, rank)
    return oracles.Gaussian.from_factor(mean, factor, diagonal)


def deviation_weight(
    prior: Checked[AbstractGenerativePrior],
    images: ArrayLike,
    deviation: Checked[AbstractRegulariser] = L1(),  # noqa: B008
    *,
    latents: ArrayLike | None = None,
) -> Array:
    """The weight of a deviation at which it has the size that images have: `d / mean <u, grad R(u)>`.

    The residuals `u = x - G(E(x))`, with `d` entries, are taken for draws of the density that is proportional to
    `exp(-weight R(u))`, for which Stein's identity is `weight E <u, grad R(u)> = d`. For `Tikhonov()` it is the inverse
    of their variance, and for `L1()` that of their mean modulus, the estimates of the largest likelihood. The noise has
    no part in it: `-log p(y | x)` is in nats, and so is the penalty with this weight.

    **Arguments:**

    - `prior`, `images`, `latents`: as for `residual_gaussian`.
    - `deviation`: the regulariser of `Relaxed` or `Soft`.

    **Returns:** the weight, a scalar: NaN, and so a problem with the code `invalid_parameter`, if the images do not
    deviate.

    **Raises:** `ValueError` as `residual_gaussian`, and for what is no regulariser.

    **Reference:** Stein, Estimation of the mean of a multivariate normal distribution, 1981.

    !!! example
        ```python
        import jax, jaxinv
        images = jax.random.normal(jax.random.key(0), (100, 8, 8, 1))
        prior = jaxinv.generative.PCAPrior(jaxinv.subspace.pca(images, rank=4))
        deviation = jaxinv.regularisers.Tikhonov()
        weight = jaxinv.generative.deviation_weight(prior, images, deviation)  # a little more than 1
        method = jaxinv.generative.Soft(deviation, weight)
        ```
    """
    prior, images, latents = _checked(prior, images, latents)
    if not isinstance(deviation, AbstractRegulariser):
        raise ValueError(f"`deviation` must be one of `jaxinv.regularisers`; got {deviation!r}.")
    return _stein(prior, images, latents, deviation)


@eqx.filter_jit
def _stein(
    prior: AbstractGenerativePrior, images: Array, latents: Array | None, deviation: AbstractRegulariser
) -> Array:
    products = jax.lax.map(lambda u: jnp.sum(u * deviation.gradient(u)), _missed(prior, images, latents))
    mean = jnp.mean(products)
    return jnp.where((mean > 0) & (mean < jnp.inf), images[0].size / jnp.where(mean > 0, mean, 1), jnp.nan)


def _checked(prior: Any, images: Any, latents: Any) -> tuple[AbstractGenerativePrior, Array, Array | None]:
    """Images, and their latents where these are given, which fit the prior."""
    prior, images = check_prior(prior), as_parameter(images)
    shape = tuple(prior.image_shape)
    if images.ndim != len(shape) + 1 or images.shape[1:] != shape or images.shape[0] < 2:
        raise ValueError(
            f"`images` must be at least two images of the prior, of shape (n, {', '.join(map(str, shape))}); got "
            f"{images.shape}."
        )
    count = images.shape[0]
    if latents is not None:
        latents = as_parameter(latents)
        if latents.shape != (count, *prior.latent_shape):
            raise ValueError(
                f"`latents` must have shape {(count, *prior.latent_shape)}, one for each image; got {latents.shape}."
            )
    if is_concrete(images) and not bool(jnp.all(jnp.isfinite(images))):
        first = int(jnp.argmin(jnp.all(jnp.isfinite(images.reshape(count, -1)), axis=1)))
        raise ValueError(f"`images` must be finite; image {first} is not.")
    return prior, images, latents


def _missed(prior: AbstractGenerativePrior, images: Array, latents: Array | None) -> Array:
    """What is left of each image."""
    if latents is None:
        return jax.lax.map(lambda x: x - prior.decode(prior.encode(x)), images, batch_size=500)
    return jax.lax.map(lambda pair: pair[0] - prior.decode(pair[1]), (images, latents), batch_size=500)


@eqx.filter_jit
def _fit(prior: AbstractGenerativePrior, images: Array, latents: Array | None, rank: int) -> tuple[Array, Array, Array]:
    missed = _missed(prior, images, latents)
    mean = missed.mean(0)
    centred = (missed - mean[None]).reshape(images.shape[0], -1) / jnp.sqrt(images.shape[0] - 1).astype(images.dtype)
    # The decomposition costs as much as the smaller Gram matrix would, and forms none.
    _, values, rows = jnp.linalg.svd(centred, full_matrices=False)
    factor = rows[:rank].T * values[:rank][None, :]
    variance = jnp.sum(centred**2, axis=0)
    remaining = variance - jnp.sum(factor**2, axis=1)
    return mean, factor, jnp.maximum(remaining, _FLOOR * jnp.max(variance))
