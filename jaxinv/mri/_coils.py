"""The noise covariance of coils, prewhitening, and coil compression."""

import jax.numpy as jnp
from jaxtyping import Array, Complex

from .._arrays import HIGHEST, as_array, check_count, common_dtype
from .._jit import compiled_method
from .._types import ArrayLike, Checked, IntLike
from ._coil_maps import check_kspace


@compiled_method
def noise_covariance(kspace: ArrayLike, *, outside: Checked[float] = 0.8) -> Complex[Array, "l l"]:
    """The covariance of the noise of the coils, from the outer part of k-space, where there is hardly any signal.

    It is `E[n n^H]` over the measured frequencies whose distance from the centre, in half widths of k-space, is at
    least `outside` along one axis; a frequency is measured where any coil is not 0.

    **Arguments:**

    - `kspace`: the measurement, complex `(num_coils, h, w, c)`, frequency 0 at the centre.
    - `outside`: static, between 0 and 1. Raise it where the signal reaches far out. A scan of noise alone takes 0.

    **Returns:** the covariance, `(num_coils, num_coils)`, for `prewhiten`. With fewer measured frequencies than coils
    it is singular, and with none NaN.

    **Raises:** `ValueError` for another shape, a real measurement, and an `outside` out of range.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import mri
        kspace = jax.random.normal(jax.random.key(0), (2, 64, 64, 1)) * (1 + 1j)
        covariance = mri.noise_covariance(kspace, outside=0.0)  # near 2 times the identity
        ```
    """
    kspace = check_kspace(kspace, "noise_covariance")
    if isinstance(outside, bool) or not isinstance(outside, int | float) or not 0 <= outside < 1:
        raise ValueError(f"`outside` must be a number from 0 to below 1; got {outside!r}.")
    coils, h, w, _ = kspace.shape
    far = [jnp.abs(jnp.arange(n) - n // 2) >= outside * (n / 2) for n in (h, w)]
    outer = (far[0][:, None] | far[1][None, :])[None, :, :, None]
    measured = outer & jnp.any(kspace != 0, axis=0, keepdims=True)
    samples = jnp.where(measured, kspace, 0).reshape(coils, -1)
    count = jnp.sum(measured).astype(kspace.real.dtype)
    products = jnp.matmul(samples, jnp.conj(samples.T), precision=HIGHEST)
    return jnp.where(count > 0, products / jnp.maximum(count, 1), jnp.nan)


@compiled_method
def prewhiten(kspace: ArrayLike, covariance: ArrayLike) -> Complex[Array, "l h w c"]:
    """The measurement with independent noise of deviation 1 in the real and in the imaginary part of every coil.

    It is `sqrt(2) L^{-1} y` for the Cholesky factor `L` of the covariance. Estimate the coil maps from the result: then
    `noise.Gaussian(1.0)` and `operators.MultiCoilFourier(mask, maps)` are the likelihood.

    **Arguments:**

    - `kspace`: the measurement, complex `(num_coils, h, w, c)`.
    - `covariance`: the covariance of its noise, `(num_coils, num_coils)`, positive definite, as `noise_covariance`
      estimates it.

    **Returns:** k-space of the same shape; NaN for a covariance that is not Hermitian and positive definite.

    **Raises:** `ValueError` for shapes that do not fit.

    **Reference:** Pruessmann, Weiger, Bornert, Boesiger, Advances in sensitivity encoding with arbitrary k-space
    trajectories, 2001.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import mri
        kspace = jax.random.normal(jax.random.key(0), (2, 64, 64, 1)) * (1 + 1j)
        white = mri.prewhiten(kspace, mri.noise_covariance(kspace, outside=0.0))
        ```
    """
    kspace = check_kspace(kspace, "prewhiten")
    coils = kspace.shape[0]
    covariance = as_array(covariance)
    if covariance.shape != (coils, coils):
        raise ValueError(
            f"`covariance` must have shape ({coils}, {coils}), one row for each coil; got {covariance.shape}."
        )
    covariance = covariance.astype(common_dtype(kspace, covariance))
    # The decomposition reads half of the matrix, and makes up the rest.
    skew, rounding = jnp.abs(covariance - jnp.conj(covariance.T)), 100 * jnp.finfo(kspace.real.dtype).eps
    hermitian = jnp.max(skew) <= rounding * jnp.max(jnp.abs(covariance))
    factor = jnp.linalg.cholesky(jnp.where(hermitian, covariance, jnp.nan))
    inverse = jnp.linalg.solve(factor, jnp.eye(coils, dtype=factor.dtype))
    return jnp.sqrt(2.0).astype(kspace.real.dtype) * _mixed(inverse.astype(kspace.dtype), kspace)


@compiled_method
def compress_coils(kspace: ArrayLike, num_coils: IntLike) -> tuple[Complex[Array, "k h w c"], Complex[Array, "k l"]]:
    """Compress many coils to a few: the principal components of the coils with the largest part of the signal.

    **Arguments:**

    - `kspace`: the measurement, complex `(num_coils, h, w, c)`, whitened if its noise is not white.
    - `num_coils`: static, the number of coils to keep, at most those there are.

    **Returns:** k-space of the new coils, `(num_coils, h, w, c)`, and the matrix with orthonormal rows that combines
    the old ones to them. White noise stays white.

    **Raises:** `ValueError` for another shape, and more coils than there are.

    **Reference:** Huang, Vijayakumar, Li, Hertel, Duensing, A software channel compression technique for faster
    reconstruction with many channels, 2008.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import mri
        kspace = jax.random.normal(jax.random.key(0), (8, 16, 16, 1)) + 0j
        few, matrix = mri.compress_coils(kspace, 4)
        ```
    """
    kspace = check_kspace(kspace, "compress_coils")
    check_count(num_coils, "num_coils")
    coils = kspace.shape[0]
    if num_coils > coils:
        raise ValueError(f"`num_coils` is {num_coils}, of {coils} coils.")
    samples = kspace.reshape(coils, -1)
    size = jnp.max(jnp.abs(samples))
    samples = samples / jnp.where(size > 0, size, 1)
    _, vectors = jnp.linalg.eigh(jnp.matmul(samples, jnp.conj(samples.T), precision=HIGHEST))
    # The largest eigenvalue is the last.
    matrix = jnp.conj(vectors[:, ::-1][:, :num_coils].T)
    return _mixed(matrix, kspace), matrix


def _mixed(matrix: Complex[Array, "k l"], kspace: Complex[Array, "l h w c"]) -> Complex[Array, "k h w c"]:
    return jnp.einsum("kl,lhwc->khwc", matrix, kspace, precision=HIGHEST)
