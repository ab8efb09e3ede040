"""Numerical checks of a denoiser: what the convergence of plug-and-play methods assumes of it."""

import warnings

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import check_key, is_concrete, safe_sqrt
from .._jit import compiled_method
from .._loop import iterate
from .._module import Module
from .._solution import RESULTS
from .._types import ArrayLike, Checked, Key, Scalar
from ._denoiser import AbstractDenoiser, check_denoiser

_EPS = 1e-2


class DenoiserCertificate(Module):
    """The result of `certify` at one image; `print` shows its numbers.

    - `lipschitz`: the norm of the derivative of `D`, a lower bound of its Lipschitz constant. `RED` and `PGD` assume
      that it is at most 1, so that `D` is nonexpansive.
    - `residual_lipschitz`: that of `x - D(x)`. The condition of Ryu et al. for `PGD` and `ADMM` is that it is below 1.
    - `asymmetry`: `|<J u, v> - <u, J v>| / (||J u|| ||v||)` for random `u` and `v`. Where it is near 0, `D` is a
      gradient, and `RED` minimises an objective.
    - `error`: `||D(x + sigma n) - x|| / ||sigma n||`, for noise `n`. A denoiser lowers the error, to below 1.
    """

    lipschitz: Array
    residual_lipschitz: Array
    asymmetry: Array
    error: Array

    @property
    def is_nonexpansive(self) -> Array:
        """Whether the derivative of `D` has a norm of at most 1, within a hundredth."""
        return self.lipschitz <= 1 + _EPS

    def check(self) -> "DenoiserCertificate":
        """Return this certificate, or warn of what the methods may not converge with.

        **Raises:** `RuntimeError` if the denoiser does not denoise. Call it outside `jit`.
        """
        if not bool(jnp.all(self.error < 1)):
            raise RuntimeError(
                f"The denoiser leaves {float(jnp.max(self.error)):.3g} of the noise: more than there was. Is the image "
                "in the unit it was trained in ([0, 1] or [-1, 1]), and `sigma` in the same?"
            )
        if not bool(jnp.all(self.is_nonexpansive)):
            warnings.warn(
                f"The denoiser is not nonexpansive: its derivative has the norm {float(jnp.max(self.lipschitz)):.3g}. "
                "`PGD`, `ADMM` and `RED` may not converge; `HQS` takes few steps, `GradientStep` converges whatever "
                "the denoiser, and `Equivariant(denoiser)` has a smaller constant.",
                stacklevel=2,
            )
        return self


@compiled_method
def certify(
    denoiser: Checked[AbstractDenoiser], image: ArrayLike, sigma: Scalar, *, key: Key, max_steps: int = 50
) -> DenoiserCertificate:
    """Measure at an image what the convergence of plug-and-play methods assumes of a denoiser.

    The norms are by power iterations with the derivative and its transpose, at the image with noise; they approach the
    norm from below.

    **Arguments:**

    - `denoiser`: any denoiser.
    - `image`: a clean image of the kind that it is made for.
    - `sigma`: the noise level, positive; a traced one that is not makes the figures NaN.
    - `key`: a typed key, for the noise and the starts.
    - `max_steps`: the number of power iterations, static.

    **Returns:** a `DenoiserCertificate`; its `check()` warns of a denoiser that is not nonexpansive.

    **Raises:** `ValueError` for an object that is not a denoiser.

    **Reference:** Ryu, Liu, Wang, Chen, Wang, Yin, Plug-and-play methods provably converge with properly trained
    denoisers, 2019, Assumption A; Reehorst, Schniter, Regularization by denoising: clarifications and new
    interpretations, 2019.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import pnp
        denoiser = pnp.Denoiser(lambda x, sigma: x / (1 + sigma**2))
        certificate = pnp.certify(denoiser, jnp.ones((8, 8, 1)), 0.5, key=jax.random.key(0)).check()
        assert abs(certificate.lipschitz - 0.8) < 1e-5
        ```
    """
    check_key(key)
    check_denoiser(denoiser)
    clean = jnp.asarray(image)
    clean = clean.astype(jnp.result_type(float, clean.dtype))
    if jnp.ndim(sigma) != 0 or (is_concrete(sigma) and not 0 < float(sigma) < float("inf")):
        raise ValueError(f"`sigma` must be a finite and positive number; got {sigma}.")
    sigma = jnp.asarray(sigma).astype(clean.dtype)
    sigma = jnp.where((sigma > 0) & (sigma < jnp.inf), sigma, jnp.nan)
    draw = lambda i: jax.random.normal(jax.random.fold_in(key, i), clean.shape, clean.dtype)
    noise, u, v = draw(0), draw(1), draw(2)
    noisy = clean + sigma * noise
    denoised, product = jax.linearize(lambda x: denoiser(x, sigma), noisy)
    transpose = jax.linear_transpose(product, noisy)
    forward = product(u)
    asymmetry = jnp.abs(_inner(forward, v) - _inner(product(v), u)) / (_norm(forward) * _norm(v))

    def largest(residual: float) -> Array:
        apply = lambda w: residual * w + (1 - 2 * residual) * product(w)
        back = lambda w: residual * w + (1 - 2 * residual) * transpose(w)[0]

        def step(index: Array, state: tuple[Array, Array], args: None) -> tuple[tuple[Array, Array], Array, RESULTS]:
            del index, args
            w, _ = state
            image = apply(w)
            size = _norm(image)
            w = back(image)
            length = _norm(w)
            w = w / jnp.where(length > 0, length, 1)
            return (w, size), jnp.zeros((), bool) & (size > 0), RESULTS.successful

        start = draw(3) / _norm(draw(3))
        (_, size), _, code = iterate(step, (start, jnp.zeros((), clean.dtype)), None, max_steps=max_steps)
        return jnp.where(code == RESULTS.nonfinite, jnp.nan, size)

    error = _norm(denoised - clean) / (sigma * _norm(noise))
    return DenoiserCertificate(largest(0.0), largest(1.0), asymmetry, error)


def _inner(a: Array, b: Array) -> Array:
    return jnp.sum(a * b)


def _norm(a: Array) -> Array:
    return safe_sqrt(jnp.sum(a**2))
