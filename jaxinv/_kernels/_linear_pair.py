"""A primitive for a linear function and its transpose, both given, that JAX need not understand.

The functions may be foreign code behind `jax.pure_callback`, or have rules of their own (`jax.custom_vjp`).
`jax.linear_call` has no batching rule and `jax.custom_batching.custom_vmap` no transpose, so this is a primitive, as
`_linear_map` is: its derivative in the state is the function itself, the transpose of which is the other one, and
batches map both.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir, xla
from jaxtyping import Array

from .._arrays import same_varying
from .._types import PyTree


@dataclasses.dataclass(frozen=True)
class _Pair:
    """The static part of both functions.

    - `treedef`, `rest`: the functions without their arrays; `None` in `rest` is the place of an array.
    - `structs`: of what goes in and what comes out.
    - `transposed`: whether the second function is applied.
    - `levels`: for each `vmap` the number of problems, and which arrays of the functions it maps over.
    """

    treedef: Any
    rest: tuple[Any, ...]
    structs: tuple[tuple[jax.ShapeDtypeStruct, ...], tuple[jax.ShapeDtypeStruct, ...]]
    trees: tuple[Any, Any]
    transposed: bool = False
    levels: tuple[tuple[int, tuple[bool, ...]], ...] = ()

    @property
    def turned(self) -> "_Pair":
        """The pair in the other order."""
        return dataclasses.replace(
            self, structs=self.structs[::-1], trees=self.trees[::-1], transposed=not self.transposed
        )

    def split(self, operands: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """The arrays of the state, and those of the functions."""
        count = len(self.structs[0])
        return operands[:count], operands[count:]

    def shapes(self) -> list[tuple[tuple[int, ...], Any]]:
        """Shape and dtype of each array that comes out."""
        sizes = tuple(size for size, _ in reversed(self.levels))
        return [((*sizes, *s.shape), s.dtype) for s in self.structs[1]]

    def __call__(self, *operands: Array) -> list[Array]:
        state, arrays = self.split(operands)
        call: Callable = self._one
        for _, mapped in self.levels:
            call = jax.vmap(call, in_axes=(0, [0 if m else None for m in mapped]))
        return call(list(state), list(arrays))

    def _one(self, state: list[Array], arrays: list[Array]) -> list[Array]:
        remaining = iter(arrays)
        leaves = [next(remaining) if leaf is None else leaf for leaf in self.rest]
        function = jax.tree.unflatten(self.treedef, leaves)[self.transposed]
        image = function(jax.tree.unflatten(self.trees[0], state))
        return [leaf.astype(s.dtype) for leaf, s in zip(jax.tree.leaves(image), self.structs[1], strict=True)]


def apply_pair(
    function: Callable, transpose: Callable, state: PyTree[Array], structs: tuple[PyTree, PyTree], transposed: bool
) -> PyTree[Array]:
    """`function(state)`, or `transpose(state)`.

    - `function`, `transpose`: pytrees, linear over what goes in.
    - `structs`: the shapes and dtypes of domain and codomain; the arrays of `state` have those dtypes.
    """
    leaves, treedef = jax.tree.flatten((function, transpose))
    rest = tuple(None if eqx.is_array(leaf) else leaf for leaf in leaves)
    flat, trees = zip(*((tuple(jax.tree.leaves(s)), jax.tree.structure(s)) for s in structs), strict=True)
    pair = _Pair(treedef, rest, flat, trees)
    pair = pair.turned if transposed else pair
    arrays = [leaf for leaf in leaves if eqx.is_array(leaf)]
    return jax.tree.unflatten(pair.trees[1], _bind(pair, *jax.tree.leaves(state), *arrays))


_primitive = Primitive("jaxinv_linear_pair")
_primitive.multiple_results = True


def _bind(pair: _Pair, *operands: Array) -> list[Array]:
    return _primitive.bind(*same_varying(*operands), pair=pair)


@_primitive.def_abstract_eval
def _(first: Any, *rest: Any, pair: _Pair) -> list[Any]:
    del rest
    return [first.update(shape=shape, dtype=dtype, weak_type=False) for shape, dtype in pair.shapes()]


_primitive.def_impl(functools.partial(xla.apply_primitive, _primitive))
mlir.register_lowering(_primitive, mlir.lower_fun(lambda *operands, pair: pair(*operands), multiple_results=True))


def _jvp(primals: Any, tangents: Any, *, pair: _Pair) -> tuple[list[Any], list[Any]]:
    (state, arrays), (along, moved) = pair.split(primals), pair.split(tangents)
    value = _bind(pair, *state, *arrays)
    terms = []
    if not all(isinstance(t, ad.Zero) for t in along):
        terms.append(_bind(pair, *map(ad.instantiate_zeros, along), *arrays))
    chosen = [i for i, t in enumerate(moved) if not isinstance(t, ad.Zero)]
    if chosen:

        def in_arrays(values: list[Array]) -> list[Array]:
            moving = list(arrays)
            for i, value in zip(chosen, values, strict=True):
                moving[i] = value
            return pair(*state, *moving)

        terms.append(jax.jvp(in_arrays, ([arrays[i] for i in chosen],), ([moved[i] for i in chosen],))[1])
    if not terms:
        return value, [ad.Zero(jax.typeof(v).to_tangent_aval()) for v in value]
    return value, jax.tree.map(lambda *parts: functools.reduce(jnp.add, parts), *terms)


def _transpose(cotangents: Any, *operands: Any, pair: _Pair) -> list[Any]:
    state, arrays = pair.split(operands)
    if all(isinstance(c, ad.Zero) for c in cotangents):
        return [*(ad.Zero(s.aval) for s in state), *(None for _ in arrays)]
    return [*_bind(pair.turned, *map(ad.instantiate_zeros, cotangents), *arrays), *(None for _ in arrays)]


def _batch(operands: Any, axes: Any, *, pair: _Pair) -> tuple[list[Array], list[int]]:
    size = next(o.shape[axis] for o, axis in zip(operands, axes, strict=True) if axis is not None)
    front = [o if axis is None else jnp.moveaxis(o, axis, 0) for o, axis in zip(operands, axes, strict=True)]
    state, arrays = pair.split(front)
    state_axes, array_axes = pair.split(axes)
    # The state has the axis of the problems even where all of them share it: the transpose then adds up over the
    # problems.
    state = [
        jnp.broadcast_to(s, (size, *s.shape)) if axis is None else s for s, axis in zip(state, state_axes, strict=True)
    ]
    level = (size, tuple(axis is not None for axis in array_axes))
    out = _bind(dataclasses.replace(pair, levels=(*pair.levels, level)), *state, *arrays)
    return out, [0] * len(out)


ad.primitive_jvps[_primitive] = _jvp
ad.primitive_transposes[_primitive] = _transpose
batching.primitive_batchers[_primitive] = _batch
