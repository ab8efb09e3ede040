"""The components of a noised Gaussian mixture at one point, from which its density, denoiser and score are computed."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from .._arrays import HIGHEST
from .._types import Checked
from ..requirements import Parametric, Requirement, finite, requirement
from ._low_rank import LowRank

# Half a squared distance beyond which a component has no share, whatever its log-determinant; a finite number, so that
# derivatives are finite too.
FAR = 1e12


class View(eqx.Module):
    """The shares, coordinates and densities of the components at one point.

    - `log_shares`: `log p(component | x_t = x)`, `(k,)`.
    - `coefficients`: `U_k^T (x - scale m_k)`, `(k, r)`.
    - `log_densities`: `log(w_k) + log N(x; scale m_k, scale^2 C_k + std^2 I)`, `(k,)`, without the terms of directions
      in which the law has variance 0.
    - `strays`: the squared distance to `scale m_k` in these directions, `(k,)`.
    """

    log_shares: Array
    coefficients: Array
    log_densities: Array
    strays: Array

    @property
    def shares(self) -> Array:
        return jnp.exp(self.log_shares)


def log_weights(value: Array) -> Requirement:
    """What must hold of the logarithms of weights; the weight 0 has minus infinity."""
    words = "`weights` must be finite, not negative, and sum to 1"
    return requirement(words, value, lambda v: v < math.inf)


class Components(Parametric):
    """The components, with the differences of their means, which do not depend on the point.

    - `offsets`: `U_k^T (m_j - m_k)`, `(j, k, r)`.
    - `separations`: `|m_j - m_k|^2` in the directions outside the basis of `k`, `(j, k)`.
    """

    log_weights: Array
    means: Array
    covariances: LowRank
    offsets: Array
    separations: Array
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, log_weights: Array, means: Array, covariances: LowRank, shape: tuple[int, ...]):
        self.shape = shape
        self.log_weights = log_weights
        self.means = means
        self.covariances = covariances
        self.offsets, self.separations = _differences(means, covariances)

    def requirements(self) -> tuple[Requirement, ...]:
        return (log_weights(self.log_weights), finite("means", self.means))

    def astype(self, dtype: Checked[DTypeLike]) -> "Components":
        return jax.tree.map(lambda leaf: leaf.astype(dtype), self)

    def view(self, scale: Array, std: Array, x: Array) -> View:
        """The components at the point `x`, `(d,)`, where `x_t = scale x_0 + std n`.

        Distances are computed relative to the nearest mean. `|x|^2 - 2 scale <x, m_k> + scale^2 |m_k|^2` costs the
        same, but would lose all digits of the distance of a point from the mean of its component. In exact arithmetic
        the values are the same.
        """
        means, law = self.means, self.covariances
        along = jnp.matmul(means, x, precision=HIGHEST)
        rough = scale**2 * jnp.sum(means**2, axis=1) - 2 * scale * along
        possible = self.log_weights > -jnp.inf
        nearest = jnp.argmin(jax.lax.stop_gradient(jnp.where(possible, rough, jnp.inf)))
        near = x - scale * means[nearest]
        # Compute in units of the length, whose square overflows for a point far away.
        unit = jax.lax.stop_gradient(jnp.maximum(jnp.max(jnp.abs(near)), 1))
        near, shrunk = near[None] / unit, scale / unit
        inside = law.coefficients(near)
        outside = jnp.zeros_like(near) if law.is_full else near - law.expand(inside)
        steps, separations = shrunk * self.offsets[nearest], shrunk**2 * self.separations[nearest]
        coefficients = inside + steps
        variances, rest = scale**2 * law.variances + std**2, scale**2 * law.rest + std**2
        precisions, tight = _inverse(variances)
        rest_precisions, rest_tight = _inverse(jnp.zeros_like(rest) if law.is_full else rest)
        squares = jnp.sum(outside**2, axis=1)
        if len(law.basis) == 1:
            products = jnp.matmul(means, outside[0], precision=HIGHEST)
            excess = 2 * shrunk * (products[nearest] - products) + separations
            # Far from all means only the differences of distances matter; take them before they lose their digits.
            gaps = jnp.sum(steps * (2 * inside + steps) * precisions, axis=1) + excess * rest_precisions
            gaps = gaps + squares * (rest_precisions - _at(rest_precisions, nearest))
            gaps = gaps + jnp.sum(inside**2 * (precisions - _at(precisions, nearest)), axis=1)
            squares = squares + excess
            exponents = gaps + _total(coefficients**2, precisions, squares, rest_precisions)[nearest]
        else:
            squares = squares + 2 * shrunk * jnp.sum(outside * (means[nearest][None] - means), axis=1) + separations
            gaps = exponents = _total(coefficients**2, precisions, squares, rest_precisions)
        others = means.shape[1] - law.basis.shape[2]
        roots = 0.5 * (jnp.sum(jnp.log(precisions), axis=1) + others * jnp.log(rest_precisions))
        constants = self.log_weights + roots
        least = jax.lax.stop_gradient(jnp.min(jnp.where(possible, gaps, jnp.inf)))
        halves = jnp.minimum(0.5 * unit * (unit * (gaps - least)), FAR)
        widths = jnp.sum(~tight, axis=1) + jnp.where(rest_tight, 0, others)
        strays = jnp.sum(jnp.where(tight, coefficients**2, 0), axis=1) + jnp.where(rest_tight, squares, 0)
        return View(
            jax.nn.log_softmax(constants - halves),
            unit * coefficients,
            constants - 0.5 * unit * (unit * exponents) - 0.5 * math.log(2 * math.pi) * widths.astype(x.dtype),
            unit * (unit * strays),
        )

    def combine(self, view: View, gain: Callable[[Array], Array], scale: Array, x: Array) -> Array:
        """`sum_k share_k g_k(C_k) (x - scale m_k)`, `(d,)`, where `gain` maps variances to those of `g_k(C_k)`."""
        law = self.covariances
        gains = view.shares[:, None] * gain(law.variances)
        if law.is_full:
            return law.expand_sum(gains * view.coefficients)
        rest = view.shares * gain(law.rest)
        flat = jnp.sum(rest) * x - scale * jnp.matmul(rest, self.means, precision=HIGHEST)
        return flat + law.expand_sum((gains - rest[:, None]) * view.coefficients)

    def mean_of(self, shares: Array) -> Array:
        """`sum_k share_k m_k`, `(d,)`."""
        return jnp.matmul(shares, self.means, precision=HIGHEST)


@eqx.filter_jit
def _differences(means: Array, covariances: LowRank) -> tuple[Array, Array]:
    def one(mean):
        steps = mean[None] - means
        offsets = covariances.coefficients(steps)
        outside = jnp.zeros_like(steps) if covariances.is_full else steps - covariances.expand(offsets)
        return offsets, jnp.sum(outside**2, axis=1)

    # Loop over the means, since all differences at once would be (k, k, d).
    return jax.lax.map(one, means)


def _inverse(variances: Array) -> tuple[Array, Array]:
    # A variance of 0 becomes 1; the caller treats these directions separately.
    tight = ~(variances > 0)
    return 1 / jnp.where(tight, 1, variances), tight


def _total(squares: Array, precisions: Array, outside: Array, rest: Array) -> Array:
    return jnp.sum(squares * precisions, axis=1) + outside * rest


def _at(values: Array, index: Array) -> Array:
    return values[index][None] if len(values) > 1 else values
