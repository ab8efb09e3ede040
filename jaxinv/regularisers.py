"""Regularisers `R`: the objective of every solver is `-log p(y | x) + weight * R(x)`."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._arrays import as_array, as_factor, as_parameter, multiply, safe_sqrt, standard_promotion
from ._kernels import matrix_product
from ._module import Module
from ._proximal_map import (
    AbstractProximalMap as AbstractProximalMap,
    ClosedForm,
    DualVariation,
    image_gradient as image_gradient,
    image_gradient_adjoint as image_gradient_adjoint,
)
from ._sums import exact_sum
from ._types import Checked, Scalar, State
from ._workarounds import rounded
from .operators import AbstractLinearOperator
from .requirements import Parametric, Requirement, finite, not_negative, positive

__all__ = [
    "AbstractProximalMap",
    "AbstractRegulariser",
    "Anisotropic",
    "Gaussian",
    "Isotropic",
    "L1",
    "Scaled",
    "Smoothed",
    "Sum",
    "TV",
    "Tikhonov",
    "image_gradient",
    "image_gradient_adjoint",
]


class AbstractRegulariser(Module):
    """A penalty on images. They add (`R1 + R2`) and scale (`2 * R`).

    A regulariser of your own implements `__call__`, `prox`, `is_quadratic` and `is_smooth`.
    """

    @abc.abstractmethod
    def __call__(self, x: State) -> Array:
        """`R(x)`, a scalar.

        **Arguments:**

        - `x`: an image.

        **Returns:** a real scalar, not negative.
        """

    @abc.abstractmethod
    def prox(self, x: State, step: Any) -> Array:
        """`argmin_u 1/2 ||u - x||^2 + step R(u)`, where it has a closed form.

        **Arguments:**

        - `x`: an image.
        - `step`: a scalar, not negative.

        **Returns:** an image of the shape and dtype of `x`.

        **Raises:** `ValueError` where it has no closed form.
        """

    def proximal_map(self, weight: Array) -> AbstractProximalMap | None:
        """The proximal map of `weight * R`, for solvers that split the objective.

        By default solvers use the `prox` of a regulariser that is not smooth, and the gradient of a smooth one. A
        subclass overrides this where it has another proximal map, or `prox` has no closed form.

        **Arguments:**

        - `weight`: a scalar.

        **Returns:** the map, or `None` for a regulariser whose gradient solvers are to use.
        """
        return None if self.is_smooth else ClosedForm(self, weight)

    def gaussian_factor(self, weight: Array) -> tuple[Array, Array] | None:
        """The mean and the factor of the Gaussian whose energy `weight * R` is, so that solvers can eliminate it.

        **Arguments:**

        - `weight`: a positive scalar.

        **Returns:** `(mean, factor)`, of shapes `(*image,)` and `(pixels, k)`, such that `weight * R(u)` is
        `1/2 ||w||^2` for `u = mean + factor w`. `None` for a regulariser that is not of this form.
        """
        del weight
        return None

    @property
    @abc.abstractmethod
    def is_quadratic(self) -> bool:
        """Whether the gradient is an affine map."""

    @property
    @abc.abstractmethod
    def is_smooth(self) -> bool:
        """Whether `R` is differentiable twice."""

    def gradient(self, x: State) -> Array:
        """The gradient of `R` for the real inner product `Re sum(conj(a) b)`."""
        return jnp.conj(jax.grad(lambda u: self(u))(as_array(x)))

    def __add__(self, other: "AbstractRegulariser") -> "Sum":
        if not isinstance(other, AbstractRegulariser):
            return NotImplemented
        return Sum(self, other)

    def __mul__(self, factor: Any) -> "Scaled":
        if isinstance(factor, AbstractRegulariser) or jnp.ndim(factor) != 0:
            return NotImplemented
        return Scaled(factor, self)

    __rmul__ = __mul__


class Tikhonov(AbstractRegulariser):
    """`R(x) = 1/2 ||L x||^2`.

    - `operator`: `L`, a linear operator; `None` for the identity. `prox` exists for the identity.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        shrunk = jaxinv.regularisers.Tikhonov().prox(jnp.ones((4, 4, 1)), 1.0)  # 1/2 everywhere
        ```
    """

    operator: AbstractLinearOperator | None

    def __init__(self, operator: Checked[AbstractLinearOperator | None] = None):
        if not (operator is None or isinstance(operator, AbstractLinearOperator)):
            raise ValueError(f"`operator` must be a linear operator or None; got {type(operator).__name__}.")
        self.operator = operator

    def __call__(self, x: State) -> Array:
        image = x if self.operator is None else self.operator(x)
        return jax.tree.reduce(jnp.add, jax.tree.map(lambda leaf: 0.5 * jnp.sum(_square(leaf)), image))

    def prox(self, x: State, step: Any) -> Array:
        if self.operator is not None:
            raise _no_prox("Tikhonov with an operator", "classical.tikhonov")
        x = as_array(x)
        with standard_promotion():
            return x / (1 + _like(step, x))

    def proximal_map(self, weight: Array) -> AbstractProximalMap | None:
        return ClosedForm(self, weight) if self.operator is None else None

    @property
    def is_quadratic(self) -> bool:
        return True

    @property
    def is_smooth(self) -> bool:
        return True


class L1(AbstractRegulariser):
    """`R(x) = sum |x|`; its prox is soft thresholding. For complex `x` the modulus.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        sparse = jaxinv.regularisers.L1().prox(jnp.linspace(-2, 2, 5), 1.0)  # -1 0 0 0 1
        ```
    """

    def __call__(self, x: State) -> Array:
        return exact_sum(safe_sqrt(_square(x))) if jnp.iscomplexobj(x) else exact_sum(jnp.abs(as_array(x)))

    def prox(self, x: State, step: Any) -> Array:
        x = as_array(x)
        if not jnp.iscomplexobj(x):
            return jnp.sign(x) * jnp.maximum(jnp.abs(x) - _like(step, x), 0)
        modulus = safe_sqrt(_square(x))
        keep = jnp.maximum(modulus - _like(step, x), 0) / jnp.where(modulus > 0, modulus, 1)
        return multiply(keep, x)

    @property
    def is_quadratic(self) -> bool:
        return False

    @property
    def is_smooth(self) -> bool:
        return False


class Isotropic(Parametric):
    """`sum sqrt(d_h^2 + d_w^2)` over pixels and channels."""

    is_smooth: ClassVar[bool] = False

    def __call__(self, gradient: Array) -> Array:
        return exact_sum(safe_sqrt(_square_at(gradient)))

    def project(self, dual: Array, radius: Array) -> Array:
        """The projection of a dual field onto fields of modulus at most `radius` per pixel."""
        return multiply(_shrink(_square_at(dual), radius)[None], dual)


class Anisotropic(Parametric):
    """`sum |d_h| + |d_w|` over pixels and channels."""

    is_smooth: ClassVar[bool] = False

    def __call__(self, gradient: Array) -> Array:
        return exact_sum(safe_sqrt(_square(gradient)))

    def project(self, dual: Array, radius: Array) -> Array:
        """The projection of a dual field onto fields of entries of modulus at most `radius`."""
        return dual * _shrink(_square(dual), radius)


class Smoothed(Parametric):
    """`sum sqrt(d_h^2 + d_w^2 + eps^2) - eps` over pixels and channels, differentiable.

    - `eps`: positive, in the unit of the image.
    """

    eps: Array
    is_smooth: ClassVar[bool] = True

    def __init__(self, eps: Checked[Scalar]):
        self.eps = as_parameter(eps)

    def requirements(self) -> tuple[Requirement, ...]:
        return (positive("eps", self.eps, "`eps` must be positive and finite (for eps = 0 take `Isotropic()`)"),)

    def __call__(self, gradient: Array) -> Array:
        return exact_sum(jnp.sqrt(_square_at(gradient) + _like(self.eps, gradient) ** 2) - _like(self.eps, gradient))


class TV(AbstractRegulariser):
    """Total variation of an image `(h, w, c)`: forward differences, none across the border; channels add.

    - `kind`: `Isotropic()`, `Anisotropic()` or `Smoothed(eps)`.

    It has no closed-form prox; `classical.tv` minimises with it.

    **Reference:** Rudin, Osher, Fatemi, Nonlinear total variation based noise removal algorithms, 1992.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        square = jnp.zeros((8, 8, 1)).at[2:6, 2:6].set(1.0)
        variation = jaxinv.regularisers.TV(jaxinv.regularisers.Anisotropic())(square)  # 16, the perimeter
        ```
    """

    kind: Isotropic | Anisotropic | Smoothed

    def __init__(self, kind: Checked[Isotropic | Anisotropic | Smoothed] = Isotropic()):  # noqa: B008
        if not isinstance(kind, Isotropic | Anisotropic | Smoothed):
            raise ValueError(
                f"`kind` must be Isotropic(), Anisotropic() or Smoothed(eps) of `jaxinv.regularisers`; got {kind!r}."
            )
        self.kind = kind

    def __call__(self, x: State) -> Array:
        x = as_array(x)
        if x.ndim != 3:
            raise ValueError(f"TV is for an image of shape (h, w, c); got {x.shape}.")
        return self.kind(image_gradient(x))

    def prox(self, x: State, step: Any) -> Array:
        del x, step
        raise _no_prox("TV", "classical.tv")

    def proximal_map(self, weight: Array) -> AbstractProximalMap | None:
        return None if self.is_smooth else DualVariation(self.kind, weight)

    @property
    def is_quadratic(self) -> bool:
        return False

    @property
    def is_smooth(self) -> bool:
        return self.kind.is_smooth


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

    def __init__(self, prior: Any):
        if not hasattr(prior, "spectrum"):
            raise ValueError(f"`prior` must be a `jaxinv.oracles.Gaussian`; got {type(prior).__name__}.")
        self.mean = prior.mean
        # Once, here: a solver evaluates the penalty in every step.
        self.basis, self.std = prior.spectrum()

    def requirements(self) -> tuple[Requirement, ...]:
        return (finite("mean", self.mean), finite("basis", self.basis), not_negative("std", self.std))

    def __call__(self, x: State) -> Array:
        coefficients = self._analyse(x)
        spread = self.std.astype(coefficients.dtype)
        inverse = jnp.where(spread > 0, rounded(1 / jnp.where(spread > 0, spread, 1)), 0)
        scaled = rounded(rounded(coefficients) * inverse)
        return 0.5 * jnp.sum(_square(scaled))

    def prox(self, x: State, step: Any) -> Array:
        x = as_array(x)
        coefficients = self._analyse(x)
        variance = self.std.astype(coefficients.dtype) ** 2
        shrunk = coefficients * variance / (variance + _like(step, x))
        image = matrix_product(self.basis.astype(shrunk.dtype), shrunk)
        return self.mean.astype(x.dtype) + image.reshape(x.shape)

    def proximal_map(self, weight: Array) -> AbstractProximalMap | None:
        return ClosedForm(self, weight)

    def gaussian_factor(self, weight: Array) -> tuple[Array, Array] | None:
        root = jnp.sqrt(jnp.where(weight > 0, weight, 1))
        return self.mean, self.basis * (self.std / root)[None, :]

    def _analyse(self, x: State) -> Array:
        x = as_array(x)
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


class Sum(AbstractRegulariser):
    """`R1 + R2`, made by `R1 + R2` of two regularisers.

    - `first`, `second`: the two regularisers.
    """

    first: AbstractRegulariser
    second: AbstractRegulariser

    def __call__(self, x: State) -> Array:
        return self.first(x) + self.second(x)

    def prox(self, x: State, step: Any) -> Array:
        del x, step
        raise _no_prox("a sum of regularisers", "a solver that uses gradients")

    def proximal_map(self, weight: Array) -> AbstractProximalMap | None:
        del weight
        return None

    @property
    def is_quadratic(self) -> bool:
        return self.first.is_quadratic and self.second.is_quadratic

    @property
    def is_smooth(self) -> bool:
        return self.first.is_smooth and self.second.is_smooth


class Scaled(AbstractRegulariser):
    """`factor * R`, made by `factor * R` of a number and a regulariser.

    - `factor`: a scalar, not negative.
    - `regulariser`: the regulariser `R`.
    """

    factor: Array = eqx.field(converter=as_factor)
    regulariser: AbstractRegulariser

    def __check_init__(self):
        if jnp.iscomplexobj(self.factor):
            raise ValueError(f"The factor of a regulariser must be real; got dtype {self.factor.dtype}.")

    def requirements(self) -> tuple[Requirement, ...]:
        return (not_negative("factor", self.factor, "The factor of a regulariser must not be negative"),)

    def __call__(self, x: State) -> Array:
        x = as_array(x)
        return _like(self.factor, x) * self.regulariser(x)

    def prox(self, x: State, step: Any) -> Array:
        x = as_array(x)
        return self.regulariser.prox(x, _like(self.factor, x) * _like(step, x))

    def proximal_map(self, weight: Array) -> AbstractProximalMap | None:
        return self.regulariser.proximal_map(weight * self.factor.astype(weight.dtype))

    def gaussian_factor(self, weight: Array) -> tuple[Array, Array] | None:
        return self.regulariser.gaussian_factor(weight * self.factor.astype(weight.dtype))

    @property
    def is_quadratic(self) -> bool:
        return self.regulariser.is_quadratic

    @property
    def is_smooth(self) -> bool:
        return self.regulariser.is_smooth


def _shrink(square: Array, radius: Array) -> Array:
    """The factor that makes a modulus, whose square is given, at most `radius`."""
    outside = square > radius**2
    return jnp.where(outside, radius / jnp.sqrt(jnp.where(outside, square, 1)), 1)


def _square_at(field: Array) -> Array:
    """The squared modulus per pixel of a field of two components; a reduction would be a kernel of its own."""
    return _square(field[0]) + _square(field[1])


def _square(z: Array) -> Array:
    return z.real**2 + z.imag**2 if jnp.iscomplexobj(z) else z**2


def _like(value: Any, x: Array) -> Array:
    return jnp.asarray(value).astype(jnp.finfo(x.dtype).dtype)


def _no_prox(name: str, instead: str) -> ValueError:
    known = "those of L1, Tikhonov() and Gaussian(prior) have"
    return ValueError(f"The prox of {name} has no closed form here; {known}. Use {instead}.")
