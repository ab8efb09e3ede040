"""Filtered back-projection and its windows."""

import abc

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import check_state
from .._jit import verb
from .._kernels import back_project_views
from .._kernels._beams import all_bins, detector_positions
from .._solution import RESULTS, Solution
from .._types import Checked, State
from ..operators import AbstractOperator, FanBeam, ParallelBeam


class AbstractWindow(eqx.Module):
    """A factor on the ramp filter, as a function of the frequency over the Nyquist frequency, between 0 and 1."""

    @abc.abstractmethod
    def __call__(self, frequency: Array) -> Array:
        """The factor at these frequencies, 1 at frequency 0."""


class RamLak(AbstractWindow):
    """No window: the ramp filter itself, the sharpest and the noisiest. Ramachandran and Lakshminarayanan, 1971."""

    def __call__(self, frequency: Array) -> Array:
        return jnp.ones_like(frequency)


class SheppLogan(AbstractWindow):
    """`sinc(f / 2)`, which is .64 at the Nyquist frequency. Shepp and Logan, 1974."""

    def __call__(self, frequency: Array) -> Array:
        return jnp.sinc(frequency / 2)


class Cosine(AbstractWindow):
    """`cos(pi f / 2)`, which is 0 at the Nyquist frequency."""

    def __call__(self, frequency: Array) -> Array:
        return jnp.cos(jnp.pi * frequency / 2)


class Hann(AbstractWindow):
    """`(1 + cos(pi f)) / 2`, the smoothest of the four: 0 at the Nyquist frequency, with its slope."""

    def __call__(self, frequency: Array) -> Array:
        return (1 + jnp.cos(jnp.pi * frequency)) / 2


# A gap this many times the second largest is a wedge that was not measured; views at random rarely leave such a one.
_MISSING = 3.0


@verb
def fbp(operator: Checked[AbstractOperator], y: State, *, window: Checked[AbstractWindow] = RamLak()) -> Solution:  # noqa: B008
    """Filtered back-projection: the inverse of the Radon transform, cut off at the Nyquist frequency of the detector.

    Each view is convolved with the band-limited ramp filter, and smeared back along its rays, with linear interpolation
    between the bins. Each view is weighted by the angle that it stands for: half the gaps to its neighbours, modulo a
    half turn for parallel beams (a line is the same from both sides), modulo a full turn for fan beams. A wedge that
    was not measured is left out; what the detector does not see counts as zero. Fan beams are weighted by the cosine of
    the ray and the inverse square of the depth, and by 1/2 for a full turn, 1 for half a turn or less (without the
    weights of Parker for the lines that a short scan measures twice).

    **Arguments:**

    - `operator`: `operators.ParallelBeam` or `operators.FanBeam`.
    - `y`: the sinogram of line integrals, `(angles, detectors, c)`, real or complex. Photon counts are converted first
      by the `linearise` of their noise.
    - `window`: `RamLak()`, `SheppLogan()`, `Cosine()` or `Hann()`: from sharp to smooth.

    **Returns:** a `Solution` whose value is the image, `(h, w, c)`. Its result is `nonfinite_measurement` if `y` holds
    NaN or infinity, `invalid_parameter` if an angle or the offset is not finite; the value is zero then.

    **Raises:** `ValueError` for another operator, or a sinogram of another shape.

    **Reference:** A. C. Kak and M. Slaney, Principles of Computerized Tomographic Imaging, 1988, chapter 3.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        angles = jnp.linspace(0, jnp.pi, 60, endpoint=False)
        operator = jaxinv.operators.ParallelBeam((64, 64, 1), angles)
        sinogram = operator(jnp.ones((64, 64, 1)))
        image = jaxinv.classical.fbp(operator, sinogram, window=jaxinv.classical.Hann()).check().value
        ```
    """
    if not isinstance(operator, ParallelBeam | FanBeam):
        raise ValueError(
            f"`fbp` inverts `operators.ParallelBeam` and `operators.FanBeam`; got {type(operator).__name__}. "
            "Pass the bare tomograph inside a scaled or composed operator, and undo the rest on `y`."
        )
    if not isinstance(window, AbstractWindow):
        raise ValueError(
            f"`window` must be one of `RamLak()`, `SheppLogan()`, `Cosine()`, `Hann()` of `jaxinv.classical`, or a "
            f"module of your own that extends their base; got {window!r}."
        )
    y = check_state(y, operator.codomain, "the measurement", operator)
    dtype = operator.codomain.dtype
    y = y.astype(jnp.result_type(dtype, jnp.complex64) if jnp.iscomplexobj(y) else dtype)

    finite = jnp.all(jnp.isfinite(y))
    valid = jnp.all(jnp.isfinite(operator.angles)) & jnp.isfinite(operator.centre_offset)
    y = jnp.where(finite, y, 0)
    image = _parallel(operator, y, window) if isinstance(operator, ParallelBeam) else _fan(operator, y, window)
    sound = jnp.all(jnp.isfinite(image))
    result = RESULTS.where(sound, RESULTS.successful, RESULTS.nonfinite)
    result = RESULTS.where(valid, result, RESULTS.invalid_parameter)
    result = RESULTS.where(finite, result, RESULTS.nonfinite_measurement)
    return Solution(jnp.where(finite & valid & sound, image, 0), result, {})


