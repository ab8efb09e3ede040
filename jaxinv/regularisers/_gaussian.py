"""The energy of a Gaussian prior as a regulariser."""

import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_image
from .._kernels import matrix_product
from .._proximal_map import AbstractProximalMap, ClosedForm
from .._types import Checked, PyTree, Scalar, State
from .._workarounds import rounded
from ..requirements import Requirement, finite, not_negative
from ._base import AbstractRegulariser, square, step_like


class Gaussian(AbstractRegulariser):
    """`R(x) = -log p(x)` up to a constant, `1/2 (x - m)^T C^+ (x - m)`, for a Gaussian prior.

    - `prior`: an `oracles.Gaussian`. Directions in which its covariance is zero are not penalised by the value (the
      density does not exist there); the prox removes them, as the limit does.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        prior = jaxinv.oracles.Gaussian(jnp.zeros((2, 2, 1)), jnp.eye(4))
        half = jaxinv.regularisers.Gaussian(prior).prox(jnp.ones((2, 2, 1)), 1.0)
        ```
    """

    mean: Array
    basis: Array
    std: Array

    def __init__(self, prior: PyTree):
        if not hasattr(prior, "spectrum"):
            raise ValueError(f"`prior` must be a `jaxinv.oracles.Gaussian`; got {type(prior).__name__}.")
        self.mean = prior.mean
        # The spectrum is computed here, once, since a solver evaluates the penalty in every step.
        self.basis, self.std = prior.spectrum()

    def requirements(self) -> tuple[Requirement, ...]:
        return (finite("mean", self.mean), finite("basis", self.basis), not_negative("std", self.std))

    def __call__(self, x: State) -> Array:
        coefficients = self._analyse(x)
        spread = self.std.astype(coefficients.dtype)
        inverse = jnp.where(spread > 0, rounded(1 / jnp.where(spread > 0, spread, 1)), 0)
        scaled = rounded(rounded(coefficients) * inverse)
        return 0.5 * jnp.sum(square(scaled))

    def prox(self, x: State, step: Checked[Scalar]) -> Array:
        x = as_image(x, "Gaussian")
        coefficients = self._analyse(x)
        variance = self.std.astype(coefficients.dtype) ** 2
        shrunk = coefficients * variance / (variance + step_like(step, x))
        image = matrix_product(self.basis.astype(shrunk.dtype), shrunk)
        return self.mean.astype(x.dtype) + image.reshape(x.shape)

    def proximal_map(self, weight: Array) -> AbstractProximalMap | None:
        return ClosedForm(self, weight)

    def gaussian_factor(self, weight: Array) -> tuple[Array, Array] | None:
        root = jnp.sqrt(jnp.where(weight > 0, weight, 1))
        return self.mean, self.basis * (self.std / root)[None, :]

    def _analyse(self, x: State) -> Array:
        x = as_image(x, "Gaussian")
        if x.shape != self.mean.shape:
            raise ValueError(f"This Gaussian prior is on images of shape {self.mean.shape}; got {x.shape}.")
        deviation = (x - self.mean.astype(x.dtype)).ravel()
        return matrix_product(self.basis.astype(x.dtype), deviation, transposed=True)

    @property
    def is_quadratic(self) -> bool:
        return True

    @property
    def is_smooth(self) -> bool:
        return True
