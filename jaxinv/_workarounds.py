"""Workarounds for faults of XLA and jaxlib, each with its issue and the version after which it goes.

The convolutions of `_kernels` are a workaround too, of the size of a module: jax-ml/jax#12868.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla
from jaxtyping import Array

# A conjunction of so few flags is copied without harm, and compiles faster.
_FEW = 4


def rounded(product: Array) -> Array:
    """`product`, rounded before anything is added to it.

    XLA:CPU lets LLVM contract a product and a sum into one instruction that rounds once, and computes an index anew in
    every kernel that needs it. Two kernels may therefore disagree about which entry a position falls on, and so about
    address and weight. No compiler sees through a comparison with a number that no product reaches. It is a primitive,
    so that it is linear, as the identity is: its own derivative and its own transpose.

    Issue: openxla/xla#41579; `benchmarks/two_roundings.py` is the smallest program that shows it. It goes when that
    program prints no difference with the oldest jaxlib that is supported; seen up to jaxlib 0.12.
    """
    if jnp.iscomplexobj(product):
        return jax.lax.complex(rounded(product.real), rounded(product.imag))
    return _rounded.bind(product)


_rounded = Primitive("jaxinv_rounded")
_rounded.def_impl(functools.partial(xla.apply_primitive, _rounded))
_rounded.def_abstract_eval(lambda product: product)


def _compare(product: Array) -> Array:
    return jnp.minimum(product, float(jnp.finfo(product.dtype).max) / 2)


mlir.register_lowering(_rounded, mlir.lower_fun(_compare, multiple_results=False))
ad.deflinear2(_rounded, lambda cotangent, _: [_rounded.bind(cotangent)])


def _batch(operands: Any, axes: Any) -> tuple[Array, Any]:
    return _rounded.bind(*operands), axes[0]


batching.primitive_batchers[_rounded] = _batch


def wait_for(x: Array, done: Array) -> Array:
    """`x`, of which nothing is computed before `done` is; NaN if any entry of `done` is NaN or infinite.

    The batched decompositions of jaxlib on the CPU wait, on a thread of XLA's pool, for other tasks of that pool: as
    many at once as there are cores, each independent of the others, wait for ever. The decompositions of one program
    are therefore put in a row. XLA drops `optimization_barrier` on the CPU before it schedules, but keeps a product
    with 0.

    Issue: no report of the deadlock is known to us; jax-ml/jax#39292 is about the same calls. It goes when a program of
    as many independent batched decompositions as there are cores ends; seen with jaxlib 0.10.
    """
    return x + 0 * jnp.sum(jax.lax.stop_gradient(done)).astype(x.dtype)


def all_of(flags: list[Array]) -> Array:
    """Whether all of these booleans are true.

    XLA copies a plain conjunction of hundreds of flags, one for each leaf of a state, into the select of every leaf,
    and takes minutes to compile; the place of the first false flag is computed once.

    Issue: none is known to us. It goes when `benchmarks/compile.py` takes no longer with `jnp.all(jnp.stack(flags))`;
    seen with jaxlib 0.10.
    """
    if len(flags) <= _FEW:
        return functools.reduce(jnp.logical_and, flags)
    return jnp.argmin(jnp.stack([*flags, jnp.zeros((), bool)])) == len(flags)
