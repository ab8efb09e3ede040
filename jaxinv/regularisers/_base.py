"""The interface of regularisers, their sums and multiples."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_array, as_factor, as_image, is_concrete, name_of
from .._module import Module
from .._proximal_map import AbstractProximalMap, ClosedForm
from .._types import Checked, Scalar, State
from ..requirements import Requirement, not_negative
from ._split import AbstractSplit, OnImage


class AbstractRegulariser(Module):
    """A penalty on images. They add (`R1 + R2`) and scale (`2 * R`).

    A regulariser of your own implements `__call__`, `prox`, `is_quadratic` and `is_smooth`; one that is a function of
    a linear map of the image implements `splits` too, and then `classical.primal_dual` minimises with it.
    """

    @abc.abstractmethod
    def __call__(self, x: State) -> Array:
        """`R(x)`, a scalar.

        **Arguments:**

        - `x`: an image.

        **Returns:** a real scalar, not negative.
        """

    @abc.abstractmethod
    def prox(self, x: State, step: Checked[Scalar]) -> Array:
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

    def splits(self, weight: Array) -> tuple[AbstractSplit, ...]:
        """The terms of `weight * R(x) = sum_i min_w F_i(K_i (x, w))`, with linear maps `K_i`, for primal-dual solvers.

        By default it is one term, `prox` on the image itself. A subclass overrides this where `R` is a function of a
        linear map of the image, or a sum.

        **Arguments:**

        - `weight`: a scalar, not negative.

        **Returns:** a tuple of terms, which add up.

        **Raises:** `ValueError`, that of `prox`, where it has no closed form.
        """
        return (OnImage(self, weight),)

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

    @property
    def is_separable(self) -> bool:
        """Whether `R` is a sum of functions of single real entries, so that a box commutes with its prox.

        The default is `False`. Where it is `True`, the minimiser with bounds on the entries is `prox`, clipped.
        """
        return False

    @property
    def is_constraint(self) -> bool:
        """Whether `R` is 0 on a convex set and infinite outside, and `prox` the projection; `False` by default."""
        return False

    def gradient(self, x: State) -> Array:
        """The gradient of `R` for the real inner product `Re sum(conj(a) b)`."""
        return jnp.conj(jax.grad(lambda u: self(u))(as_image(x, name_of(self))))

    def __add__(self, other: "AbstractRegulariser") -> "Sum":
        if not isinstance(other, AbstractRegulariser):
            return NotImplemented
        return Sum(self, other)

    def __mul__(self, factor: Any) -> "Scaled":
        if isinstance(factor, AbstractRegulariser) or jnp.ndim(factor) != 0:
            return NotImplemented
        return Scaled(factor, self)

    __rmul__ = __mul__


class Sum(AbstractRegulariser):
    """`R1 + R2`, made by `R1 + R2` of two regularisers.

    - `first`, `second`: the two regularisers.
    """

    first: AbstractRegulariser
    second: AbstractRegulariser

    def __call__(self, x: State) -> Array:
        return self.first(x) + self.second(x)

    def prox(self, x: State, step: Checked[Scalar]) -> Array:
        del x, step
        raise no_prox("a sum of regularisers", "`classical.primal_dual`, or a solver that uses gradients")

    def proximal_map(self, weight: Array) -> AbstractProximalMap | None:
        del weight
        return None

    def splits(self, weight: Array) -> tuple[AbstractSplit, ...]:
        return self.first.splits(weight) + self.second.splits(weight)

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
        x = as_image(x, "A regulariser")
        return like(self.factor, x) * self.regulariser(x)

    def prox(self, x: State, step: Checked[Scalar]) -> Array:
        x = as_image(x, "A regulariser")
        return self.regulariser.prox(x, like(self.factor, x) * step_like(step, x))

    def proximal_map(self, weight: Array) -> AbstractProximalMap | None:
        return self.regulariser.proximal_map(weight * self.factor.astype(weight.dtype))

    def splits(self, weight: Array) -> tuple[AbstractSplit, ...]:
        return self.regulariser.splits(weight * self.factor.astype(weight.dtype))

    def gaussian_factor(self, weight: Array) -> tuple[Array, Array] | None:
        return self.regulariser.gaussian_factor(weight * self.factor.astype(weight.dtype))

    @property
    def is_quadratic(self) -> bool:
        return self.regulariser.is_quadratic

    @property
    def is_smooth(self) -> bool:
        return self.regulariser.is_smooth

    @property
    def is_separable(self) -> bool:
        return self.regulariser.is_separable

    @property
    def is_constraint(self) -> bool:
        return self.regulariser.is_constraint


def square(z: Array) -> Array:
    """The squared modulus of each entry."""
    return z.real**2 + z.imag**2 if jnp.iscomplexobj(z) else z**2


def like(value: Any, x: Array) -> Array:
    """A number in the real dtype of an image."""
    return jnp.asarray(value).astype(jnp.finfo(x.dtype).dtype)


def step_like(step: Any, x: Array) -> Array:
    """The step of a prox in the real dtype of an image: NaN, as the prox is then, where it is traced and negative.

    **Raises:** `ValueError` for what is no real scalar, and for a number that is known, and negative or NaN.
    """
    step = as_array(step)
    if step.ndim != 0 or jnp.iscomplexobj(step):
        raise ValueError(
            f"prox(x, step): `step` must be a real scalar; got shape {step.shape} and dtype {step.dtype}. Map over "
            "several with `jax.vmap`."
        )
    if is_concrete(step) and not bool(step >= 0):
        raise ValueError(f"prox(x, step): `step` must not be negative; got {float(step)}.")
    step = like(step, x)
    return jnp.where(step >= 0, step, jnp.nan)


def no_prox(name: str, instead: str) -> ValueError:
    """The error of a regulariser whose prox has no closed form."""
    known = "those of L1, Tikhonov() and Gaussian(prior) have"
    return ValueError(f"The prox of {name} has no closed form here; {known}. Use {instead}.")
