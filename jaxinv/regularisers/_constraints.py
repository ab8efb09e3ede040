"""Constraints on the entries of an image, whose prox is the projection."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_array, as_factor
from .._types import Scalar, State
from ..requirements import Requirement, finite
from ._base import AbstractRegulariser, like


class _AbstractBounds(AbstractRegulariser):
    """A bound of every entry by itself."""

    @property
    def is_separable(self) -> bool:
        return True

    @property
    def is_constraint(self) -> bool:
        return True

    @property
    def is_quadratic(self) -> bool:
        return False

    @property
    def is_smooth(self) -> bool:
        return False


class NonNegative(_AbstractBounds):
    """No entry may be negative: `R(x) = 0` if `x >= 0`, else infinite. The prox is the projection, `max(x, 0)`.

    Solvers take it as `constraint=regularisers.NonNegative()`, and `classical.primal_dual` also as one of a sum; then
    no entry of the solution is negative, not by rounding either.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        likelihood = jaxinv.Likelihood(jaxinv.operators.Identity((4, 4, 1)), jaxinv.noise.Gaussian(0.1))
        y = likelihood.simulate(jnp.zeros((4, 4, 1)), key=jax.random.key(0))
        constraint = jaxinv.regularisers.NonNegative()
        image = jaxinv.classical.tikhonov(likelihood, y, weight=1.0, constraint=constraint).value
        ```
    """

    def __call__(self, x: State) -> Array:
        x = _real(x, "NonNegative")
        return jnp.where(jnp.all(x >= 0), 0, jnp.inf).astype(x.dtype)

    def prox(self, x: State, step: Scalar) -> Array:
        del step
        return jnp.maximum(_real(x, "NonNegative"), 0)


class Box(_AbstractBounds):
    """Every entry must lie in an interval: `R(x) = 0` if `low <= x <= high`, else infinite.

    The prox is the projection, `clip(x, low, high)`. Solvers take it as `NonNegative`.

    - `low`, `high`: the bounds, in the unit of the image; scalars, or arrays that broadcast to the image.

    **Raises:** `ValueError` if a bound is not finite, or `low > high`. (For one bound at 0 take `NonNegative()`.)

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        clipped = jaxinv.regularisers.Box(0.0, 1.0).prox(jnp.array([-1.0, 0.5, 2.0]), 1.0)  # 0, 1/2, 1
        ```
    """

    low: Array = eqx.field(converter=as_factor)
    high: Array = eqx.field(converter=as_factor)

    def requirements(self) -> tuple[Requirement, ...]:
        words = "`low` must not be above `high`"
        ordered = Requirement(words, {"low": self.low, "high": self.high}, lambda low, high: low <= high)
        return finite("low", self.low), finite("high", self.high), ordered

    def __call__(self, x: State) -> Array:
        x = _real(x, "Box")
        inside = jnp.all((x >= like(self.low, x)) & (x <= like(self.high, x)))
        return jnp.where(inside, 0, jnp.inf).astype(x.dtype)

    def prox(self, x: State, step: Scalar) -> Array:
        del step
        x = _real(x, "Box")
        return jnp.clip(x, like(self.low, x), like(self.high, x))


def _real(x: State, name: str) -> Array:
    x = as_array(x)
    if jnp.iscomplexobj(x):
        raise ValueError(
            f"{name} is for real images; got dtype {x.dtype}. Where the image is real and the measurement complex, "
            "`operator @ operators.Real(shape)` has a real domain."
        )
    return x
