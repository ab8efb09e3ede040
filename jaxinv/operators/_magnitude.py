"""The magnitudes of a linear measurement, the non-linear operator of phase retrieval."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import real_dtype, safe_sqrt
from .._types import Checked, PyTree, State, Struct
from ._base import AbstractLinearOperator, AbstractOperator
from ._function import Jacobian


class Magnitude(AbstractOperator):
    """`|A x|`, entry by entry, a non-linear operator; its derivative is defined as zero where `A x` is zero.

    - `operator`: `A`, a linear operator.

    **Raises:** `ValueError` if `operator` is not a linear operator.

    !!! example
        ```python
        import jax, jaxinv
        fourier = jaxinv.operators.MaskedFourier(jax.numpy.ones((8, 8, 1)))
        x = jax.random.normal(jax.random.key(0), (8, 8, 1)).astype(complex)
        y = jaxinv.operators.Magnitude(fourier)(x)
        ```
    """

    operator: AbstractLinearOperator

    def __init__(self, operator: Checked[AbstractOperator]):
        if not isinstance(operator, AbstractLinearOperator):
            raise ValueError(f"`operator` must be a linear operator; got {type(operator).__name__}.")
        self.operator = operator

    @property
    def domain(self) -> Struct:
        return self.operator.domain

    @property
    def codomain(self) -> Struct:
        return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, real_dtype(s.dtype)), self.operator.codomain)

    @property
    def measured(self) -> PyTree[Array]:
        return self.operator.measured

    def __call__(self, x: State) -> State:
        return jax.tree.map(_magnitude, self.operator(x))

    def linearise(self, x: State) -> Jacobian:
        return Jacobian(self, x)


def _magnitude(z: Array) -> Array:
    # Select the input of the root and not its output, since the derivative of the root at 0 is infinite.
    square = z.real**2 + z.imag**2 if jnp.iscomplexobj(z) else z**2
    return safe_sqrt(square)
