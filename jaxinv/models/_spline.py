"""Rational-quadratic spline couplings."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._coupling import AbstractCoupling, check_bound

# As in the paper: the least width and height of a bin, as a fraction of the interval, and the least slope at a knot.
_LEAST_BIN = 1e-3
_LEAST_SLOPE = 1e-3


class RationalQuadratic(AbstractCoupling):
    """Monotone rational-quadratic splines on `[-bound, bound]`, and the identity outside.

    More flexible than `Affine`, and slower: the network gives `3 bins - 1` parameters for each entry, the widths and
    heights of the bins and the slopes at the knots between them.

    **Arguments:**

    - `bins`: `K`, at least 2. Static.
    - `bound`: of the interval, in the unit of the latents. Static.

    **Raises:** `ValueError` if these are not such numbers.

    !!! cite "Reference"
        Durkan, Bekasov, Murray, Papamakarios, Neural Spline Flows, 2019
    """

    bins: Any = eqx.field(default=8, static=True)
    bound: Any = eqx.field(default=4.0, static=True)

    def __check_init__(self):
        if isinstance(self.bins, bool) or not isinstance(self.bins, int) or not 2 <= self.bins <= 500:
            raise ValueError(f"`bins` must be a static integer from 2 to 500; got {self.bins!r}.")
        check_bound(self.bound)

    @property
    def num_parameters(self) -> int:
        return 3 * self.bins - 1

    def forward(
        self, x: Float[Array, "n m"], parameters: Float[Array, "n p m"]
    ) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
        inside = jnp.abs(x) < self.bound
        # The spline is evaluated at 0 instead of outside, so that no gradient of what is not selected can be NaN.
        within = jnp.where(inside, x, 0)
        b = self._bin(within, parameters, inverse=False)
        t = (within - b.left) / b.width
        s = b.height / b.width
        denominator = s + (b.slope_right + b.slope_left - 2 * s) * t * (1 - t)
        y = b.bottom + b.height * (s * t**2 + b.slope_left * t * (1 - t)) / denominator
        slope = b.slope_right * t**2 + 2 * s * t * (1 - t) + b.slope_left * (1 - t) ** 2
        log_slope = 2 * jnp.log(s) + jnp.log(slope) - 2 * jnp.log(denominator)
        return jnp.where(inside, y, x), jnp.where(inside, log_slope, 0)

    def inverse(self, y: Float[Array, "n m"], parameters: Float[Array, "n p m"]) -> Float[Array, "n m"]:
        inside = jnp.abs(y) < self.bound
        within = jnp.where(inside, y, 0)
        b = self._bin(within, parameters, inverse=True)
        s, v = b.height / b.width, within - b.bottom
        bend = b.slope_right + b.slope_left - 2 * s
        quadratic = b.height * (s - b.slope_left) + v * bend
        linear = b.height * b.slope_left - v * bend
        constant = -s * v
        # The root in [0, 1], written for either sign of the linear coefficient so that nothing cancels. Of a monotone
        # spline it is simple, so the discriminant is positive but for rounding.
        least = jnp.finfo(y.dtype).tiny
        size = jnp.abs(linear) + jnp.sqrt(jnp.maximum(linear**2 - 4 * quadratic * constant, least))
        falling = linear < 0
        t = jnp.where(falling, size / (2 * jnp.where(falling, quadratic, 1)), -2 * constant / size)
        return jnp.where(inside, b.left + b.width * t, y)

    def _bin(self, at: Float[Array, "n m"], parameters: Float[Array, "n p m"], *, inverse: bool) -> "_Bin":
        """The bin of the interval in which each entry lies: of the heights if `inverse`, else of the widths."""
        bins = self.bins
        widths, lefts = self._knots(parameters[:, :bins])
        heights, bottoms = self._knots(parameters[:, bins : 2 * bins])
        # A parameter of 0 is a slope of 1, that of the identity outside.
        shift = math.log(math.expm1(1 - _LEAST_SLOPE))
        inner = _LEAST_SLOPE + jax.nn.softplus(parameters[:, 2 * bins :] + shift)
        one = jnp.ones_like(inner[:, :1])
        ends = bottoms if inverse else lefts
        index = jnp.sum(at[:, None] >= ends[:, 1:], axis=1)
        here = index[:, None] == jnp.arange(bins)[None, :, None]
        # A sum over few bins vectorises, forwards and backwards, where a gather does not.
        pick = lambda values: jnp.sum(jnp.where(here, values, 0), axis=1)
        return _Bin(
            left=pick(lefts),
            width=pick(widths),
            bottom=pick(bottoms),
            height=pick(heights),
            slope_left=pick(jnp.concatenate([one, inner], axis=1)),
            slope_right=pick(jnp.concatenate([inner, one], axis=1)),
        )

    def _knots(self, raw: Float[Array, "n k m"]) -> tuple[Float[Array, "n k m"], Float[Array, "n k m"]]:
        """The sizes of the bins, which fill the interval, and their lower ends."""
        fractions = _LEAST_BIN + (1 - _LEAST_BIN * self.bins) * jax.nn.softmax(raw, axis=1)
        lower = jnp.cumsum(fractions[:, :-1], axis=1)
        lower = jnp.concatenate([jnp.zeros_like(raw[:, :1]), lower], axis=1)
        return 2 * self.bound * fractions, 2 * self.bound * lower - self.bound


class _Bin(NamedTuple):
    left: Array
    width: Array
    bottom: Array
    height: Array
    slope_left: Array
    slope_right: Array
