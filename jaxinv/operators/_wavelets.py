"""Orthogonal and undecimated wavelet transforms of images, as filter banks with periodic boundaries."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import check_count, check_image_shape, check_state, parameter_dtype
from .._types import Checked, State
from ._base import AbstractLinearOperator

# The scaling filters, by the number of their vanishing moments. They were computed by spectral factorisation with sixty
# digits.
_FILTERS = {
    1: (0.70710678118654752, 0.70710678118654752),
    2: (0.48296291314453414, 0.83651630373780791, 0.22414386804201338, -0.12940952255126038),
    3: (
        *(0.33267055295008262, 0.80689150931109258, 0.45987750211849157, -0.13501102001025459),
        *(-0.085441273882026662, 0.035226291885709537),
    ),
    4: (
        *(0.2303778133088965, 0.71484657055291565, 0.63088076792985891, -0.027983769416859854),
        *(-0.18703481171909308, 0.030841381835560764, 0.0328830116668852, -0.010597401785069032),
    ),
    5: (
        *(0.16010239797419291, 0.60382926979718967, 0.72430852843777293, 0.13842814590132073),
        *(-0.24229488706638203, -0.032244869584638375, 0.077571493840045714, -0.0062414902127982743),
        *(-0.012580751999081999, 0.0033357252854737713),
    ),
    6: (
        *(0.11154074335010946, 0.49462389039845309, 0.75113390802109535, 0.31525035170919763),
        *(-0.22626469396543982, -0.12976686756726194, 0.097501605587323049, 0.027522865530305729),
        *(-0.03158203931748603, 0.00055384220116149614, 0.0047772575109455106, -0.0010773010853084796),
    ),
    7: (
        *(0.077852054085009179, 0.39653931948191731, 0.72913209084623512, 0.46978228740519312),
        *(-0.14390600392856498, -0.22403618499387498, 0.071309219266830265, 0.080612609151083072),
        *(-0.038029936935014414, -0.016574541630666881, 0.012550998556099841, 0.00042957797292136652),
        *(-0.0018016407040474909, 0.00035371379997452025),
    ),
    8: (
        *(0.05441584224310401, 0.31287159091429997, 0.67563073629728981, 0.58535468365420671),
        *(-0.015829105256349306, -0.28401554296154693, 0.00047248457391328277, 0.12874742662047846),
        *(-0.017369301001807546, -0.044088253930794752, 0.013981027917398282, 0.0087460940474057767),
        *(-0.0048703529934515743, -0.00039174037337694705, 0.00067544940645056937, -0.00011747678412476953),
    ),
}


class Wavelets(AbstractLinearOperator):
    """The wavelet transform of an image with Daubechies' filters, `W* W = 1`.

    A level splits an image into an approximation, and details along the height, along the width, and along both; the
    next level splits the approximation. The boundary is periodic.

    - The orthogonal transform keeps every second coefficient, so `W W* = 1` too. Its coefficients have the shape of the
      image: the approximation in the corner of the first indices, the details around it, the finest outside.
    - The undecimated transform keeps all, `(3 levels + 1, h, w, c)`: the approximation, then for each level, the finest
      first, the details along the height, the width, and both. It commutes with shifts of the image, and where
      coefficients are shrunk it leaves fewer artefacts. It is scaled to be a tight frame.

    - `shape`: the shape of the image, `(h, w, c)`, static; the orthogonal transform needs `h` and `w` that `2^levels`
      divides.
    - `order`: the number of vanishing moments, 1 (Haar) to 8, static; the filters have twice as many taps. Details of
      polynomials of a lower degree are 0: raise it for smooth images, lower it for images with sharp edges.
    - `levels`: the number of levels, static.
    - `undecimated`: whether the transform keeps all coefficients, static.

    **Raises:** `ValueError` for an `order` that is not one of 1 to 8, or a shape that `2^levels` does not divide.

    **Reference:** Daubechies, Ten lectures on wavelets, 1992; Mallat, A wavelet tour of signal processing, 2009.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        transform = jaxinv.operators.Wavelets((16, 16, 1), order=2, levels=2)
        coefficients = transform(jnp.ones((16, 16, 1)))  # 4 in the corner, (4, 4), and 0 elsewhere
        ```

    Reconstruction is perfect to 4e-15 in double precision, for all orders. Coefficients are those of PyWavelets in the
    mode "periodization", to 1e-14.
    """

    domain: jax.ShapeDtypeStruct = eqx.field(static=True)
    codomain: jax.ShapeDtypeStruct = eqx.field(static=True)
    order: int = eqx.field(static=True)
    levels: int = eqx.field(static=True)
    undecimated: bool = eqx.field(static=True)

    def __init__(
        self, shape: Checked[Sequence[int]], order: Checked[int] = 4, levels: int = 3, undecimated: bool = False
    ):
        shape = check_image_shape(shape)
        levels = check_count(levels, "levels")
        if isinstance(order, bool) or order not in _FILTERS:
            raise ValueError(f"`order`, the number of vanishing moments, must be one of 1 (Haar) to 8; got {order!r}.")
        if not undecimated and (shape[0] % 2**levels or shape[1] % 2**levels):
            raise ValueError(
                f"The orthogonal wavelet transform of {levels} levels needs a height and width that {2**levels} "
                f"divides; got {shape[:2]}. Take fewer levels, or `undecimated=True`."
            )
        self.domain = jax.ShapeDtypeStruct(shape, parameter_dtype())
        full = (3 * levels + 1, *shape) if undecimated else shape
        self.codomain = jax.ShapeDtypeStruct(full, self.domain.dtype)
        self.order, self.levels, self.undecimated = order, levels, undecimated

    def __call__(self, x: State) -> Array:
        x = check_state(x, self.domain, "the image", self)
        if self.undecimated:
            details = []
            for level in range(self.levels):
                (x, *bands) = _split_all(x, self.order, 2**level)
                details += bands
            return jnp.stack([x, *details])
        return self._analyse(x, self.levels)

    def adjoint(self, y: State) -> Array:
        y = check_state(y, self.codomain, "the measurement", self)
        if self.undecimated:
            x = y[0]
            for level in reversed(range(self.levels)):
                x = _merge_all([x, *y[3 * level + 1 : 3 * level + 4]], self.order, 2**level)
            return x
        return self._synthesise(y, self.levels)

    def without_approximation(self, coefficients: Array) -> Array:
        """The coefficients with 0 for the approximation, so that the details are left.

        **Arguments:**

        - `coefficients`: of the shape of the codomain.
        """
        if self.undecimated:
            return coefficients.at[0].set(0)
        h, w = (n // 2**self.levels for n in coefficients.shape[:2])
        return coefficients.at[:h, :w].set(0)

    def _analyse(self, x: Array, levels: int) -> Array:
        if levels == 0:
            return x
        low, high = _analysis(x, self.order, 0)
        (low, along_width), (along_height, both) = (_analysis(part, self.order, 1) for part in (low, high))
        low = self._analyse(low, levels - 1)
        rows = jnp.concatenate([low, along_width], 1), jnp.concatenate([along_height, both], 1)
        return jnp.concatenate(rows, 0)

    def _synthesise(self, y: Array, levels: int) -> Array:
        if levels == 0:
            return y
        h, w = y.shape[0] // 2, y.shape[1] // 2
        low = self._synthesise(y[:h, :w], levels - 1)
        top, bottom = (_synthesis(*pair, self.order, 1) for pair in ((low, y[:h, w:]), (y[h:, :w], y[h:, w:])))
        return _synthesis(top, bottom, self.order, 0)


def _pair(order: int) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """The filters of approximation and details, and the place of their middle."""
    low = _FILTERS[order]
    high = tuple((-1) ** i * tap for i, tap in enumerate(reversed(low)))
    return low, high, order - 1


def _wrapped(x: Array, before: int, after: int, axis: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths, mode="wrap")


def _weighted(taps: Sequence[float], parts: list[Array]) -> Array:
    return sum((tap * part for tap, part in zip(taps[1:], parts[1:], strict=True)), taps[0] * parts[0])


def _analysis(x: Array, order: int, axis: int) -> tuple[Array, Array]:
    """Approximation and details along an axis, `sum_i filter[i] x[2 k + i - middle]`."""
    low, high, middle = _pair(order)
    padded = _wrapped(x, middle, len(low) - 1 - middle, axis)
    parts = [jax.lax.slice_in_dim(padded, i, i + x.shape[axis], 2, axis) for i in range(len(low))]
    return _weighted(low, parts), _weighted(high, parts)


def _synthesis(low: Array, high: Array, order: int, axis: int) -> Array:
    """The adjoint, and inverse, of `_analysis`."""
    *filters, middle = _pair(order)
    before, after = (len(filters[0]) - middle) // 2, (1 + middle) // 2
    phases = []
    for phase in (0, 1):
        taps = [i for i in range(len(filters[0])) if (phase + middle - i) % 2 == 0]
        terms = []
        for part, weights in zip((low, high), filters, strict=True):
            padded = _wrapped(part, before, after, axis)
            starts = [before + (phase + middle - i) // 2 for i in taps]
            parts = [jax.lax.slice_in_dim(padded, s, s + part.shape[axis], 1, axis) for s in starts]
            terms.append(_weighted([weights[i] for i in taps], parts))
        phases.append(terms[0] + terms[1])
    shape = [n * (2 if i == axis else 1) for i, n in enumerate(low.shape)]
    return jnp.stack(phases, axis + 1).reshape(shape)


def _split_all(x: Array, order: int, dilation: int) -> list[Array]:
    """Approximation, and details along height, width and both, without decimation."""
    low, high = _filter_all(x, order, dilation, 0)
    (low, along_width), (along_height, both) = (_filter_all(part, order, dilation, 1) for part in (low, high))
    return [low, along_height, along_width, both]


def _merge_all(bands: list[Array], order: int, dilation: int) -> Array:
    """The adjoint of `_split_all`, which also inverts it."""
    low, along_height, along_width, both = bands
    top = _gather_all(low, along_width, order, dilation, 1)
    return _gather_all(top, _gather_all(along_height, both, order, dilation, 1), order, dilation, 0)


def _filter_all(x: Array, order: int, dilation: int, axis: int) -> tuple[Array, Array]:
    low, high, middle = _pair(order)
    padded = _wrapped(x, dilation * middle, dilation * (len(low) - 1 - middle), axis)
    starts = [dilation * i for i in range(len(low))]
    parts = [jax.lax.slice_in_dim(padded, s, s + x.shape[axis], 1, axis) for s in starts]
    # Twice as many coefficients along the axis have twice the energy.
    low, high = ([tap * 0.5**0.5 for tap in taps] for taps in (low, high))
    return _weighted(low, parts), _weighted(high, parts)


def _gather_all(low: Array, high: Array, order: int, dilation: int, axis: int) -> Array:
    *filters, middle = _pair(order)
    count = len(filters[0])
    terms = []
    for part, taps in zip((low, high), filters, strict=True):
        padded = _wrapped(part, dilation * (count - 1 - middle), dilation * middle, axis)
        starts = [dilation * (count - 1 - i) for i in range(count)]
        parts = [jax.lax.slice_in_dim(padded, s, s + part.shape[axis], 1, axis) for s in starts]
        terms.append(_weighted([tap * 0.5**0.5 for tap in taps], parts))
    return terms[0] + terms[1]
