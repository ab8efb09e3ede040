"""The norm of a linear operator."""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._arrays import check_key, common_dtype, multiply, real_dtype, safe_sqrt
from .._jit import verb
from .._loop import iterate
from .._solution import RESULTS
from .._types import Key, Scalar, State
from ._base import AbstractLinearOperator, AbstractOperator

# Estimates approach the norm from below, to a part in a thousand (`norm`) or in twenty on average for large
# measurements (`classical/_first_order.py`), and a start that happens to be nearly orthogonal to the top direction is
# worse.
SAFETY = 1.05

# The least relative residual that is asked for, in units of `eps`: what is below is rounding.
_FLOOR = 10


@verb(tolerances=("rtol",))
def norm(operator: AbstractOperator, *, key: Key, rtol: Scalar = 1e-3, max_steps: int = 500) -> Array:
    """The spectral norm `max ||A x|| / ||x||`, over the measured entries.

    Power iteration on `A* A`, accelerated: each step takes the best image in the span of the iterate, its residual and
    the last direction. One application of `A* A` a step.

    **Arguments:**

    - `operator`: linear.
    - `key`: for the start.
    - `rtol`: not negative. The iteration stops when `||A* A x - s^2 x|| <= rtol s^2` for the estimate `s` and its unit
      vector `x`. Some singular value is then within `rtol / 2` of `s`, and the largest one unless the start was all but
      orthogonal to its vector. A smaller `rtol` than 10 times the `eps` of the dtype (1.2e-6 in float32, 2.2e-15 in
      float64) acts as that: rounding hides what is below.
    - `max_steps`: static.

    **Returns:** a scalar, at most the norm but for rounding: the iteration approaches it from below. Solvers here use
    1.05 times it. It is NaN if the operator gives a value that is not finite, or one of its parameters or a traced
    `rtol` is out of its range.

    **Raises:** `ValueError` if the operator is not linear, or for an `rtol` that is known and negative or not finite.

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
    vectors = RealVectors(operator.domain)
    dtypes = [s.dtype for s in jax.tree.leaves(operator.domain)]
    real = real_dtype(common_dtype(*dtypes))
    tolerance = jnp.maximum(jnp.asarray(rtol).astype(real), _FLOOR * jnp.finfo(real).eps)

    def step(index, state, args):
        operator, tolerance = args
        y = operator(vectors.unpack(state.direction()))
        y = jax.tree.map(lambda leaf, m: multiply(m, leaf), y, operator.measured)
        return *improve(state, vectors.pack(operator.adjoint(y)), tolerance), RESULTS.successful

    # The first step makes the start the iterate.
    state = start_estimate(vectors.random(key=key))
    state, _, code = iterate(step, state, (operator, tolerance), max_steps=max_steps + 1)
    found = (code == RESULTS.successful) | (code == RESULTS.max_steps_reached)
    return jnp.where(found, state.norm(), jnp.nan)


def norm_bound(operator: AbstractLinearOperator, rtol: Scalar = 1e-3) -> Array:
    """An upper bound of the norm of an operator, for step sizes: without a derivative, and 1 for an operator of zeros.

    The start of the power iteration is fixed, the documented exception to "keys are never defaulted".
    """
    # Step sizes have no derivative: the minimiser does not depend on them.
    operator = jax.lax.stop_gradient(operator)
    return positive(SAFETY * norm(operator, key=jax.random.key(0, impl="threefry2x32"), rtol=rtol))


def positive(bound: Array) -> Array:
    """A bound to divide by: 1 for an operator that is zero. A NaN stays one, so that the solver reports it."""
    return jnp.where(bound <= 0, 1, bound)


def check_linear(operator: AbstractOperator, name: str) -> AbstractLinearOperator:
    """`operator`, which must be linear, or a `ValueError`."""
    if not isinstance(operator, AbstractLinearOperator):
        raise ValueError(
            f"`{name}` needs a linear operator; {type(operator).__name__} is not one. Its derivative at an image is: "
            "`operator.linearise(x)`."
        )
    return operator


class RealVectors:
    """States of a domain or codomain as vectors of their real and imaginary parts.

    The parts are separate, because an operator that is linear over the reals only has a norm too.
    """

    def __init__(self, struct: Any):
        self.structs, self.treedef = jax.tree.flatten(struct)
        self.is_complex = [jnp.issubdtype(s.dtype, jnp.complexfloating) for s in self.structs]
        sizes = [math.prod(s.shape) * (2 if c else 1) for s, c in zip(self.structs, self.is_complex, strict=True)]
        *self.ends, self.size = itertools.accumulate(sizes)

    def pack(self, state: State) -> Array:
        """The vector of a state."""
        parts = []
        for leaf, c in zip(jax.tree.leaves(state), self.is_complex, strict=True):
            parts += [leaf.real.ravel(), leaf.imag.ravel()] if c else [leaf.ravel()]
        return jnp.concatenate(parts)

    def unpack(self, vector: Array) -> State:
        """The state of a vector."""
        leaves = []
        for part, struct, c in zip(jnp.split(vector, self.ends), self.structs, self.is_complex, strict=True):
            leaf = jax.lax.complex(*jnp.split(part, 2)) if c else part
            leaves.append(leaf.reshape(struct.shape).astype(struct.dtype))
        return self.treedef.unflatten(leaves)

    def random(self, *, key: Key) -> Array:
        """The vector of a state of standard normal values."""
        draw = lambda i, s: jax.random.normal(jax.random.fold_in(key, i), s.shape, s.dtype)
        return self.pack([draw(i, s) for i, s in enumerate(self.structs)])


def scattered(struct: Any) -> State:
    """A fixed state of values in [-1, 1) that look random; a generator of keys takes longer to compile."""
    structs, treedef = jax.tree.flatten(struct)
    begin, leaves = 1, []
    for s in structs:
        parts = 2 if jnp.issubdtype(s.dtype, jnp.complexfloating) else 1
        end = begin + parts * math.prod(s.shape)
        bits = jnp.arange(begin, end, dtype=jnp.uint32)
        for factor in (2654435761, 2246822519, 3266489917):
            bits = bits * jnp.uint32(factor)
            bits = bits ^ (bits >> 15)
        values = (bits.astype(real_dtype(s.dtype)) / 2.0**31 - 1).reshape(parts, *s.shape)
        leaves.append(jax.lax.complex(*values) if parts == 2 else values[0])
        begin = end
    return treedef.unflatten(leaves)


class Estimate(NamedTuple):
    """An estimate of the norm of `A* A`, or of `A A*`.

    - `vectors`: a basis of three orthonormal ones, the iterate, the last direction and the next one, and the images of
        the first two. One that vanishes is zero and plays no part: at first that is all but the start, so that the
        operator, which may be dear to compile, stands once in a program.
    - `square`: the estimate at the iterate; `near`: whether its residual is small.
    """

    vectors: Array
    square: Array
    near: Array

    def direction(self) -> Array:
        """The vector whose image is asked for."""
        return self.vectors[2]

    def norm(self) -> Array:
        """The norm of `A`."""
        return safe_sqrt(self.square)


def start_estimate(start: Array) -> Estimate:
    """The estimate 0, with the start for a direction."""
    vectors = jnp.zeros((5, *start.shape), start.dtype).at[2].set(_unit(start))
    return Estimate(vectors, jnp.zeros((), start.dtype), jnp.zeros((), bool))


def improve(estimate: Estimate, image: Array, tolerance: Array) -> tuple[Estimate, Array]:
    """A step, from the image of the direction, and whether it was the last: the one after the residual is small.

    That one is taken because its direction is known already.
    """
    basis, images = estimate.vectors[:3], jnp.concatenate([estimate.vectors[3:], image[None]])
    small = _product(basis, images.T)
    turn = _turn((small + small.T) / 2)
    basis, images = _product(turn, basis), _product(turn, images)
    # A step that improves nothing, at the end, would add its rounding to the length of the iterate.
    lengths = safe_sqrt(jnp.sum(basis**2, axis=1, keepdims=True))
    lengths = jnp.where(lengths > 0, lengths, 1)
    basis, images = basis / lengths, images / lengths
    square = jnp.sum(basis[0] * images[0])
    residual = images[0] - square * basis[0]
    size = _length(residual)
    new = residual
    for _ in range(2):  # twice is enough (Kahan), where most of it cancels
        new = new - _product(_product(basis, new), basis)
    # What is left may be rounding.
    new = jnp.where(_length(new) > jnp.finfo(size.dtype).eps * size, _unit(new), 0)
    vectors = jnp.concatenate([basis, new[None], images])
    return Estimate(vectors, jnp.maximum(square, 0), size <= tolerance * square), estimate.near


def _turn(matrix: Array) -> Array:
    """The unit vector at which the quadratic form of a matrix of order three is largest, and the direction to it.

    That is from the first basis vector, at right angles to where it leads, of unit length. Both are zero for the matrix
    zero, which is positive semi-definite as all of these.
    """

    # The power 2^30, whose columns are multiples of the eigenvector. LAPACK takes as long to compile as a projector.
    def squared(_: Any, power: Array) -> Array:
        trace = jnp.trace(power)
        power = power / jnp.where(trace > 0, trace, 1)
        return jnp.sum(power[:, :, None] * power[None], axis=1)

    power = jax.lax.fori_loop(0, 30, squared, matrix)
    top = _unit(power[:, jnp.argmax(jnp.diagonal(power))])
    move = top.at[0].set(0)
    return jnp.stack([top, _unit(move - jnp.sum(move * top) * top)])


def _unit(x: Array) -> Array:
    length = _length(x)
    return x / jnp.where(length > 0, length, 1)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _length(x: Array) -> Array:
    return safe_sqrt(jnp.sum(x**2))
