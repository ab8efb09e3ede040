"""Total variation and its generalisation of second order."""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import as_factor, as_image, as_parameter, multiply, safe_sqrt
from .._loop import iterate
from .._proximal_map import AbstractProximalMap, DualVariation, image_gradient, image_gradient_adjoint
from .._solution import RESULTS
from .._sums import exact_sum
from .._types import Checked, Scalar, State
from ..requirements import Parametric, Requirement, positive
from ._base import AbstractRegulariser, like, no_prox, square
from ._split import AbstractSplit


class Isotropic(Parametric):
    """`sum sqrt(d_h^2 + d_w^2)` over pixels and channels."""

    is_smooth: ClassVar[bool] = False

    def __call__(self, gradient: Array) -> Array:
        return exact_sum(safe_sqrt(_square_at(gradient)))

    def project(self, dual: Array, radius: Array) -> Array:
        """The projection of a dual field onto fields of modulus at most `radius` per pixel."""
        return multiply(_shrink(_square_at(dual), radius)[None], dual)

    def dual_prox(self, dual: Array, radius: Array, step: Array) -> Array:
        """The proximal map of the conjugate, which is `project` for every step."""
        del step
        return self.project(dual, radius)


class Anisotropic(Parametric):
    """`sum |d_h| + |d_w|` over pixels and channels."""

    is_smooth: ClassVar[bool] = False

    def __call__(self, gradient: Array) -> Array:
        return exact_sum(safe_sqrt(square(gradient)))

    def project(self, dual: Array, radius: Array) -> Array:
        """The projection of a dual field onto fields of entries of modulus at most `radius`."""
        return dual * _shrink(square(dual), radius)

    def dual_prox(self, dual: Array, radius: Array, step: Array) -> Array:
        """The proximal map of the conjugate, which is `project` for every step."""
        del step
        return self.project(dual, radius)


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
        eps = like(self.eps, gradient)
        return exact_sum(jnp.sqrt(_square_at(gradient) + eps**2) - eps)

    def dual_prox(self, dual: Array, radius: Array, step: Array) -> Array:
        """The proximal map of `step` times the conjugate of `radius * self`, by Newton's method."""
        # Moreau's identity gives this from the prox of `radius * sqrt(|g|^2 + eps^2)`.
        eps = self.eps.astype(radius.dtype)
        modulus = jnp.sqrt(_square_at(dual)[None] + jnp.finfo(radius.dtype).tiny) / step
        shrink = radius / step
        # Newton's method, from the left, for the root of r - a + s r / sqrt(r^2 + eps^2), which is increasing and
        # concave: it converges upwards.
        r = jnp.maximum(modulus - shrink, modulus / (1 + shrink / eps))
        for _ in range(8):
            root_r = jnp.sqrt(r**2 + eps**2)
            r = r - (r - modulus + shrink * r / root_r) / (1 + shrink * eps**2 / root_r**3)
        return multiply(1 - r / modulus, dual)


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
        return self.kind(image_gradient(_check_image(x, "TV")))

    def prox(self, x: State, step: Checked[Scalar]) -> Array:
        del x, step
        raise no_prox("TV", "classical.tv")

    def proximal_map(self, weight: Array) -> AbstractProximalMap | None:
        return None if self.is_smooth else DualVariation(self.kind, weight)

    def splits(self, weight: Array) -> tuple[AbstractSplit, ...]:
        return (Variation(self.kind, weight),)

    @property
    def is_quadratic(self) -> bool:
        return False

    @property
    def is_smooth(self) -> bool:
        return self.kind.is_smooth


class Variation(AbstractSplit):
    """`weight * kind(grad x)`."""

    kind: Isotropic | Anisotropic | Smoothed
    weight: Array

    def norm(self) -> float:
        return math.sqrt(8.0)

    def forward(self, x: Array, auxiliary: None = None) -> Array:
        return image_gradient(x)

    def adjoint(self, dual: Array) -> tuple[Array, None]:
        return image_gradient_adjoint(dual), None

    def value(self, field: Array) -> Array:
        return self.weight * self.kind(field)

    def dual_prox(self, dual: Array, step: Array) -> Array:
        return self.kind.dual_prox(dual, self.weight, step)


