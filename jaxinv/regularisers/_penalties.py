"""Penalties on the entries of an image, on groups of them, and on the image as a matrix."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import HIGHEST, as_factor, as_image, multiply, safe_sqrt, standard_promotion
from .._proximal_map import AbstractProximalMap, ClosedForm
from .._sums import exact_sum
from .._types import Checked, Scalar, State
from ..operators import AbstractLinearOperator
from ..operators._norm import norm_bound
from ..requirements import Requirement, positive
from ._base import AbstractRegulariser, like, no_prox, square, step_like
from ._split import AbstractSplit, OnImage


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
        image = jax.tree.map(lambda leaf: as_image(leaf, "Tikhonov"), image)
        return jax.tree.reduce(jnp.add, jax.tree.map(lambda leaf: 0.5 * jnp.sum(square(leaf)), image))

    def prox(self, x: State, step: Checked[Scalar]) -> Array:
        if self.operator is not None:
            raise no_prox("Tikhonov with an operator", "classical.tikhonov")
        x = as_image(x, "Tikhonov")
        with standard_promotion():
            return x / (1 + step_like(step, x))

    def proximal_map(self, weight: Array) -> AbstractProximalMap | None:
        return ClosedForm(self, weight) if self.operator is None else None

    def splits(self, weight: Array) -> tuple[AbstractSplit, ...]:
        return (OnImage(self, weight) if self.operator is None else SquaredNorm(self.operator, weight),)

    @property
    def is_separable(self) -> bool:
        return self.operator is None

    @property
    def is_quadratic(self) -> bool:
        return True

    @property
    def is_smooth(self) -> bool:
        return True


class SquaredNorm(AbstractSplit):
    """`weight / 2 ||A x||^2`."""

    operator: AbstractLinearOperator
    weight: Array

    def norm(self) -> Array:
        return norm_bound(self.operator)

    def forward(self, x: State, auxiliary: None = None) -> State:
        return self.operator(x)

    def adjoint(self, dual: State) -> tuple[State, None]:
        return self.operator.adjoint(dual), None

    def value(self, field: State) -> Array:
        return self.weight * Tikhonov()(field)

    def dual_prox(self, dual: State, step: Array) -> State:
        return jax.tree.map(lambda p: multiply(self.weight / (self.weight + step), p), dual)


class L1(AbstractRegulariser):
    """`R(x) = sum |x|`; its prox is soft thresholding. For complex `x` the modulus.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        sparse = jaxinv.regularisers.L1().prox(jnp.linspace(-2, 2, 5), 1.0)  # -1 0 0 0 1
        ```
    """

    def __call__(self, x: State) -> Array:
        x = as_image(x, "L1")
        return exact_sum(safe_sqrt(square(x)) if jnp.iscomplexobj(x) else jnp.abs(x))

    def prox(self, x: State, step: Checked[Scalar]) -> Array:
        x = as_image(x, "L1")
        if not jnp.iscomplexobj(x):
            return jnp.sign(x) * jnp.maximum(jnp.abs(x) - step_like(step, x), 0)
        modulus = safe_sqrt(square(x))
        keep = jnp.maximum(modulus - step_like(step, x), 0) / jnp.where(modulus > 0, modulus, 1)
        return multiply(keep, x)

    @property
    def is_separable(self) -> bool:
        return True

    @property
    def is_quadratic(self) -> bool:
        return False

    @property
    def is_smooth(self) -> bool:
        return False


class Huber(AbstractRegulariser):
    """`R(x) = sum h(|x|)`, with `h(r) = r^2 / 2` below `width` and `width (r - width / 2)` above.

    It is `Tikhonov()` for small entries and `width * L1()` for large ones, so large entries shrink by a constant.

    - `width`: where the one becomes the other, positive, in the unit of the image.

    **Reference:** Huber, Robust estimation of a location parameter, 1964.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        shrunk = jaxinv.regularisers.Huber(1.0).prox(jnp.array([1.0, 4.0]), 1.0)  # 1/2, 3
        ```
    """

    width: Array = eqx.field(converter=as_factor)

    def requirements(self) -> tuple[Requirement, ...]:
        return (positive("width", self.width),)

    def __call__(self, x: State) -> Array:
        x = as_image(x, "Huber")
        width, squares = like(self.width, x), square(x)
        inside = squares < width**2
        return jnp.sum(jnp.where(inside, 0.5 * squares, width * (safe_sqrt(squares) - 0.5 * width)))

    def prox(self, x: State, step: Checked[Scalar]) -> Array:
        x = as_image(x, "Huber")
        width, step = like(self.width, x), step_like(step, x)
        modulus = safe_sqrt(square(x))
        # The numerator of this quotient is at most its denominator.
        beyond = step * width / jnp.maximum(modulus, width * (1 + step))
        return multiply(1 - jnp.where(modulus > width * (1 + step), beyond, step / (1 + step)), x)

    @property
    def is_separable(self) -> bool:
        return True

    @property
    def is_quadratic(self) -> bool:
        return False

    @property
    def is_smooth(self) -> bool:
        return False


class GroupL1(AbstractRegulariser):
    """`R(x) = sum_g ||x_g||`: whole groups of entries vanish together.

    - `axis`: a group is what lies along this axis, static: the channels of a pixel for -1, the default.

    **Reference:** Yuan, Lin, Model selection and estimation in regression with grouped variables, 2006.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        x = jnp.stack([jnp.full((2, 2), 3.0), jnp.full((2, 2), 4.0)], axis=-1)
        shrunk = jaxinv.regularisers.GroupL1().prox(x, 1.0)  # the norm of each pixel falls from 5 to 4
        ```
    """

    axis: int = eqx.field(default=-1, static=True)

    def __call__(self, x: State) -> Array:
        x = _along(x, self.axis, "GroupL1")
        return jnp.sum(safe_sqrt(jnp.sum(square(x), axis=self.axis)))

    def prox(self, x: State, step: Checked[Scalar]) -> Array:
        x = _along(x, self.axis, "GroupL1")
        norm = safe_sqrt(jnp.sum(square(x), axis=self.axis, keepdims=True))
        keep = jnp.maximum(norm - step_like(step, x), 0) / jnp.where(norm > 0, norm, 1)
        return multiply(keep, x)

    @property
    def is_quadratic(self) -> bool:
        return False

    @property
    def is_smooth(self) -> bool:
        return False


class NuclearNorm(AbstractRegulariser):
    """The sum of the singular values of the image as a matrix, whose columns are along one axis.

    It favours channels, or the frames of a series, that are combinations of few images.

    - `axis`: the axis whose entries are the columns, static: -1, the default, makes a column of each channel, and 1
      with one channel takes the image itself as the matrix.

    The prox is made of the Gram matrix of the columns, or of the rows if there are fewer, whose number should be small.
    Singular values below the root of the rounding, relative to the largest, are rounding.

    **Reference:** Cai, Candes, Shen, A singular value thresholding algorithm for matrix completion, 2010.

    !!! example
        ```python
        import jax.numpy as jnp, jaxinv
        frames = jnp.outer(jnp.ones(16), jnp.array([3.0, 4.0])).reshape(4, 4, 2)
        value = jaxinv.regularisers.NuclearNorm()(frames)  # 20: one singular value, 4 * 5
        ```
    """

    axis: int = eqx.field(default=-1, static=True)

    def __call__(self, x: State) -> Array:
        return _nuclear_norm(self._matrix(_along(x, self.axis, "NuclearNorm")))

    def prox(self, x: State, step: Checked[Scalar]) -> Array:
        x = _along(x, self.axis, "NuclearNorm")
        matrix = self._matrix(x)
        values, vectors = _gram(matrix)
        keep = jnp.maximum(values - step_like(step, x), 0) / jnp.where(values > 0, values, 1)
        shrunk = _product(matrix, _product(vectors * keep[None], jnp.conj(vectors.T)))
        return self._image(shrunk, x.shape)

    def _matrix(self, x: Array) -> Array:
        matrix = jnp.moveaxis(x, self.axis, -1).reshape(-1, x.shape[self.axis])
        # The matrix has no more columns than rows: otherwise some singular values would always be 0.
        return matrix if matrix.shape[1] <= matrix.shape[0] else matrix.T

    def _image(self, matrix: Array, shape: tuple[int, ...]) -> Array:
        matrix = matrix if matrix.shape[1] == shape[self.axis] else matrix.T
        rest = [n for i, n in enumerate(shape) if i != self.axis % len(shape)]
        return jnp.moveaxis(matrix.reshape(*rest, shape[self.axis]), -1, self.axis)

    @property
    def is_quadratic(self) -> bool:
        return False

    @property
    def is_smooth(self) -> bool:
        return False


def _along(x: State, axis: int, name: str) -> Array:
    """An image, which must have the axis."""
    x = as_image(x, name)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{name}(axis): the axis {axis} is none of those of an image of shape {x.shape}.")
    return x


def _product(a: Array, b: Array) -> Array:
    with standard_promotion():
        return jnp.matmul(a, b, precision=HIGHEST)


def _gram(matrix: Array) -> tuple[Array, Array]:
    """The singular values of a matrix and its right singular vectors."""
    squares, vectors = jnp.linalg.eigh(_product(jnp.conj(matrix.T), matrix))
    return safe_sqrt(squares), vectors


@jax.custom_jvp
def _nuclear_norm(matrix: Array) -> Array:
    return jnp.sum(_gram(matrix)[0])


@_nuclear_norm.defjvp
def _(primals, tangents):
    # The gradient is `U V*`, which exists also where singular values are equal or 0; eigenvectors have no derivative
    # there.
    ((matrix,), (change,)) = primals, tangents
    values, vectors = _gram(matrix)
    rounding = jnp.finfo(values.dtype).eps * max(matrix.shape)
    kept = values > math.sqrt(rounding) * jnp.max(values)
    inverse = jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)
    slope = _product(matrix, _product(vectors * inverse[None], jnp.conj(vectors.T)))
    return jnp.sum(values), jnp.sum((jnp.conj(slope) * change).real)
