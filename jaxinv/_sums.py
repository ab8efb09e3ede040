"""Sums whose value does not depend on the order of their terms.

A compiler adds the terms of one long sum in another order than those of a batch of them, and so rounds otherwise.
Conjugate gradients amplify the difference to the size of their tolerance, so a batch would not give what its problems
give alone.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._arrays import common_dtype, nan_unless
from ._types import PyTree
from ._workarounds import rounded

# How many bits more than a mantissa the parts of a term keep, relative to the largest term: where one term is larger
# than all others, the sum of these still has this precision.
_SPARE = 4


def exact_sum(x: Array) -> Array:
    """The sum of all entries of a real array, the same in whatever order they are added.

    Each entry is rounded to a multiple of a unit, which depends on the largest entry and on their number; the rest to a
    multiple of a smaller unit, and so on. The multiples are integers, whose sums are exact. The sum is NaN if an entry
    is not finite, or so large that a unit overflows.

    **Reference:** Demmel, Nguyen, Parallel reproducible summation, 2015.
    """
    return _exact_sum(x.astype(common_dtype(x.dtype)))


@jax.custom_jvp
def _exact_sum(x: Array) -> Array:
    dtype, info = x.dtype, jnp.finfo(x.dtype)
    word = jnp.int64 if info.bits == 64 else jnp.int32
    bits = lambda value: jax.lax.bitcast_convert_type(value, word)
    # The bits of a multiple, so that the sum of all stays below the largest integer.
    kept = min(info.bits - 2 - (max(x.size, 1) - 1).bit_length(), info.nmant - 2)
    if kept < 1:
        raise ValueError(f"A sum of {x.size} entries is more than {dtype} can hold; take several arrays.")
    largest = jnp.max(jnp.abs(x), initial=0)
    # A power of two above the largest entry: its exponent, without its mantissa.
    exponent = jax.lax.bitcast_convert_type(bits(largest) & (-1 << info.nmant), dtype)
    unit = 2 * jnp.maximum(exponent, 2.0**info.nmant * float(info.tiny))
    # Where this is not finite, the numbers below overflow: the entries are not, or are nearly too large for the dtype.
    bound = 1.5 * 2.0 ** (info.nmant - kept) * unit
    units, multiples, rest = [], [], x
    for _ in range(math.ceil((info.nmant + _SPARE) / kept)):
        unit = unit * 2.0**-kept
        # Added to a number that has this unit in its last place, an entry is rounded to a multiple of it, which the
        # bits of the sum count.
        base = 1.5 * 2.0**info.nmant * unit
        moved = rest + base
        units.append(unit)
        multiples.append(bits(moved) - bits(base))
        rest = rest - (moved - base)
    add = lambda a, b: tuple(map(jnp.add, a, b))
    counts = jax.lax.reduce(tuple(multiples), (jnp.zeros((), word),) * len(units), add, range(x.ndim))
    total = functools.reduce(jnp.add, [count.astype(dtype) * unit for count, unit in zip(counts, units, strict=True)])
    good = bound < info.max / 2
    return jnp.where(good, total, 0) + nan_unless(good, dtype)


@_exact_sum.defjvp
def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
    return _exact_sum(*primals), jnp.sum(tangents[0])


def dot(a: PyTree[Array], b: PyTree[Array]) -> Array:
    """The real part of the inner product of two images, or two measurements, the same alone and in a batch."""

    def part(a: Array, b: Array) -> Array:
        if jnp.iscomplexobj(a) or jnp.iscomplexobj(b):
            return exact_sum(rounded(a.real * b.real) + rounded(a.imag * b.imag))
        return exact_sum(rounded(a * b))

    return jax.tree.reduce(jnp.add, jax.tree.map(part, a, b))
