"""Constraints on the entries of an image, whose prox is the projection."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_factor, as_image
from .._types import Checked, Scalar, State
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

    def prox(self, x: State, step: Checked[Scalar]) -> Array:
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

    def prox(self, x: State, step: Checked[Scalar]) -> Array:
        del step
        x = _real(x, "Box")
        return jnp.clip(x, like(self.low, x), like(self.high, x))


def _real(x: State, name: str) -> Array:
    x = as_image(x, name)
    if jnp.iscomplexobj(x):
        raise ValueError(
            f"{name} is for real images; got dtype {x.dtype}. Where the image is real and the measurement complex, "
            "`operator @ operators.Real(shape)` has a real domain."
        )
    return x


def check_constraint(constraint: object) -> AbstractRegulariser:
    """`constraint`, which must be a regulariser that is a constraint.

    **Raises:** `ValueError` if it is not.
    """
    if not (isinstance(constraint, AbstractRegulariser) and constraint.is_constraint):
        raise ValueError(
            "`constraint` must be `regularisers.NonNegative()`, `regularisers.Box(low, high)`, or another regulariser "
            f"that says `is_constraint`; got {constraint!r}."
        )
    return constraint


def projected(constraint: AbstractRegulariser | None, x: Array) -> Array:
    """The projection of `x`, for descent on a function of it: an entry that is outside can come back.

    The derivative of a projection is 0 at an entry outside, which would stay there for good. Here it is 1 where descent
    then leads back: `min_x f(projected(x))` has the stationary points of `min f(x)` under the constraint.
    """
    return x if constraint is None else _projected(constraint, x)


@jax.custom_vjp
def _projected(constraint: AbstractRegulariser, x: Array) -> Array:
    return constraint.prox(x, 1.0)


def _projected_forward(
    constraint: AbstractRegulariser, x: Array
) -> tuple[Array, tuple[AbstractRegulariser, Array, Array]]:
    inside = constraint.prox(x, 1.0)
    return inside, (constraint, x, x - inside)


def _projected_backward(
    residuals: tuple[AbstractRegulariser, Array, Array], gradient: Array
) -> tuple[AbstractRegulariser, Array]:
    constraint, x, outside = residuals
    _, transpose = jax.vjp(lambda c, x: c.prox(x, 1.0), constraint, x)
    of_constraint, of_x = transpose(gradient)
    return of_constraint, jnp.where(outside * gradient >= 0, gradient, of_x)


_projected.defvjp(_projected_forward, _projected_backward)
