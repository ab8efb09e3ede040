"""The norm of a linear operator."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._keys import check_key
from .._loop import iterate
from .._solution import RESULTS
from .._types import Key, Scalar
from ._base import AbstractLinearOperator, AbstractOperator, real_dtype


@eqx.filter_jit
def norm(operator: AbstractOperator, *, key: Key, rtol: Scalar = 1e-3, max_steps: int = 500) -> Array:
    """The spectral norm `max ||A x|| / ||x||`, over the measured entries.

    Power iteration on `A* A`, accelerated: each step takes the best image in the span of the iterate, its residual and
    the last direction. One application of `A* A` a step.

    **Arguments:**

    - `operator`: linear.
    - `key`: for the start.
    - `rtol`: the iteration stops when `||A* A x - s^2 x|| <= rtol s^2` for the estimate `s` and its unit vector `x`.
      Some singular value is then within `rtol / 2` of `s`, and the largest one unless the start was all but orthogonal
      to its vector.
    - `max_steps`: static.

    **Returns:** a scalar, at most the norm: the iteration approaches it from below. Solvers here use 1.05 times it.

    **Raises:** `ValueError` if the operator is not linear.

    **Reference:** Knyazev, Toward the optimal preconditioned eigensolver: locally optimal block preconditioned
    conjugate gradient method, 2001.

    !!! example
        ```python
        import jax, jaxinv
        operator = jaxinv.operators.ParallelBeam((16, 16, 1), jax.numpy.linspace(0, 3, 10))
        size = jaxinv.operators.norm(operator, key=jax.random.key(0))
        ```
    """
    check_key(key)
    operator = check_linear(operator, "norm")
    leaves, treedef = jax.tree.flatten(operator.domain)
    keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
    start = treedef.unflatten([jax.random.normal(k, s.shape, s.dtype) for k, s in zip(keys, leaves, strict=True)])
    tolerance = jnp.asarray(rtol).astype(real_dtype(jnp.result_type(*(s.dtype for s in leaves))))

    def normal(operator, x):
        y = jax.tree.map(lambda leaf, m: leaf * m, operator(x), operator.measured)
        return operator.adjoint(y)

    def step(index, state, args):
        operator, tolerance = args
        (x, normal_x), (p, normal_p), _ = state
        square = _inner(x, normal_x)
        residual = _combine((1, -square), (normal_x, x))
        finished = _length(residual) <= tolerance * square
        # An orthonormal basis of three; a direction that vanishes stays zero and plays no part.
        w, _ = _orthonormal(residual, None, ((x, None),))
        normal_w = normal(operator, w)
        p, normal_p = _orthonormal(p, normal_p, ((x, normal_x), (w, normal_w)))
        basis, images = (x, w, p), (normal_x, normal_w, normal_p)
        small = jnp.stack([jnp.stack([_inner(u, v) for v in images]) for u in basis])
        top = jnp.linalg.eigh((small + small.T) / 2)[1][:, -1]
        direction = (jnp.zeros_like(top[0]), top[1], top[2])
        new = (_combine(top, basis), _combine(top, images))
        last = (_combine(direction, basis), _combine(direction, images))
        square = _inner(*new)
        return (new, last, jnp.maximum(square, 0)), finished, RESULTS.successful

    x, _ = _orthonormal(start, None, ())
    image = normal(operator, x)
    nothing = jax.tree.map(jnp.zeros_like, image)
    state = ((x, image), (nothing, nothing), jnp.maximum(_inner(x, image), 0))
    (_, _, square), _, _ = iterate(step, state, (operator, tolerance), max_steps=max_steps)
    return _safe_root(square)


def check_linear(operator: AbstractOperator, name: str) -> AbstractLinearOperator:
    """`operator`, which must be linear, or a `ValueError`."""
    if not isinstance(operator, AbstractLinearOperator):
        raise ValueError(
            f"`{name}` needs a linear operator; {type(operator).__name__} is not one. Its derivative at an image is: "
            "`operator.linearise(x)`."
        )
    return operator


def _inner(a: PyTree[Array], b: PyTree[Array]) -> Array:
    # Of the real and imaginary parts: an operator that is linear over the reals only has a norm too.
    products = jax.tree.map(lambda u, v: jnp.sum((jnp.conj(u) * v).real), a, b)
    return jax.tree.reduce(jnp.add, products)


def _length(x: PyTree[Array]) -> Array:
    return _safe_root(_inner(x, x))


def _safe_root(square: Array) -> Array:
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _combine(factors: Any, trees: Any) -> PyTree[Array]:
    return jax.tree.map(lambda *leaves: sum(f * leaf for f, leaf in zip(factors, leaves, strict=True)), *trees)


def _orthonormal(x: PyTree[Array], image: PyTree[Array] | None, basis: Any) -> tuple[PyTree[Array], Any]:
    """`x` made orthogonal to the basis and of unit length, or zero; its image under a linear map along with it."""
    length = _length(x)
    for _ in range(2):  # twice is enough (Kahan), where most of `x` cancels
        for u, normal_u in basis:
            along = _inner(u, x)
            x = _combine((1, -along), (x, u))
            image = None if image is None else _combine((1, -along), (image, normal_u))
    rest = _length(x)
    scale = jnp.where(rest > jnp.finfo(rest.dtype).eps * length, 1 / jnp.where(rest > 0, rest, 1), 0)
    scaled = lambda tree: jax.tree.map(lambda leaf: scale * leaf, tree)
    return scaled(x), None if image is None else scaled(image)
