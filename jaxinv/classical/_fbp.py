"""Filtered back-projection and its windows."""

import abc
import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import check_state, common_dtype, multiply
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


# A gap this many times the next smaller one is a wedge that was not measured; views at random rarely leave such a one.
_MISSING = 3.0
# Frames closer than this part of a period are of one angle.
_SAME = 1e-5


@verb
def fbp(operator: Checked[AbstractOperator], y: State, *, window: Checked[AbstractWindow] = RamLak()) -> Solution:  # noqa: B008
    """Filtered back-projection: the inverse of the Radon transform, cut off at the Nyquist frequency of the detector.

    Each view is convolved with the band-limited ramp filter, and back-projected along its rays, with linear
    interpolation between the bins. Each view is weighted by the angle that it stands for: half the gaps to its
    neighbours, modulo a half turn for parallel beams (a line is the same from both sides), modulo a full turn for fan
    beams. Wedges that were not measured count as zero, and so do rays beside the detector; several frames at one angle
    share its weight. Over a full turn a detector beside the axis may cover half of the object at a time: the lines that
    it measures twice are weighted smoothly. Fan beams are weighted by the cosine of the ray and the inverse square of
    the depth; lines that are measured twice by 1/2 each over a full turn, by the weights of Parker over an arc that is
    complete (half a turn and the angle of the fan, or more), and otherwise by 1/2 where the opposite view was measured.

    **Arguments:**

    - `operator`: `operators.ParallelBeam` or `operators.FanBeam`.
    - `y`: the sinogram of line integrals, `(angles, detectors, c)`, real or complex. Photon counts are converted first
      by the `linearise` of their noise.
    - `window`: `RamLak()`, `SheppLogan()`, `Cosine()` or `Hann()`: from sharp to smooth.

    **Returns:** a `Solution` whose value is the image, `(h, w, c)`. Its result is `nonfinite_measurement` if `y` holds
    NaN or infinity, `invalid_parameter` if an angle or the offset is not finite; the value is zero then.

    **Raises:** `ValueError` for another operator, or a sinogram of another shape.

    **Reference:** A. C. Kak and M. Slaney, Principles of Computerized Tomographic Imaging, 1988, chapter 3; Wang,
    X-ray micro-CT with a displaced detector array, 2002; Parker, Optimal short scan convolution reconstruction for
    fanbeam CT, 1982.

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
    y = y.astype(common_dtype(dtype, jnp.complex64) if jnp.iscomplexobj(y) else dtype)

    finite = jnp.all(jnp.isfinite(y))
    y = jnp.where(finite, y, 0)
    image = _parallel(operator, y, window) if isinstance(operator, ParallelBeam) else _fan(operator, y, window)
    sound = jnp.all(jnp.isfinite(image))
    result = RESULTS.where(sound, RESULTS.successful, RESULTS.nonfinite)
    result = RESULTS.where(finite, result, RESULTS.nonfinite_measurement)
    return Solution(jnp.where(finite & sound, image, 0), result, {})


def _parallel(operator: ParallelBeam, y: Array, window: AbstractWindow) -> Array:
    angles, s = operator.angles, _positions(operator)
    # A detector beside the axis sees the other half of the object on the other half of a full turn.
    turn = _Views(angles, 2 * jnp.pi)
    half = turn.complete & _beside(operator, s)
    views = jnp.where(half, turn.weights, _Views(angles, jnp.pi).weights)
    y = multiply(jnp.where(half, _shares(s), 1)[None, :, None], y)
    return _back_project(operator, y, operator.detector_spacing, window, views, half)


def _fan(operator: FanBeam, y: Array, window: AbstractWindow) -> Array:
    angles, s = operator.angles, _positions(operator)
    source_detector = operator.source_origin + operator.origin_detector
    cosine = source_detector / jnp.sqrt(source_detector**2 + s**2)
    # The filter acts on the detector as it would be, drawn towards the source, at the origin.
    spacing = operator.detector_spacing * operator.source_origin / source_detector
    turn = _Views(angles, 2 * jnp.pi)
    half = turn.complete & _beside(operator, s)
    shares = jnp.where(half, _shares(s)[None], turn.shares(-jnp.arctan(s / source_detector)))
    return _back_project(operator, y * (cosine[None, :] * shares)[:, :, None], spacing, window, turn.weights, half)


def _back_project(
    operator: ParallelBeam | FanBeam, y: Array, spacing: float, window: AbstractWindow, views: Array, half: Array
) -> Array:
    """The views filtered, weighted and back-projected; also beyond the edge of a detector that covers one half."""
    num_detectors = y.shape[1]
    margin = ((0, 0), (num_detectors, num_detectors), (0, 0))
    on_detector = jnp.pad(jnp.ones((1, num_detectors, 1), bool), margin)
    filtered = jnp.where(half | on_detector, _filter(jnp.pad(y, margin), spacing, window), 0)
    filtered = multiply(views[:, None, None], filtered)
    rays = dataclasses.replace(operator.rays, num_detectors=3 * num_detectors)
    return back_project_views(rays, filtered, *operator.placement(operator.angles.dtype))


def _positions(operator: ParallelBeam | FanBeam) -> Array:
    """The positions of the bins on the detector."""
    num_detectors = operator.codomain.shape[1]
    bins = all_bins(num_detectors, operator.angles.dtype)
    return detector_positions(bins, num_detectors, operator.detector_spacing) + operator.centre_offset


def _beside(operator: ParallelBeam | FanBeam, s: Array) -> Array:
    """Whether the detector reaches further on one side of the axis than on the other, by a bin or more."""
    return (s[0] < 0) & (s[-1] > 0) & (jnp.abs(s[0] + s[-1]) > 0.99 * operator.detector_spacing)


def _shares(s: Array) -> Array:
    """The weights of the rays of a full turn, of which those to `s` and `-s` are the same line and add up to 1.

    **Reference:** Wang, X-ray micro-CT with a displaced detector array, 2002.
    """
    overlap = jnp.minimum(-s[0], s[-1])
    long = jnp.sign(s[0] + s[-1])
    across = jnp.clip(long * s / jnp.where(overlap > 0, overlap, 1), -1, 1)
    return jnp.where(overlap > 0, (1 + jnp.sin(jnp.pi / 2 * across)) / 2, 1)


class _Views(eqx.Module):
    """The views on a circle of a period.

    - `weights`: the angle that each stands for: half the gaps to its neighbours. Several frames at one angle share it.
    - `typical`: the largest gap that is not a wedge which was not measured.
    - `start`: where the views begin, behind the largest gap.
    - `complete`: whether there is no wedge.
    - `contiguous`: whether there is one at most.
    """

    angles: Array
    weights: Array
    typical: Array
    start: Array
    complete: Array
    contiguous: Array

    def __init__(self, angles: Array, period: float):
        order = jnp.argsort(jnp.mod(angles, period))
        turned = jnp.mod(angles, period)[order]
        gaps = jnp.maximum(jnp.diff(turned, append=turned[:1] + period), 0)
        same = gaps <= _SAME * period
        # A wedge is larger by a factor than all gaps but the wedges, of which there are few.
        falling = jnp.sort(gaps)[::-1]
        others = jnp.sum(~same)
        place = jnp.arange(len(gaps))
        next_one = jnp.append(falling[1:], 0)
        jump = (falling > _MISSING * next_one) & (place + 1 < others) & (place < jnp.maximum(others // 5, 1))
        wedges = jnp.max(jnp.where(jump, place + 1, 0))
        self.typical = falling[wedges]
        missing = gaps > self.typical
        # The views on the rim of a wedge stand for as much angle beyond them as there is between others.
        covered = jnp.where(missing, self.typical, gaps)
        weights = (covered + jnp.roll(covered, 1)) / 2
        group = jnp.cumsum(~jnp.roll(same, 1)) - 1
        group = jnp.where(group < 0, group[-1], group)
        mean = lambda v: jnp.zeros_like(v).at[group].add(v)
        weights = (mean(weights) / jnp.maximum(mean(jnp.ones_like(weights)), 1))[group]
        self.angles = angles
        self.weights = jnp.zeros_like(weights).at[order].set(weights)
        self.start = turned[(jnp.argmax(gaps) + 1) % len(gaps)]
        self.complete, self.contiguous = wedges == 0, wedges <= 1

    def shares(self, gamma: Array) -> Array:
        """The weights of fan-beam rays, `(angles, detectors)`, of which those of one line add up to 1.

        - `gamma`: the angles of the rays with the central one; the line of `gamma` at the angle `t` is that of `-gamma`
          at `t + pi + 2 gamma`.

        **Reference:** Parker, Optimal short scan convolution reconstruction for fanbeam CT, 1982; Silver, A method for
        including redundant data in computed tomography, 2000.
        """
        arc = jnp.sum(self.weights)
        more = (arc - jnp.pi) / 2
        beta = (jnp.mod(self.angles - self.start + _SAME, 2 * jnp.pi) + self.typical / 2)[:, None]
        gamma = gamma[None, :]
        rise = jnp.clip(beta / jnp.maximum(2 * (more - gamma), _SAME), 0, 1)
        fall = jnp.clip((arc - beta) / jnp.maximum(2 * (more + gamma), _SAME), 0, 1)
        short = jnp.sin(jnp.pi / 2 * jnp.minimum(rise, fall)) ** 2
        # Otherwise by the central rays: 1/2 where the view from the other side was measured too.
        apart = jnp.abs(jnp.mod(self.angles[:, None] - self.angles[None, :], 2 * jnp.pi) - jnp.pi)
        twice = jnp.min(apart, axis=1) <= 0.75 * self.typical
        plain = jnp.where(self.complete | twice, 0.5, 1.0).astype(short.dtype)[:, None]
        enough = ~self.complete & self.contiguous & (more >= jnp.max(jnp.abs(gamma)))
        return jnp.where(enough, short, plain)


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
    spectrum = multiply(response[None, :, None], jnp.fft.fft(y, n=size, axis=1))
    filtered = jnp.fft.ifft(spectrum, axis=1)[:, :num_detectors]
    return filtered.astype(y.dtype) if jnp.iscomplexobj(y) else filtered.real.astype(y.dtype)