def _parallel(operator: ParallelBeam, y: Array, window: AbstractWindow) -> Array:
    weights = _view_weights(operator.angles, jnp.pi)
    y = _filter(y, operator.detector_spacing, window) * weights[:, None, None]
    return back_project_views(operator.rays, y, *operator.placement(operator.angles.dtype))


def _fan(operator: FanBeam, y: Array, window: AbstractWindow) -> Array:
    dtype = operator.angles.dtype
    source_detector = operator.source_origin + operator.origin_detector
    num_detectors = operator.codomain.shape[1]
    s = detector_positions(all_bins(num_detectors, dtype), num_detectors, operator.detector_spacing)
    s = s[None] + operator.centre_offset
    cosine = source_detector / jnp.sqrt(source_detector**2 + s**2)
    # The filter acts on the detector as it would be, drawn towards the source, at the origin.
    spacing = operator.detector_spacing * operator.source_origin / source_detector
    weights = _view_weights(operator.angles, 2 * jnp.pi)
    weights = weights * jnp.clip(jnp.pi / jnp.sum(weights), 0.5, 1)
    y = _filter(y * cosine[:, :, None], spacing, window) * weights[:, None, None]
    return back_project_views(operator.rays, y, *operator.placement(dtype))


def _view_weights(angles: Array, period: float) -> Array:
    """The angle that each view stands for: half the gaps to its neighbours on a circle of this period."""
    order = jnp.argsort(jnp.mod(angles, period))
    turned = jnp.mod(angles, period)[order]
    gaps = jnp.diff(turned, append=turned[:1] + period)
    if gaps.shape[0] > 1:
        second, largest = jnp.sort(gaps)[-2:]
        # The views on the rim of a wedge stand for as much angle beyond them as there is between others.
        gaps = jnp.where((gaps == largest) & (largest > _MISSING * second), second, gaps)
    weights = (gaps + jnp.roll(gaps, 1)) / 2
    return jnp.zeros_like(weights).at[order].set(weights)


def _filter(y: Array, spacing: float, window: AbstractWindow) -> Array:
    """Each view convolved with the ramp filter, whose samples in space (not in frequency) keep the mean right."""
    num_detectors = y.shape[1]
    size = 2 ** int(np.ceil(np.log2(max(2 * num_detectors, 2))))
    n = np.minimum(np.arange(size), size - np.arange(size))
    ramp = np.where(n % 2 == 1, -1 / (np.pi * np.maximum(n, 1)) ** 2, 0.0)
    ramp[0] = 1 / 4
    dtype = jnp.finfo(y.dtype).dtype
    response = jnp.asarray(np.fft.fft(ramp).real / spacing, dtype)
    response = response * window(jnp.asarray(n / (size // 2), dtype))
    filtered = jnp.fft.ifft(jnp.fft.fft(y, n=size, axis=1) * response[None, :, None], axis=1)[:, :num_detectors]
    return filtered.astype(y.dtype) if jnp.iscomplexobj(y) else filtered.real.astype(y.dtype)
