"""The sensitivities of the coils, from the fully sampled centre of k-space."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from .._arrays import HIGHEST, as_array, as_leaf, check_count, common_dtype, is_concrete
from .._checks import check_instance, checked
from .._jit import compiled_method
from .._loop import iterate
from .._solution import RESULTS, settle
from .._types import ArrayLike, Checked, IntLike, Scalar
from ..operators import centred_ifft
from ..requirements import Parametric, Requirement, share, valid


class AbstractCoilMaps(Parametric):
    """A way to estimate coil maps; to define one, implement the call."""

    @abc.abstractmethod
    def __call__(self, kspace: Complex[Array, "l h w"]) -> Complex[Array, "l h w"]:
        """The maps of one image.

        **Arguments:**

        - `kspace`: the measurement of each coil, frequency 0 in the middle, zero where nothing is measured.

        **Returns:** the sensitivity of each coil at each pixel.
        """


class ESPIRiT(AbstractCoilMaps):
    """Maps that are consistent with the centre of k-space: eigenvectors of a projection, at each pixel.

    Every `kernel x kernel` window of the calibration region, over all coils, lies in the row space of the calibration
    matrix. In the image this projection is a matrix of coils by coils at each pixel. Its eigenvector of eigenvalue 1 is
    the map; outside of the object there is none, and the maps are 0. The sum of squares over coils is 1, and the first
    coil is real.

    - `calibration`: static, the width of the calibration region, the fully sampled centre of k-space.
    - `kernel`: static, the width of a window; larger for maps that vary faster.
    - `threshold`: singular values of the calibration matrix below this share of the largest are noise.
    - `crop`: the eigenvalue below which a pixel has no map. Lower it where maps are cut off at the border of an object.
    - `num_steps`: static, the number of steps of the power iteration for the eigenvectors.

    **Reference:** Uecker, Lai, Murphy, Virtue, Elad, Pauly, Vasanawala, Lustig, ESPIRiT - an eigenvalue approach to
    autocalibrating parallel MRI: where SENSE meets GRAPPA, 2014.
    """

    calibration: IntLike = eqx.field(default=24, static=True)
    kernel: IntLike = eqx.field(default=6, static=True)
    threshold: Scalar = eqx.field(default=0.02, converter=as_leaf)
    crop: Scalar = eqx.field(default=0.9, converter=as_leaf)
    num_steps: IntLike = eqx.field(default=100, static=True)

    def __check_init__(self):
        for name in ("calibration", "kernel", "num_steps"):
            check_count(getattr(self, name), name)
        if self.kernel > self.calibration:
            raise ValueError(f"`kernel` {self.kernel} must be at most `calibration`, {self.calibration}.")

    def requirements(self) -> tuple[Requirement, ...]:
        return (share("threshold", self.threshold), share("crop", self.crop))

    def __call__(self, kspace: Complex[Array, "l h w"]) -> Complex[Array, "l h w"]:
        coils, h, w = kspace.shape
        real = kspace.real.dtype
        windows = _windows(_middle(kspace, self.calibration), self.kernel)
        gram = jnp.matmul(jnp.conj(windows.T), windows, precision=HIGHEST)
        # The data are scaled, so that squares neither overflow nor vanish.
        size = jnp.max(jnp.abs(gram))
        values, vectors = jnp.linalg.eigh(gram / jnp.where(size > 0, size, 1))
        singular = jnp.sqrt(jnp.maximum(values, 0))
        kept = singular > jnp.asarray(self.threshold, real) * singular[-1]
        kernels = jnp.where(kept[None, :], jnp.conj(vectors), 0).T.reshape(-1, coils, self.kernel, self.kernel)
        projection = _projection(kernels, (h, w)) / self.kernel**2

        def step(index: Array, state: Any, projection: Array) -> tuple[Any, Array, RESULTS]:
            del index
            image = jnp.einsum("lmhw,mhw->lhw", projection, state[0], precision=HIGHEST)
            length = jnp.sqrt(jnp.sum(jnp.abs(image) ** 2, axis=0))
            return (image / jnp.where(length > 0, length, 1)[None], length), jnp.zeros((), bool), RESULTS.successful

        start = jnp.full((coils, h, w), coils**-0.5, kspace.dtype)
        (maps, eigenvalue), _, _ = iterate(
            step, (start, jnp.zeros((h, w), real)), projection, max_steps=self.num_steps, exhausted=RESULTS.successful
        )
        modulus = jnp.abs(maps[:1])
        phase = jnp.where(modulus > 0, jnp.conj(maps[:1]) / jnp.where(modulus > 0, modulus, 1), 1)
        return jnp.where((eigenvalue > jnp.asarray(self.crop, real))[None], maps * phase, 0)


class LowResolution(AbstractCoilMaps):
    """The images of the coils at low resolution over the root of their sum of squares: simple, smooth, and coarse.

    The centre of k-space is tapered by a Hann window. Outside of the object the maps are noise; where the sum of
    squares is below `crop` of its largest value, they are 0.

    - `calibration`: static, the width of the calibration region, the fully sampled centre of k-space.
    - `crop`: a share of the largest root of the sum of squares.

    **Reference:** McKenzie, Yeh, Ohliger, Price, Sodickson, Self-calibrating parallel imaging with automatic coil
    sensitivity extraction, 2002.
    """

    calibration: IntLike = eqx.field(default=24, static=True)
    crop: Scalar = eqx.field(default=0.02, converter=as_leaf)

    def __check_init__(self):
        check_count(self.calibration, "calibration")

    def requirements(self) -> tuple[Requirement, ...]:
        return (share("crop", self.crop),)

    def __call__(self, kspace: Complex[Array, "l h w"]) -> Complex[Array, "l h w"]:
        _, h, w = kspace.shape
        real = kspace.real.dtype
        middle = _middle(kspace, self.calibration)
        taper = [jnp.asarray(np.hanning(size + 2)[1:-1], real) for size in middle.shape[1:]]
        images = centred_ifft(_padded(middle * taper[0][None, :, None] * taper[1][None, None, :], (h, w))[..., None])
        images = images[..., 0]
        root = jnp.sqrt(jnp.sum(jnp.abs(images) ** 2, axis=0))
        inside = root > jnp.asarray(self.crop, real) * jnp.max(root)
        return jnp.where(inside[None], images / jnp.where(inside, root, 1)[None], 0)


@checked()
def coil_maps(
    kspace: ArrayLike,
    *,
    method: Checked[AbstractCoilMaps] = ESPIRiT(),  # noqa: B008
) -> Complex[Array, "l h w c"]:
    """The sensitivities of the coils, for `operators.MultiCoilFourier(mask, coils)`.

    **Arguments:**

    - `kspace`: the measurement, complex `(num_coils, h, w, c)`, frequency 0 at `(h // 2, w // 2)`, zero where nothing
      is measured, and fully sampled at the centre. Channels (slices, echoes) are independent.
    - `method`: `ESPIRiT()`, or `LowResolution()`, which is faster and tolerates noise at the centre of k-space.

    **Returns:** the maps, `(num_coils, h, w, c)`; NaN for k-space that arrives traced and is not finite.

    **Raises:** `ValueError` for another shape, a measurement that is real or not finite, and a calibration region
    larger than k-space.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        from jaxinv import mri, operators
        row, column = jnp.meshgrid(jnp.linspace(-1, 1, 32), jnp.linspace(-1, 1, 32), indexing="ij")
        true = [jnp.exp(-((row - a) ** 2) - column**2 + 1j * a * column) for a in (-1.0, 0.0, 1.0)]
        coils = jnp.stack(true)[..., None]
        kspace = operators.MultiCoilFourier(jnp.ones((32, 32, 1)), coils)(jaxinv.data.shepp_logan(32) + 0j)
        maps = mri.coil_maps(kspace, method=mri.ESPIRiT(calibration=16))
        ```

    Measured, on simulated maps of six coils without noise (48 x 48 pixels, a middle of 20 x 20): inside of the object
    the median of the sine of the angle between the maps and the true ones is below .01 for `ESPIRiT()`, and below .1
    for `LowResolution()`.
    """
    method = check_instance(method, AbstractCoilMaps, "method", ESPIRiT())
    kspace = check_kspace(kspace, "coil_maps")
    if min(kspace.shape[1:3]) < getattr(method, "calibration", 1):
        raise ValueError(
            f"`calibration` is {getattr(method, 'calibration', 1)}, more than k-space has, {kspace.shape[1:3]}."
        )
    return _estimate(method, kspace)


@compiled_method
def _estimate(method: AbstractCoilMaps, kspace: Array) -> Array:
    # NaN where a traced parameter of the method is out of its range, or traced k-space is not finite, whose maps a
    # comparison with the largest entry would make 0.
    good = valid(method) & jnp.all(jnp.isfinite(kspace))
    return settle(jax.vmap(method, in_axes=-1, out_axes=-1)(kspace), good)


def check_kspace(kspace: Any, name: str) -> Complex[Array, "l h w c"]:
    """A measurement of several coils, checked."""
    kspace = as_array(kspace)
    if kspace.ndim != 4 or kspace.size == 0:
        advice = " Add the channel axis: `kspace[..., None]`." if kspace.ndim == 3 else ""
        raise ValueError(f"{name} takes k-space of shape (num_coils, h, w, c); got {kspace.shape}.{advice}")
    if not jnp.iscomplexobj(kspace):
        raise ValueError(f"{name} takes complex k-space; got {kspace.dtype}. It is not the image, nor its modulus.")
    if is_concrete(kspace) and not bool(jnp.all(jnp.isfinite(kspace))):
        raise ValueError(f"{name}: k-space is not finite everywhere. Set what is not measured to 0.")
    return kspace.astype(common_dtype(kspace, jnp.complex64))


def _middle(kspace: Complex[Array, "l h w"], size: int) -> Complex[Array, "l c c"]:
    h, w = kspace.shape[1:]
    top, left = h // 2 - size // 2, w // 2 - size // 2
    return kspace[:, top : top + size, left : left + size]


def _windows(middle: Complex[Array, "l a b"], kernel: int) -> Complex[Array, "positions entries"]:
    """All windows of the calibration region, each with all its coils as one row."""
    coils, rows, columns = middle.shape
    places = [np.arange(n - kernel + 1)[:, None] + np.arange(kernel)[None, :] for n in (rows, columns)]
    cut = middle[:, places[0][:, None, :, None], places[1][None, :, None, :]]
    return cut.transpose(1, 2, 0, 3, 4).reshape(-1, coils * kernel**2)


def _padded(middle: Complex[Array, "... a b"], size: tuple[int, int]) -> Complex[Array, "... h w"]:
    """The calibration region in k-space of another size, with zeros around it."""
    widths = [(0, 0)] * (middle.ndim - 2)
    for n, m in zip(size, middle.shape[-2:], strict=True):
        before = n // 2 - m // 2
        widths.append((before, n - m - before))
    return jnp.pad(middle, widths)


def _projection(kernels: Complex[Array, "n l k k"], size: tuple[int, int]) -> Complex[Array, "l l h w"]:
    """`sum_n a_l conj(a_m)` at each pixel, where `a_l` is the Fourier transform of the kernel of coil `l`.

    A product in the image is a correlation of kernels, which has `2 k - 1` lags along each axis. So no image of a
    kernel is needed, of which there are hundreds.
    """
    k = kernels.shape[-1]
    lags = 2 * k - 1
    # The array holds the lags at its corner, with room for all of them.
    spectra = jnp.fft.fft2(kernels, s=(lags, lags))
    products = jnp.einsum("nlab,nmab->lmab", spectra, jnp.conj(spectra), precision=HIGHEST)
    correlation = jnp.fft.fftshift(jnp.fft.ifft2(products), (-2, -1))
    h, w = size
    if lags > min(size):
        raise ValueError(
            f"The image of {h} x {w} is too small for kernels of width {k}: it has fewer than {lags} pixels."
        )
    scale: Float[Array, ""] = jnp.sqrt(jnp.asarray(h * w, kernels.real.dtype))
    return scale * centred_ifft(_padded(correlation, size)[..., None])[..., 0]
