"""Metrics of one image against a reference; `_samples.py` has those of sets of samples."""

import abc
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .._arrays import as_array, common_dtype
from .._jit import compiled_method
from .._solution import settle
from .._types import Abstract, Checked, Scalar, State
from ..requirements import Parametric, Requirement, positive, valid
from ._checks import check_images, check_positive, squared_modulus


@compiled_method
def psnr(x: State, reference: State, data_range: Scalar = 1.0) -> Float[Array, ""]:
    """The peak signal-to-noise ratio of one image, in decibels: `10 log10(data_range^2 / mean |x - reference|^2)`.

    Neither the image nor the result is clipped. For a set of images it is the mean of their PSNRs, and not the PSNR of
    the whole array.

    **Arguments:**

    - `x`: the image, `(h, w, c)` or of any other shape of at most three axes, real or complex; or a set of images,
      `(n, h, w, c)`.
    - `reference`: the true image, of the same shape.
    - `data_range`: the difference between the largest and the smallest value that an image may have, in its unit.

    **Returns:** a scalar; for identical images it is infinite, with gradient zero.

    **Raises:** `ValueError` if the shapes differ, if an image holds integers, or if `data_range` is not positive.

    !!! example
        ```python
        import jax, jax.numpy as jnp
        from jaxinv import metrics
        reference = jnp.zeros((16, 28, 28, 1))
        images = reference + 0.1
        assert abs(metrics.psnr(images, reference) - 20) < 1e-3
        one_by_one = jax.vmap(metrics.psnr)(images, reference)  # (16,)
        ```
    """
    x, reference = check_images(x, reference, "psnr")
    data_range = check_positive(data_range, x.dtype, "data_range")
    # Divide before squaring, so that images in a tiny or a huge unit neither underflow nor overflow.
    square = squared_modulus((x - reference) / data_range)
    mean_square = jnp.mean(square, axis=tuple(range(max(square.ndim - 3, 0), square.ndim)))
    identical = mean_square == 0
    return jnp.mean(jnp.where(identical, jnp.inf, -10 * jnp.log10(jnp.where(identical, 1, mean_square))))


@compiled_method
def nrmse(x: State, reference: State) -> Float[Array, ""]:
    """The normalised root-mean-square error of one image, `||x - reference|| / ||reference||` in Euclidean norms.

    **Arguments:**

    - `x`: the image, of any shape, real or complex.
    - `reference`: the true image, of the same shape.

    **Returns:** a scalar. For identical images it is 0, with gradient zero, even if they are zero; for any other image
    with a reference of zero it is infinite.

    **Raises:** `ValueError` if the shapes differ, or if an image holds integers.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import metrics
        reference = jnp.ones((28, 28, 1))
        assert abs(metrics.nrmse(1.1 * reference, reference) - 0.1) < 1e-6
        ```
    """
    x, reference = check_images(x, reference, "nrmse")
    error, size = jnp.mean(squared_modulus(x - reference)), jnp.mean(squared_modulus(reference))
    identical, empty = error == 0, size == 0
    # Replace 0 by 1 in both roots and the quotient, since a `where` around them alone leaves gradients of NaN.
    ratio = jnp.sqrt(jnp.where(identical, 1, error)) / jnp.sqrt(jnp.where(empty, 1, size))
    return jnp.where(identical, 0, jnp.where(empty, jnp.inf, ratio))


def _check_size(window: Any) -> None:
    size = window.size
    if isinstance(size, bool) or not isinstance(size, int) or size < 3 or size % 2 == 0:
        raise ValueError(f"`size` of {type(window).__name__} must be an odd integer of at least 3; got {size!r}.")


def _as_float(number: Any) -> Array:
    number = as_array(number)
    return number.astype(common_dtype(float, number.dtype))


class AbstractWindow(Parametric):
    """The window of the local means and covariances of `ssim`, the same along both axes."""

    if TYPE_CHECKING:
        size = Abstract[int]()
    else:
        size: eqx.AbstractVar[int]

    @abc.abstractmethod
    def weights(self, dtype: Checked[DTypeLike]) -> Array:
        """The weights along one axis.

        **Arguments:**

        - `dtype`: the dtype of the weights.

        **Returns:** an array of shape `(size,)` with sum 1.
        """

    @property
    @abc.abstractmethod
    def correction(self) -> float:
        """The factor by which local covariances are multiplied.

        **Returns:** a Python number.
        """


class UniformWindow(AbstractWindow):
    """Equal weights over `size x size` pixels.

    **Arguments:**

    - `size`: the side of the window in pixels, odd.
    - `sample_covariance`: whether to divide covariances by the number of pixels minus 1, as scikit-image does.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import metrics
        image = jnp.ones((28, 28, 1))
        assert metrics.ssim(image, image, window=metrics.UniformWindow(11)) == 1
        ```
    """

    size: int = eqx.field(static=True, default=7)
    sample_covariance: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        _check_size(self)

    def weights(self, dtype: Checked[DTypeLike]) -> Array:
        return jnp.full((self.size,), 1 / self.size, dtype)

    @property
    def correction(self) -> float:
        return self.size**2 / (self.size**2 - 1) if self.sample_covariance else 1.0


