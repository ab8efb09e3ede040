"""Principal component analysis, by one of the decompositions of `_decomposition.py`."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._arrays import HIGHEST, as_array, check_count, check_floating, is_concrete
from .._checks import check_examples, checked
from .._jit import compiled_method
from .._module import Module
from .._types import ArrayLike, Checked, Key, Scalar
from ._decomposition import AbstractDecomposition, Randomised, Thin
from ._rank import AbstractNorm, check_norm, choose_rank


class PCA(Module):
    """An affine subspace of images, `mean + sum_i z_i components_i`.

    - `mean`: the mean of the data, `(h, w, c)` or any other shape.
    - `components`: orthonormal images, `(rank, h, w, c)`, whose entries of largest modulus are positive.
    - `singular_values`: the singular values of the centred data, `(rank,)`, decreasing.
    - `standard_deviations`: those of the data along the components, `(rank,)`: `singular_values / sqrt(n - 1)`.
    - `rank`, `image_shape`: the number of components and the shape of one image, static.
    """

    mean: Array
    components: Array
    singular_values: Array
    standard_deviations: Array | None
    rank: int = eqx.field(static=True)
    image_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        mean: ArrayLike,
        components: ArrayLike,
        singular_values: ArrayLike,
        standard_deviations: Checked[ArrayLike | None] = None,
    ):
        self.mean, self.components = jnp.asarray(mean), jnp.asarray(components)
        self.singular_values = jnp.asarray(singular_values)
        self.standard_deviations = None if standard_deviations is None else jnp.asarray(standard_deviations)
        if self.components.shape[1:] != self.mean.shape or self.singular_values.shape != self.components.shape[:1]:
            raise ValueError(
                f"`components` must have shape (rank, *mean.shape) and `singular_values` (rank,); got "
                f"{self.components.shape} and {self.singular_values.shape} for a mean of shape {self.mean.shape}."
            )
        self.rank, self.image_shape = self.components.shape[0], self.mean.shape

    def encode(self, x: ArrayLike) -> Array:
        """The coordinates `z_i = <components_i, x - mean>` of an image, `(rank,)`, or `(n, rank)` for `n` images.

        **Raises:** `ValueError` for another shape, or a dtype that is not floating.
        """
        x = self._check(x, self.image_shape, "an image")
        deviation = (x - jnp.broadcast_to(self.mean, x.shape)).reshape(*x.shape[: x.ndim - self.mean.ndim], -1)
        return jnp.matmul(deviation, self.components.reshape(self.rank, -1).T, precision=HIGHEST)

    def decode(self, z: ArrayLike) -> Array:
        """The image `mean + sum_i z_i components_i` of coordinates `(rank,)`, or the images for a batch `(n, rank)`.

        **Raises:** `ValueError` for another shape, or a dtype that is not floating.
        """
        z = self._check(z, (self.rank,), "coordinates")
        images = jnp.matmul(z, self.components.reshape(self.rank, -1), precision=HIGHEST)
        images = images.reshape(*z.shape[:-1], *self.image_shape)
        return images + jnp.broadcast_to(self.mean, images.shape)

    def _check(self, x: Any, shape: tuple[int, ...], what: str) -> Array:
        x = as_array(x)
        if x.shape != shape and x.shape[1:] != shape:
            advice = "Add the channel axis: `x[..., None]`." if (*x.shape, 1) == shape else "Check the sizes."
            raise ValueError(f"PCA takes {what} of shape {shape}, or a batch of them; got {x.shape}. {advice}")
        return check_floating(x, what, "PCA")


@checked()
def pca(
    data: ArrayLike,
    *,
    rank: Checked[int | None] = None,
    tolerance: Checked[Scalar | None] = None,
    norm: Checked[AbstractNorm | None] = None,
    centre: bool = True,
    method: Checked[AbstractDecomposition | None] = None,
    key: Key | None = None,
) -> PCA:
    """The affine subspace of a given dimension that is nearest to a set of images, in the sum of squares.

    With the images as rows, `X - mean = U diag(s) V^T`: the components are the first columns of `V`. `pca` works under
    `jax.jit` and `jax.vmap` with a `rank`, but not with a `tolerance`, since the shape of the result then depends on
    values. Inside a trace, data that are not finite give NaN, and components beyond the rank of the data have singular
    value 0 and are arbitrary.

    **Arguments:**

    - `data`: the images, `(n, ...)`, of a real floating dtype.
    - `rank`: the number of components, static, at most `min(n - 1, d)` for images of `d` pixels, which is the default
      if there is no tolerance.
    - `tolerance`: a number in [0, 1) in place of a rank: it selects the smallest rank `r` with
      `||X - X_r|| <= tolerance * ||X||` for the centred data `X`, as in `choose_rank`.
    - `norm`: the norm of the tolerance, `Frobenius()` (the default) or `Nuclear()`.
    - `centre`: whether to subtract the mean, static; with `False` the mean is 0, the rank is at most `min(n, d)`, and
      `n - 1` becomes `n`.
    - `method`: the decomposition: `Thin()` (the default), `Gram()`, or `Randomised(...)`, which needs a rank.
    - `key`: a typed key, for `Randomised` only.

    **Returns:** a `PCA`, with `encode` and `decode`.

    **Raises:** `ValueError` for data that are empty, constant, or not finite (naming the first such example), and for a
    rank that is larger than the data allow.

    **Reference:** Jolliffe, Principal component analysis, 2002.

    !!! example
        ```python
        import jax, jaxinv
        images = jax.random.normal(jax.random.key(0), (100, 8, 8, 1))
        pca = jaxinv.subspace.pca(images, rank=10)
        x = pca.decode(pca.encode(images[0]))  # (8, 8, 1)
        small = jaxinv.subspace.pca(images, tolerance=0.3)
        sketched = jaxinv.subspace.pca(
            images, rank=10, method=jaxinv.subspace.Randomised(), key=jax.random.key(1)
        )
        ```
    """
    data, method, norm = check_examples(data, "pca"), Thin() if method is None else method, check_norm(norm)
    if not isinstance(method, AbstractDecomposition):
        raise ValueError(f"`method` must be `Thin()`, `Gram()` or `Randomised()` of `subspace`; got {method!r}.")
    n, d = data.shape[0], math.prod(data.shape[1:])
    most = min(n - 1 if centre else n, d)
    if most == 0:
        raise ValueError("One image has no variation about its mean; `pca` needs two at least, or `centre=False`.")
    if rank is not None and tolerance is not None:
        raise ValueError("Give `rank` or `tolerance`, not both.")
    if isinstance(method, Randomised) and (rank is None or key is None):
        raise ValueError("`Randomised()` needs `rank=...` and `key=jax.random.key(...)`.")
    if tolerance is not None:
        _check_tolerance(data, tolerance)
    limited = rank is not None
    rank = most if rank is None else check_count(rank, "rank")
    if rank > most:
        why = f"{n} images about their mean span at most {n - 1} dimensions" if centre else f"{n} images span {n}"
        raise ValueError(
            f"`rank` is {rank}, more than the data allow, {most}: {why}, and each has {d} pixels. Give a smaller rank, "
            "or more images."
        )
    reduced = _reduce(data, rank, centre, method, key)
    if not is_concrete(reduced.singular_values):
        return reduced
    significant = _significant(reduced, (n, d), method)
    if limited and significant < rank:
        raise ValueError(
            f"`rank` is {rank}, more than the data allow: the {n} images span {significant} dimensions up to rounding "
            f"in {data.dtype}. Give `rank={significant}` or less."
        )
    if tolerance is None:
        return reduced
    kept = min(choose_rank(reduced.singular_values, tolerance, norm), significant)
    return PCA(
        reduced.mean,
        reduced.components[:kept],
        reduced.singular_values[:kept],
        jnp.asarray(reduced.standard_deviations)[:kept],
    )


def _check_tolerance(data: Array, tolerance: Any) -> None:
    if not is_concrete(data, tolerance):
        raise ValueError(
            "The rank that a `tolerance` chooses depends on the values of the data, and with it the shape of the "
            "answer, so it cannot be chosen inside `jax.jit` or `jax.vmap`. Give `rank` there; choose it outside, by "
            "`subspace.pca(data, tolerance=...).rank`."
        )
    if jnp.ndim(tolerance) != 0 or not 0 <= float(tolerance) < 1:
        raise ValueError(f"`tolerance` must be a number in [0, 1); got {tolerance}.")


@compiled_method
def _reduce(data: Array, rank: int, centre: bool, method: AbstractDecomposition, key: Any) -> PCA:
    shape = data.shape[1:]
    matrix = data.reshape(data.shape[0], -1)
    finite = jnp.all(jnp.isfinite(matrix))
    # Some implementations of LAPACK never return for NaN.
    matrix = jnp.where(finite, matrix, 0)
    mean = jnp.zeros_like(matrix[0])
    if centre:
        # The mean of the centred data is the rounding of the first mean, and corrects it.
        mean = jnp.mean(matrix, axis=0)
        mean = mean + jnp.mean(matrix - mean[None], axis=0)
        matrix = matrix - mean[None]
    singular, components = method.decompose(matrix, rank, key=key)
    largest = jnp.take_along_axis(components, jnp.argmax(jnp.abs(components), axis=1)[:, None], axis=1)
    components = jnp.where(largest < 0, -components, components)
    deviations = singular / math.sqrt(data.shape[0] - centre)
    outcome = (mean.reshape(shape), components.reshape(rank, *shape), singular, deviations)
    return PCA(*(jnp.where(finite, leaf, jnp.nan) for leaf in outcome))


def _significant(reduced: PCA, shape: tuple[int, int], method: AbstractDecomposition) -> int:
    """The number of singular values that are not rounding.

    **Raises:** `ValueError` if there is none, that is if the data are constant.
    """
    singular = np.asarray(reduced.singular_values)
    size = float(np.linalg.norm(np.asarray(reduced.mean, np.float64)))
    if not singular[0] > 4 * float(jnp.finfo(singular.dtype).eps) * math.sqrt(shape[0]) * size:
        raise ValueError(
            f"The data are constant: all {shape[0]} images are equal up to rounding (or, with `centre=False`, zero), "
            "so there are no principal components."
        )
    return int(np.sum(singular > method.rounding(shape, singular.dtype) * singular[0]))