def _shrink(square: Array, radius: Array) -> Array:
    """The factor that makes a modulus, whose square is given, at most `radius`."""
    outside = square > radius**2
    return jnp.where(outside, radius / jnp.sqrt(jnp.where(outside, square, 1)), 1)


def _square_at(field: Array) -> Array:
    """The squared modulus per pixel of a field of two components; a reduction would be a kernel of its own."""
    return square(field[0]) + square(field[1])


def _check_image(x: State, name: str) -> Array:
    x = as_image(x, name)
    if x.ndim != 3:
        raise ValueError(f"{name} is for an image of shape (h, w, c); got {x.shape}.")
    return x


class TGV(AbstractRegulariser):
    """Total generalised variation of second order of an image `(h, w, c)`:

    `R(x) = min_w sum |grad x - w| + ratio * sum |E w|`, with `E w` the symmetrised derivative of the field `w`.

    Where the image has a slope, `w` follows it, so that affine images cost nothing: it keeps edges as `TV` does, and
    does not make stairs of slopes. Differences are forward ones, none across the border, on a staggered grid. Channels
    add.

    - `ratio`: the weight of the second term, positive, in pixels. Raise it for flatter slopes; at infinity it is `TV`
      of the difference from an affine image. The default is 2.

    The value is that of a minimisation, which takes 1000 steps: accurate to 1e-4 on noise of 16 x 16 pixels, and its
    gradient to 1e-2 or so. Solvers minimise over `w` together with the image. It has no closed-form prox;
    `classical.primal_dual` minimises with it.

    **Reference:** Bredies, Kunisch, Pock, Total generalized variation, 2010; Knoll, Bredies, Pock, Stollberger, Second
    order total generalized variation (TGV) for MRI, 2011.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        slope = jnp.linspace(0, 1, 8)[:, None, None] * jnp.ones((8, 8, 1))
        value = jaxinv.regularisers.TGV()(slope)  # 0, where TV is 8
        ```
    """

    ratio: Array = eqx.field(default=2.0, converter=as_factor)

    def requirements(self) -> tuple[Requirement, ...]:
        return (positive("ratio", self.ratio),)

    def __call__(self, x: State) -> Array:
        x = _check_image(x, "TGV")
        frozen = jax.lax.stop_gradient(x)
        one = jnp.ones((), jnp.finfo(x.dtype).dtype)
        split = SecondVariation(jax.lax.stop_gradient(like(self.ratio, x)), one)
        gradient = image_gradient(frozen)
        # The steps are scaled by the sizes of `w` and of the dual field, so that the unit of the image does not matter.
        size = jnp.sqrt(jnp.mean(square(gradient)))
        size = jnp.where(size > 0, size, 1)
        steps = jnp.stack([size, 1 / size]) / split.norm()

        def descend(index: Array, state: Any, args: Any) -> Any:
            del index
            (w, ahead, dual), (split, frozen, steps) = state, args
            field = split.forward(frozen, ahead)
            dual = split.dual_prox(jax.tree.map(lambda p, f: p + multiply(steps[1], f), dual, field), steps[1])
            new = w - multiply(steps[0], split.adjoint(dual)[1])
            return (new, 2 * new - w, dual), jnp.zeros((), bool), RESULTS.successful

        zeros = jax.tree.map(jnp.zeros_like, split.forward(frozen, gradient))
        start = (gradient, gradient, zeros)
        (w, _, _), _, _ = iterate(descend, start, (split, frozen, steps), max_steps=_INNER_STEPS)
        # At the minimum the value does not change with `w`, so the derivative is the partial one in `x`.
        return SecondVariation(like(self.ratio, x), one).value(split.forward(x, jax.lax.stop_gradient(w)))

    def prox(self, x: State, step: Checked[Scalar]) -> Array:
        del x, step
        raise no_prox("TGV", "classical.primal_dual")

    def proximal_map(self, weight: Array) -> AbstractProximalMap | None:
        del weight
        raise no_prox("TGV", "classical.primal_dual")

    def splits(self, weight: Array) -> tuple[AbstractSplit, ...]:
        return (SecondVariation(jnp.asarray(self.ratio).astype(weight.dtype), weight),)

    @property
    def is_quadratic(self) -> bool:
        return False

    @property
    def is_smooth(self) -> bool:
        return False


