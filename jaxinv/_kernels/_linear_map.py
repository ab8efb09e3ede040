"""A primitive for linear maps whose arrays have the batch on the trailing axis; the projectors are such maps.

One computation of indices and weights then serves a whole batch, whose entries are contiguous in memory.
`jax.linear_call` has no batching rule and `jax.custom_batching.custom_vmap` no transpose, so this is a primitive: it is
linear in its array, has the matched transpose, and batches by moving the mapped axis behind all others.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla
from jaxtyping import Array

from .._arrays import same_varying
from .._jit import without_explicit_axes


@runtime_checkable
class LinearMap(Protocol):
    """A family of linear maps, one for each value of its parameters; static, so hashable and compared by value.

    All arrays have the batch behind their other axes. `wide` selects few large operations, for accelerators, in place
    of many small ones that fit the cache, for CPUs.
    """

    @property
    def input_shape(self) -> tuple[int, ...]: ...

    @property
    def output_shape(self) -> tuple[int, ...]: ...

    @property
    def forward(self) -> Callable[..., Array]:
        """`forward(x, *parameters, wide=)`."""
        ...

    @property
    def transpose(self) -> Callable[..., Array]:
        """`transpose(y, *parameters, wide=)`."""
        ...

    @property
    def reference(self) -> Callable[..., Array]:
        """`reference(x, *parameters)`: `forward` in a form that JAX can differentiate in the parameters."""
        ...

    @property
    def reference_transpose(self) -> Callable[..., Array]:
        """`reference_transpose(y, *parameters)`: `transpose` in a form that JAX can differentiate in the parameters."""
        ...


def apply(linear_map: LinearMap, x: Array, *parameters: Array, transposed: bool = False) -> Array:
    """The map, or its transpose, of an array with one axis for the batch behind those of the map.

    `parameters` are real and of the precision of `x`, which may be complex: the maps are real.
    """
    if jnp.iscomplexobj(x):
        both = jnp.concatenate([x.real, x.imag], axis=-1)
        real, imaginary = jnp.split(apply(linear_map, both, *parameters, transposed=transposed), 2, axis=-1)
        return jax.lax.complex(real, imaginary)
    return without_explicit_axes(functools.partial(_bind, linear_map, transposed), x, *parameters)


_primitive = Primitive("jaxinv_linear_map")


def _bind(linear_map: LinearMap, transposed: bool, *operands: Array) -> Array:
    return _primitive.bind(*same_varying(*operands), linear_map=linear_map, transposed=transposed)


@_primitive.def_abstract_eval
def _(x: Any, *parameters: Any, linear_map: LinearMap, transposed: bool) -> Any:
    del parameters
    shape = linear_map.input_shape if transposed else linear_map.output_shape
    return x.update(shape=(*shape, x.shape[-1]), weak_type=False)


_primitive.def_impl(functools.partial(xla.apply_primitive, _primitive))


def _lowering(wide: bool) -> Any:
    def call(x: Array, *parameters: Array, linear_map: LinearMap, transposed: bool) -> Array:
        function = linear_map.transpose if transposed else linear_map.forward
        return function(x, *parameters, wide=wide)

    return mlir.lower_fun(call, multiple_results=False)


mlir.register_lowering(_primitive, _lowering(wide=True))
mlir.register_lowering(_primitive, _lowering(wide=False), platform="cpu")


def _jvp(primals: Any, tangents: Any, *, linear_map: LinearMap, transposed: bool) -> tuple[Any, Any]:
    x, *parameters = primals
    dx, *moved = tangents
    value = _bind(linear_map, transposed, x, *parameters)
    tangent = None if isinstance(dx, ad.Zero) else _bind(linear_map, transposed, dx, *parameters)
    if not all(isinstance(t, ad.Zero) for t in moved):
        reference = linear_map.reference_transpose if transposed else linear_map.reference
        moved = [ad.instantiate_zeros(t) for t in moved]
        _, along = jax.jvp(lambda *p: reference(x, *p), tuple(parameters), tuple(moved))
        tangent = along if tangent is None else tangent + along
    return value, ad.Zero(jax.typeof(value).to_tangent_aval()) if tangent is None else tangent


def _transpose(cotangent: Any, x: Any, *parameters: Any, linear_map: LinearMap, transposed: bool) -> list[Any]:
    if isinstance(cotangent, ad.Zero):
        return [ad.Zero(x.aval), *(None for _ in parameters)]
    return [_bind(linear_map, not transposed, cotangent, *parameters), *(None for _ in parameters)]


def _batch(operands: Any, axes: Any, *, linear_map: LinearMap, transposed: bool) -> tuple[Array, int]:
    if all(axis is None for axis in axes[1:]):
        x = jnp.moveaxis(operands[0], axes[0], -1)
        *space, channels, count = x.shape
        merged = _bind(linear_map, transposed, x.reshape(*space, channels * count), *operands[1:])
        return merged.reshape(*merged.shape[:-1], channels, count), merged.ndim
    # Other parameters mean other indices and weights, so nothing is shared: loop over them.
    mapped = [jnp.moveaxis(o, axis, 0) for o, axis in zip(operands, axes, strict=True) if axis is not None]

    def one(row: list[Array]) -> Array:
        rest = iter(row)
        picked = (o if axis is None else next(rest) for o, axis in zip(operands, axes, strict=True))
        return _bind(linear_map, transposed, *picked)

    return jax.lax.map(one, mapped), 0


ad.primitive_jvps[_primitive] = _jvp
ad.primitive_transposes[_primitive] = _transpose
batching.primitive_batchers[_primitive] = _batch


# The number of terms in one pass over the sum, on a CPU. Measured from 1 to 16 on twelve sizes of the projectors: more
# terms mean fewer passes over memory, which is faster in small batches (up to 3 times at 16 images of 128 x 128). XLA
# makes slower code of 2 to 6 terms than of one.
UNROLL = 8
# Entries, batch included, of the result of one operation on an accelerator.
_WIDE = 2**27


def accumulate(body: Any, init: Array, items: tuple[Any, ...], *, unroll: int, wide: bool) -> Array:
    """`init + sum_i body(items[i])`.

    On a CPU it adds the terms one by one, up to `unroll` of them in one pass over the sum; `wide` computes up to
    `_WIDE` entries at once, which the compiler fuses with their sum. `body` is linear in the first array.
    """
    count = jax.tree.leaves(items)[0].shape[0]
    if not wide:
        # Use at least two passes, of equal size: XLA inlines a loop of one, and would then compute inside `body` the
        # positions that `body` must read from memory to have one value (see `_beams`).
        passes = max(2, -(-count // unroll))
        terms = -(-count // passes)
        missing = passes * terms - count
        data, *geometry = items
        geometry = jax.tree.map(lambda a: jnp.pad(a, _behind(a, missing), mode="edge"), geometry)
        items = (jnp.pad(data, _behind(data, missing)), *geometry)
        return jax.lax.scan(lambda total, item: (total + body(item), None), init, items, unroll=terms)[0]
    chunk = max(1, min(_WIDE // math.prod(init.shape), count))
    many = lambda part: jnp.sum(jax.vmap(body)(part), axis=0)
    whole = count // chunk * chunk
    parts = jax.tree.map(lambda a: a[:whole].reshape(-1, chunk, *a.shape[1:]), items)
    total = jax.lax.scan(lambda total, part: (total + many(part), None), init, parts)[0]
    return total + many(jax.tree.map(lambda a: a[whole:], items)) if whole < count else total


def _behind(array: Array, count: int) -> list[tuple[int, int]]:
    return [(0, count)] + [(0, 0)] * (array.ndim - 1)


def gather(table: Array, index: Array) -> Array:
    """`table[index]` without bounds checks: every index must be in the table."""
    return table.at[index].get(mode="promise_in_bounds")
