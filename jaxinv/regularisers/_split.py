"""The terms of a regulariser for primal-dual solvers: a linear map of the image, and a function of it with a dual
prox."""

import abc
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import multiply
from .._types import Abstract, PyTree

if TYPE_CHECKING:
    from ._base import AbstractRegulariser
else:
    # `_base.py` imports this file.
    AbstractRegulariser = Any


class AbstractSplit(eqx.Module):
    """A term `weight * R(x) = min_w F(K (x, w))`, with `K` linear and `F` convex.

    `w` are auxiliary variables, such as the field of `TGV`; most terms have none, and `None` stands for them. An
    `AbstractRegulariser` names its terms in `splits`.

    - `weight`: a scalar, not negative, which is a factor of `F`.

    !!! example
        ```python
        import jax.numpy as jnp
        from jaxinv import regularisers

        class Steps(regularisers.AbstractSplit):  # weight * sum |x[i + 1] - x[i]| for a vector
            weight: jnp.ndarray

            def norm(self):
                return 2.0

            def forward(self, x, auxiliary=None):
                return jnp.diff(x)

            def adjoint(self, dual):
                return -jnp.diff(dual, prepend=0.0, append=0.0), None

            def value(self, field):
                return self.weight * jnp.sum(jnp.abs(field))

            def dual_prox(self, dual, step):
                return jnp.clip(dual, -self.weight, self.weight)
        ```
    """

    if TYPE_CHECKING:
        weight = Abstract[Array]()
    else:
        weight: eqx.AbstractVar[Array]

    @abc.abstractmethod
    def norm(self) -> Array | float:
        """An upper bound of the norm of `K`, positive, from which solvers make their steps.

        **Returns:** a number, or a scalar array.
        """

    @abc.abstractmethod
    def forward(self, x: Array, auxiliary: PyTree = None) -> PyTree[Array]:
        """`K (x, w)`.

        **Arguments:**

        - `x`: an image.
        - `auxiliary`: the auxiliary variables, or `None`.

        **Returns:** a pytree of arrays.
        """

    @abc.abstractmethod
    def adjoint(self, dual: PyTree[Array]) -> tuple[Array, PyTree]:
        """`K* p`, the adjoint of `forward`.

        **Arguments:**

        - `dual`: a pytree like the value of `forward`.

        **Returns:** an image, and auxiliary variables or `None`.
        """

    @abc.abstractmethod
    def value(self, field: PyTree[Array]) -> Array:
        """`F` at a value of `forward`, the weight included. A constraint counts as 0 here.

        **Arguments:**

        - `field`: a pytree like the value of `forward`.

        **Returns:** a real scalar.
        """

    @abc.abstractmethod
    def dual_prox(self, dual: PyTree[Array], step: Array) -> PyTree[Array]:
        """`argmin_p 1/2 ||p - dual||^2 + step F*(p)`, with `F*` the convex conjugate.

        By Moreau's identity it is `dual - step u`, with `u` the proximal map of `F / step` at `dual / step`.

        **Arguments:**

        - `dual`: a pytree like the value of `forward`.
        - `step`: a positive scalar.

        **Returns:** a pytree like `dual`.
        """

    def auxiliary(self, x: Array) -> PyTree:
        """The auxiliary variables at first: zeros.

        **Arguments:**

        - `x`: an image.

        **Returns:** a pytree of arrays, or `None`, the default, for a term without them.
        """
        del x
        return None

    @property
    def regulariser(self) -> AbstractRegulariser | None:
        """The regulariser whose `prox`, with steps times `weight`, solvers may use on the image itself, or `None`."""
        return None


class OnImage(AbstractSplit):
    """A term whose map is the identity, by the prox of its regulariser."""

    of: AbstractRegulariser
    weight: Array

    def norm(self) -> float:
        return 1.0

    def forward(self, x: Array, auxiliary: None = None) -> Array:
        return x

    def adjoint(self, dual: Array) -> tuple[Array, None]:
        return dual, None

    def value(self, field: Array) -> Array:
        return jnp.zeros_like(self.weight) if self.of.is_constraint else self.weight * self.of(field)

    def dual_prox(self, dual: Array, step: Array) -> Array:
        return jax.tree.map(
            lambda d, u: d - multiply(step, u), dual, self.of.prox(multiply(1 / step, dual), self.weight / step)
        )

    @property
    def regulariser(self) -> AbstractRegulariser | None:
        return self.of