_INNER_STEPS = 1000


class SecondVariation(AbstractSplit):
    """`weight * (|grad x - w| + ratio |E w|)`; the auxiliary variable is `w`."""

    ratio: Array
    weight: Array

    def norm(self) -> float:
        # ||(grad, -1; 0, E)||^2 is at most (17 + sqrt(33)) / 2, for ||grad||^2 and ||E||^2 below 8.
        return math.sqrt((17 + math.sqrt(33)) / 2)

    def auxiliary(self, x: Array) -> Array:
        return jnp.zeros((2, *x.shape), x.dtype)

    def forward(self, x: Array, auxiliary: Any = None) -> tuple[Array, Array]:
        return image_gradient(x) - _of_differences(auxiliary), _symmetrised(auxiliary)

    def adjoint(self, dual: tuple[Array, Array]) -> tuple[Array, Array]:
        first, second = dual
        return image_gradient_adjoint(first), _symmetrised_adjoint(second) - _of_differences(first)

    def value(self, field: tuple[Array, Array]) -> Array:
        first, second = (jnp.sum(safe_sqrt(_square_along(part))) for part in field)
        return self.weight * (first + self.ratio * second)

    def dual_prox(self, dual: tuple[Array, Array], step: Array) -> tuple[Array, Array]:
        del step
        first, second = dual
        return _onto_ball(first, self.weight), _onto_ball(second, self.weight * self.ratio)


def _square_along(field: Array) -> Array:
    return sum((square(part) for part in field[1:]), square(field[0]))


def _onto_ball(dual: Array, radius: Array) -> Array:
    return multiply(_shrink(_square_along(dual), radius)[None], dual)


def _of_differences(field: Array) -> Array:
    """The field without what lies across the border, where an image has no difference."""
    down, right = jnp.pad(field[0, :-1], ((0, 1), (0, 0), (0, 0))), jnp.pad(field[1, :, :-1], ((0, 0), (0, 1), (0, 0)))
    return jnp.stack([down, right])


def _symmetrised(field: Array) -> Array:
    """`(d_h w_h, d_w w_w, (d_w w_h + d_h w_w) / sqrt(2))`, whose modulus is that of the symmetric matrix."""
    down, right = field[0, :-1], field[1, :, :-1]
    mixed = (down[:, 1:] - down[:, :-1] + right[1:] - right[:-1]) * math.sqrt(0.5)
    return jnp.stack(
        [
            jnp.pad(down[1:] - down[:-1], _missing(2, 0)),
            jnp.pad(right[:, 1:] - right[:, :-1], _missing(0, 2)),
            jnp.pad(mixed, _missing(1, 1)),
        ]
    )


def _missing(h: int, w: int) -> tuple[tuple[int, int], ...]:
    return (h // 2, h - h // 2), (w // 2, w - w // 2), (0, 0)


def _symmetrised_adjoint(dual: Array) -> Array:
    mixed = dual[2, :-1, :-1] * math.sqrt(0.5)
    down = _differences_adjoint(dual[0, 1:-1], 0) + _differences_adjoint(mixed, 1)
    right = _differences_adjoint(dual[1, :, 1:-1], 1) + _differences_adjoint(mixed, 0)
    return jnp.stack([jnp.pad(down, ((0, 1), (0, 0), (0, 0))), jnp.pad(right, ((0, 0), (0, 1), (0, 0)))])


def _differences_adjoint(dual: Array, axis: int) -> Array:
    before, after = ([(0, 0)] * dual.ndim for _ in range(2))
    before[axis], after[axis] = (1, 0), (0, 1)
    return jnp.pad(dual, before) - jnp.pad(dual, after)