class GaussianWindow(AbstractWindow):
    """Gaussian weights, truncated to `size x size` pixels; the defaults are those of Wang et al. 2004.

    **Arguments:**

    - `sigma`: the standard deviation, in pixels.
    - `size`: the side of the window in pixels, odd; from seven times `sigma` on, the truncation is negligible.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import metrics
        image = jnp.ones((28, 28, 1))
        assert abs(metrics.ssim(image, image, window=metrics.GaussianWindow()) - 1) < 1e-6
        ```
    """

    sigma: Array = eqx.field(converter=_as_float, default=1.5)
    size: int = eqx.field(static=True, default=11)

    def __check_init__(self):
        _check_size(self)
        if self.sigma.ndim != 0:
            raise ValueError(f"`sigma` must be one number; got shape {self.sigma.shape}.")

    def requirements(self) -> tuple[Requirement, ...]:
        return (positive("sigma", self.sigma),)

    def weights(self, dtype: Checked[DTypeLike]) -> Array:
        offsets = jnp.arange(self.size, dtype=dtype) - self.size // 2
        bell = jnp.exp(-0.5 * (offsets / self.sigma.astype(dtype)) ** 2)
        return bell / jnp.sum(bell)

    @property
    def correction(self) -> float:
        return 1.0


@compiled_method
def ssim(
    x: State,
    reference: State,
    data_range: Scalar = 1.0,
    *,
    window: AbstractWindow = UniformWindow(),  # noqa: B008 (immutable, and without arrays)
    k1: Scalar = 0.01,
    k2: Scalar = 0.03,
) -> Float[Array, ""]:
    """The structural similarity of one image: at most 1, which only identical images have.

    It is the mean, over all windows that lie inside the image and over the channels, of

        (2 m_x m_r + c1) (2 s_xr + c2) / ((m_x^2 + m_r^2 + c1) (s_xx + s_rr + c2))

    with local means m and covariances s, `c1 = (k1 data_range)^2` and `c2 = (k2 data_range)^2`. The default equals the
    default of `skimage.metrics.structural_similarity`; `window=GaussianWindow()` equals that of the paper, and of
    scikit-image with `gaussian_weights=True, use_sample_covariance=False`. The two differ by some hundredths, so state
    the window with the value. For a set of images, report the mean of `jax.vmap(ssim)`.

    **Arguments:**

    - `x`: the image, `(h, w, c)`, real.
    - `reference`: the true image, of the same shape.
    - `data_range`: the difference between the largest and the smallest value that an image may have, in its unit.
    - `window`: `UniformWindow(size=7)` or `GaussianWindow(sigma=1.5, size=11)`.
    - `k1`, `k2`: the stabilising constants.

    **Returns:** a scalar.

    **Raises:** `ValueError` if the shapes differ or are not `(h, w, c)`, if an image is smaller than the window, is
    complex or holds integers, or if a constant is not positive.

    **Reference:** Wang, Bovik, Sheikh, Simoncelli, Image Quality Assessment: From Error Visibility to Structural
    Similarity, 2004.

    !!! example
        ```python
        import jax
        from jaxinv import metrics
        reference = jax.random.uniform(jax.random.key(0), (28, 28, 1))
        assert 0.9 < metrics.ssim(reference + 0.05, reference) < 1
        ```
    """
    x, reference = check_images(x, reference, "ssim")
    if x.ndim != 3:
        raise ValueError(
            f"`ssim` expects one image of shape (height, width, channels); got {x.shape}. A grey image has one "
            "channel, `x[..., None]`; map over a batch with `jax.vmap`."
        )
    if jnp.iscomplexobj(x):
        raise ValueError(f"`ssim` is defined for real images; got dtype {x.dtype}. Compare the moduli, `jnp.abs(x)`.")
    if min(x.shape[:2]) < window.size:
        raise ValueError(
            f"`ssim` needs an image at least as large as its window, {window.size} x {window.size} pixels; got shape "
            f"{x.shape}. Choose a smaller one: `window=metrics.UniformWindow(3)`."
        )
    data_range = check_positive(data_range, x.dtype, "data_range")
    c1, c2 = check_positive(k1, x.dtype, "k1") ** 2, check_positive(k2, x.dtype, "k2") ** 2
    # The similarity has no unit; in the unit of `data_range`, products of four pixels do not overflow.
    mean_x, mean_r, var_x, var_r, cov = _moments(x / data_range, reference / data_range, window.weights(x.dtype))
    luminance = (2 * mean_x * mean_r + c1) / (mean_x**2 + mean_r**2 + c1)
    structure = (2 * window.correction * cov + c2) / (window.correction * (var_x + var_r) + c2)
    return settle(jnp.mean(luminance * structure), valid(window))


def _moments(x: Array, y: Array, weights: Array) -> Array:
    # Use the law of total covariance, one axis after the other: the covariance of a window is the mean of those of its
    # columns plus the covariance of their means. It sums squared deviations only, while the usual E[x y] - E[x] E[y]
    # cancels, in float32 down to the size of c2 in a bright, flat region.
    means, covariances = jnp.stack([x, y]), jnp.zeros((3, *x.shape), x.dtype)
    average = lambda shifted: jnp.tensordot(weights, shifted, axes=1, precision=jax.lax.Precision.HIGHEST)
    for axis in (1, 2):
        shifted = _shifted(means, weights.size, axis)
        means = average(shifted)
        a, b = jnp.moveaxis(shifted - means[None], 1, 0)
        covariances = average(_shifted(covariances, weights.size, axis) + jnp.stack([a * a, b * b, a * b], axis=1))
    return jnp.concatenate([means, covariances])


def _shifted(x: Array, size: int, axis: int) -> Array:
    length = x.shape[axis] - size + 1
    return jnp.stack([jax.lax.slice_in_dim(x, k, k + length, axis=axis) for k in range(size)])
