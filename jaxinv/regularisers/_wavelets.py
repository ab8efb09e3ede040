"""Sparsity of wavelet coefficients."""

import equinox as eqx
from jaxtyping import Array

from .._arrays import as_image
from .._proximal_map import AbstractProximalMap, ClosedForm
from .._types import Checked, Scalar, State
from ..operators import Wavelets as Transform
from ._base import AbstractRegulariser, no_prox
from ._penalties import L1
from ._split import AbstractSplit, OnImage
from ._tv import Anisotropic


class Wavelets(AbstractRegulariser):
    """`R(x) = sum |d|` over the detail coefficients `d` of `operators.Wavelets`; the approximation costs nothing.

    - `order`: the number of vanishing moments of the filters, 1 (Haar) to 8, static.
    - `levels`: the number of levels, static.
    - `undecimated`: `False`, the default, for the orthogonal transform, which has a prox in closed form and needs
      a height and width that `2^levels` divides. `True` for the one that commutes with shifts, static: fewer artefacts,
      `3 levels + 1` times the work. `classical.primal_dual` minimises with either.

    **Reference:** Donoho, Johnstone, Ideal spatial adaptation by wavelet shrinkage, 1994; Coifman, Donoho,
    Translation-invariant de-noising, 1995.

    !!! example
        ```python
        import jax, jax.numpy as jnp, jaxinv
        noisy = jnp.ones((16, 16, 1)) + 0.1 * jax.random.normal(jax.random.key(0), (16, 16, 1))
        shrunk = jaxinv.regularisers.Wavelets(order=2).prox(noisy, 0.3)
        ```
    """

    order: Checked[int] = eqx.field(default=4, static=True)
    levels: int = eqx.field(default=3, static=True)
    undecimated: bool = eqx.field(default=False, static=True)

    def __call__(self, x: State) -> Array:
        x = as_image(x, "Wavelets")
        transform = transform_like(self, x.shape)
        return L1()(transform.without_approximation(transform(x)))

    def prox(self, x: State, step: Checked[Scalar]) -> Array:
        if self.undecimated:
            raise no_prox("undecimated Wavelets", "classical.primal_dual")
        x = as_image(x, "Wavelets")
        transform = transform_like(self, x.shape)
        coefficients = transform(x)
        # The part that soft thresholding removes is subtracted, so that the approximation stays as it is.
        taken = coefficients - L1().prox(coefficients, step)
        return x - transform.adjoint(transform.without_approximation(taken))

    def proximal_map(self, weight: Array) -> AbstractProximalMap | None:
        if self.undecimated:
            raise no_prox("undecimated Wavelets", "classical.primal_dual")
        return ClosedForm(self, weight)

    def splits(self, weight: Array) -> tuple[AbstractSplit, ...]:
        return (Analysis(self, weight),) if self.undecimated else (OnImage(self, weight),)

    @property
    def is_quadratic(self) -> bool:
        return False

    @property
    def is_smooth(self) -> bool:
        return False


class Analysis(AbstractSplit):
    """`weight * sum |d|` over the details of the undecimated transform."""

    of: Wavelets
    weight: Array

    def norm(self) -> float:
        return 1.0

    def forward(self, x: Array, auxiliary: None = None) -> Array:
        transform = transform_like(self.of, x.shape)
        return transform.without_approximation(transform(x))

    def adjoint(self, dual: Array) -> tuple[Array, None]:
        transform = transform_like(self.of, dual.shape[1:])
        return transform.adjoint(transform.without_approximation(dual)), None

    def value(self, field: Array) -> Array:
        return self.weight * L1()(field)

    def dual_prox(self, dual: Array, step: Array) -> Array:
        del step
        return Anisotropic().project(dual, self.weight)


def transform_like(of: Wavelets, shape: tuple[int, ...]) -> Transform:
    """The transform of images of a shape."""
    return Transform(shape, of.order, of.levels, of.undecimated)
